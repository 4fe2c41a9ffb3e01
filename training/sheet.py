"""Simulated sheets: graphene, its grain boundaries, and nets that only resemble it, with holes and contamination.

Lengths in Å, as in `training.specimen`; what leaves, the positions of the atoms, is (y, x) in nm.

Atoms under more than HIDING_ANGSTROM of contamination have no label and are not judged: there is more contrast of the
contamination than of the sheet above them, and a network that is to name them learns to continue a lattice it cannot
see. Under less, they are atoms as all others. Contamination itself is never labelled.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from training.honeycomb import Net, boundary, perfect, scattered, short_way
from training.specimen import Specimen
from training.support import uncrowded

Structure = Literal["perfect", "scattered", "boundary"]
IDEAL, BOUNDARY, EDGE = range(3)  # places of atoms, as in `facts.PLACES`
HIDING_ANGSTROM = 5.0
_STRUCTURES = {"perfect": perfect, "scattered": scattered, "boundary": boundary}


class SheetSettings(BaseModel):
    """What is drawn for every sheet; ranges are uniform unless said otherwise.

    Attributes
    ----------
    side_px : side of the (square, periodic) box in pixels of the exit wave.
    sampling_angstrom_px : size of a pixel before the mean bond is made 1.42 Å, which may change it by some percent.
    structures : which nets (`training.honeycomb`), each as likely as it is named often.
    holes : fewest and most, each 2 to 20 Å in radius (the logarithm uniform): the large ones are edges of the sheet.
    vacancies_per_nm2 : single atoms missing, at most, in half of the sheets.
    ripple_angstrom : rms height of the sheet.
    thermal_angstrom, disorder_angstrom : rms vibration, and rms displacement that stays, along each axis.
    contaminated_fraction : of all sheets, those with patches of amorphous carbon.
    empty_fraction : of all specimens, those without a sheet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sheet"] = "sheet"
    side_px: int = Field(320, ge=128, multiple_of=8)
    sampling_angstrom_px: tuple[float, float] = (0.18, 0.22)
    structures: tuple[Structure, ...] = Field(("perfect", "scattered"), min_length=1)
    holes: tuple[int, int] = (0, 4)
    vacancies_per_nm2: float = Field(0.2, ge=0)
    ripple_angstrom: tuple[float, float] = (0.0, 0.6)
    thermal_angstrom: tuple[float, float] = (0.04, 0.09)
    disorder_angstrom: tuple[float, float] = (0.0, 0.03)
    contaminated_fraction: float = Field(0.35, ge=0, le=1)
    empty_fraction: float = Field(0.04, ge=0, le=1)


def make_sheet(settings: SheetSettings, seed: int) -> Specimen:
    """Draw one sheet; the same settings and seed give the same atoms."""
    rng = np.random.default_rng([seed, 0x54EE7])
    side = settings.side_px * rng.uniform(*settings.sampling_angstrom_px)
    structure = settings.structures[rng.integers(len(settings.structures))]
    empty = rng.random() < settings.empty_fraction
    net = _STRUCTURES[structure](rng, side)
    side = net.side_angstrom
    there = np.zeros(len(net.xy_angstrom), bool) if empty else cut(rng, net, settings)
    place = places(net, there)[there]
    z = ripple(rng, net.xy_angstrom, side, rng.uniform(*settings.ripple_angstrom))
    sheet = np.column_stack([net.xy_angstrom, z])[there]
    sheet += rng.normal(0, rng.uniform(*settings.disorder_angstrom), sheet.shape)

    patches, cover = np.zeros((0, 3)), np.zeros(len(sheet))
    if rng.random() < (0.8 if empty else settings.contaminated_fraction):
        patches, cover = contaminate(rng, sheet[:, :2], side)
    atoms = np.concatenate([sheet, patches])
    low = atoms[:, 2].min() if len(atoms) else 0.0
    high = atoms[:, 2].max() if len(atoms) else 2.0
    atoms[:, 2] += 2.0 - low
    sheet = atoms[: len(sheet)]
    what = "vacuum" if empty else f"graphene, {structure}"
    return Specimen(
        numbers=np.full(len(atoms), 6),
        xyz_angstrom=atoms,
        box_angstrom=np.array([side, side, high - low + 4.0]),
        thermal_angstrom=float(rng.uniform(*settings.thermal_angstrom)),
        focus_z_angstrom=float(sheet[:, 2].mean()) if len(sheet) else (high - low + 4.0) / 2,
        column_yx_nm=sheet[:, 1::-1] / 10,
        column_atoms=np.where(cover > HIDING_ANGSTROM, 0, 1),
        kind=f"{what}, contaminated" if len(patches) else what,
        column_place=place,
        support_atoms=len(patches),
    )


def cut(rng: np.random.Generator, net: Net, settings: SheetSettings) -> np.ndarray:
    """Which atoms holes and vacancies leave, (n,) bool. A hole takes rings: no atom hangs by one bond at its rim."""
    kept_ring = np.ones(len(net.ring_xy_angstrom), bool)
    for _ in range(rng.integers(settings.holes[0], settings.holes[1] + 1)):
        radius = np.exp(rng.uniform(np.log(2.0), np.log(20.0)))
        kept_ring &= _depth(rng, net.ring_xy_angstrom, net.side_angstrom, radius) < 0
    there: np.ndarray = np.any(kept_ring[net.rings], axis=1)
    if rng.random() < 0.5:
        most = settings.vacancies_per_nm2 * (net.side_angstrom / 10) ** 2
        there[rng.integers(len(there), size=int(rng.uniform(0, most + 1)))] = False
    for _ in range(3):  # what hangs by one bond, or by none, is not there either
        there &= there[net.partners].sum(1) >= 2
    return there


def places(net: Net, there: np.ndarray) -> np.ndarray:
    """(n,) i8: EDGE where a bond is missing, BOUNDARY where one of an atom's rings is no hexagon, IDEAL elsewhere."""
    odd = (net.ring_size != 6)[net.rings].any(1)
    return np.where(~there[net.partners].all(1), EDGE, np.where(odd, BOUNDARY, IDEAL))


def ripple(rng: np.random.Generator, xy: np.ndarray, side_angstrom: float, rms_angstrom: float) -> np.ndarray:
    """Heights (n,) of a periodic, rolling surface, waves of a third of the box and longer."""
    waves = [(h, k) for h in range(-3, 4) for k in range(4) if (h, k) > (0, 0) and h * h + k * k <= 9]
    z = np.zeros(len(xy))
    for h, k in waves:
        phase = 2 * np.pi * (xy @ [h, k]) / side_angstrom + rng.uniform(0, 2 * np.pi)
        z += rng.normal() / (h * h + k * k) * np.cos(phase)
    return rms_angstrom * z / max(float(z.std()), 1e-9)


def contaminate(
    rng: np.random.Generator, xy: np.ndarray, side_angstrom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Patches of amorphous carbon on either face, and how thick they lie over atoms at xy (n, 2).

    Returns
    -------
    atoms, cover : (k, 3) positions, the sheet at z = 0, and (n,) in Å.
    """
    parts, cover = [], np.zeros(len(xy))
    for _ in range(rng.integers(1, 5)):
        radius, thick = np.exp(rng.uniform(np.log(4.0), np.log(22.0))), rng.uniform(2.0, 30.0)
        slope = rng.uniform(0.5, 4.0)  # the rim is not a cliff
        face = rng.choice([-1.0, 1.0])
        points = rng.uniform(
            0, [side_angstrom, side_angstrom, thick], (int(0.135 * side_angstrom**2 * thick), 3)
        )
        both = np.concatenate([points[:, :2], xy])
        height = np.clip(_depth(rng, both, side_angstrom, radius) * slope, 0, thick)
        inside = points[:, 2] < height[: len(points)]
        points[:, 2] = face * (points[:, 2] + 2.0)
        parts.append(points[inside])
        cover += height[len(points) :]
    atoms = np.concatenate(parts)
    return atoms[uncrowded(atoms)], cover


def _depth(rng: np.random.Generator, xy: np.ndarray, side_angstrom: float, radius: float) -> np.ndarray:
    """How far (n,) inside a blob of uneven outline, somewhere in a periodic square, points (n, 2) lie; < 0 outside."""
    step = short_way(xy - rng.uniform(0, side_angstrom, 2), side_angstrom)
    angle = np.arctan2(step[:, 1], step[:, 0])
    outline = np.ones(len(xy))
    for k in range(2, 6):
        outline += rng.normal(0, 0.3 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    return radius * np.maximum(outline, 0.2) - np.hypot(*step.T)
