"""Crystals as STEM shows them: atomic columns in a picture, each with what it scatters and its class.

Lengths are in pixels of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, field_validator
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from training.lattices import LATTICES, closest, elements_of

Range = tuple[float, float]
METAL, CHALCOGEN, METAL_DEFECT, CHALCOGEN_DEFECT = 1, 2, 3, 4  # of a monolayer; other crystals' are all 1
MONOLAYER_CLASSES = ("metal", "chalcogen", "metal-site-defect", "chalcogen-site-defect")
LEAST_DIFFERENCE = 0.15  # of a column's scattering; a dopant that changes less is no defect anyone can see
_CHALCOGENS = ("S", "Se", "Te")
_STRONG = 0.25  # of the strongest column's scattering: the columns whose spacing is meant


class LatticeSettings(BaseModel):
    """What is drawn for every specimen.

    Attributes
    ----------
    names : of LATTICES, each as likely as it is named often; all with a true scale, or none.
    dopants : elements that take an atom's place.
    spacing_px : between nearest strong columns, where the scale is free; uniform in its logarithm.
    strain : largest change of a length, of the cell as a whole.
    disorder_spacings : rms displacement of a column that stays, in spacings.
    vacancies, substitutions : largest share of the atoms that are missing, or are others. Half of the specimens have
        next to none.
    boundary_fraction : of the specimens, those of two grains.
    rim_fraction : those that end within the picture: an edge, a particle, holes.
    second_layer_fraction : of monolayers, those with a second layer on a part.
    empty_fraction : those without a crystal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] = Field(("fcc100", "fcc110", "fcc111"), min_length=1)
    dopants: tuple[str, ...] = ("Ti", "V", "Nb", "Mo")
    spacing_px: Range = (8.0, 24.0)
    strain: float = Field(0.03, ge=0, le=0.1)
    disorder_spacings: Range = (0.0, 0.03)
    vacancies: float = Field(0.05, ge=0, le=0.5)
    substitutions: float = Field(0.08, ge=0, le=0.5)
    boundary_fraction: float = Field(0.15, ge=0, le=1)
    rim_fraction: float = Field(0.35, ge=0, le=1)
    second_layer_fraction: float = Field(0.0, ge=0, le=1)
    empty_fraction: float = Field(0.04, ge=0, le=1)

    @field_validator("names")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in LATTICES:
                raise ValueError(f"there is no lattice {name!r}: expected one of {', '.join(LATTICES)}")
        if len({LATTICES[name].constant_angstrom is None for name in names}) > 1:
            raise ValueError(
                "some of these lattices have a true scale and some have none: keep to one of the two"
            )
        return names

    @property
    def true_scale(self) -> bool:
        """Whether the specimens have a scale in nm."""
        return LATTICES[self.names[0]].constant_angstrom is not None


@dataclass(frozen=True, slots=True)
class Crystal:
    """Columns in a picture, undistorted: yx_px (n, 2) f8, what they scatter (n,) f8, classes (n,) u1."""

    name: str
    spacing_px: float
    yx_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0))
    kind: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))


def make_crystal(
    settings: LatticeSettings,
    rng: np.random.Generator,
    exponent: float,
    side_px: int,
    angstrom_px: float,
    spacing_scale: float = 1.0,
) -> Crystal:
    """Draw one crystal that covers a square picture, or a part of it.

    Parameters
    ----------
    exponent : n of what an atom scatters, Z^n.
    side_px, angstrom_px : of the picture and its pixels.
    spacing_scale : multiplies `spacing_px`, for pictures with other pixels than the engine's.
    """
    name = str(rng.choice(settings.names))
    lattice = LATTICES[name]
    cell = np.array(lattice.vectors)
    atoms = elements_of(lattice, rng)
    scattered = np.array([sum(float(z) ** exponent for z in column) for column in atoms])
    place = np.array([site[:2] for site in lattice.sites]) @ cell
    strong = scattered >= (0 if settings.true_scale else _STRONG * scattered.max())
    unit = closest(place[strong], cell)  # spacing in lattice constants
    if lattice.constant_angstrom is None:
        spacing = float(np.exp(rng.uniform(*np.log(settings.spacing_px)))) * spacing_scale
    else:
        spacing = unit * lattice.constant_angstrom / angstrom_px
    if rng.random() < settings.empty_fraction:
        return Crystal("empty", spacing)

    cell, place = cell * spacing / unit, place * spacing / unit
    stretch = np.eye(2) + rng.uniform(-settings.strain, settings.strain, (2, 2)) / 2
    grains = [
        _grain(cell @ stretch, place @ stretch, rng, side_px)
        for _ in range(1 + (rng.random() < settings.boundary_fraction))
    ]
    yx, site = _joined(grains, rng, side_px, 0.7 * closest(place, cell))
    yx = yx + _bent(yx, rng, side_px, 0.1 * spacing)
    yx = yx + rng.normal(0, rng.uniform(*settings.disorder_spacings) * spacing, yx.shape)
    there = np.ones(len(yx), bool)
    height = np.ones(len(yx))
    if rng.random() < settings.rim_fraction:
        depth = _depth(yx, rng, side_px)
        there = depth > 0
        if not settings.true_scale:  # particles are thin at their rims
            height = np.clip(depth / (spacing * rng.uniform(0.5, 6)), 0.1, 1) ** rng.uniform(0.5, 1.5)
    if not settings.true_scale:
        height = height * _sampled(_clouds(rng, side_px, 0.4), yx, side_px)
    yx, site, height = yx[there], site[there], height[there]
    weight, changed = _with_defects(settings, rng, atoms, site, exponent)
    kind = np.ones(len(yx), np.uint8)
    if settings.true_scale:
        kind = (np.where(changed, METAL_DEFECT, METAL) + site).astype(np.uint8)
        if rng.random() < settings.second_layer_fraction:
            weight, kind = _second_layer(rng, yx, site, weight, kind, scattered, side_px)
    kept = weight > 0
    return Crystal(name, spacing, yx[kept], (weight * height)[kept] / scattered.max(), kind[kept])


def _with_defects(settings, rng, atoms, site, exponent) -> tuple[np.ndarray, np.ndarray]:
    """What every column scatters, and whether it visibly is another one than its site's.

    An atom is missing or is another; where the crystal is thick, this stands for some of the atoms of a column.
    """
    most = max(len(column) for column in atoms)
    numbers = np.array([np.pad(column, (0, most - len(column))) for column in atoms])[site]
    perfect = (numbers.astype(float) ** exponent).sum(1)
    few = 0.05 if rng.random() < 0.5 else 1.0
    draw = rng.random(numbers.shape)
    gone = few * rng.uniform(0, settings.vacancies)
    other = few * rng.uniform(0, settings.substitutions)
    if settings.dopants:
        guest = _guests(settings, rng, site, numbers)
        swapped = (draw > 1 - other) & (numbers > 0)
        numbers = np.where(swapped, guest, numbers)
    if settings.true_scale:  # a metal atom is missing far more seldom than a chalcogen
        draw = np.where((site == 0)[:, None], 5 * draw, draw)
    # two atoms of a column go together more often than chance would have it: a vacancy of both
    together = (draw.min(1, keepdims=True) < gone) & (rng.random((len(site), 1)) < 0.3)
    numbers = np.where((draw < gone) | together, 0, numbers)
    weight = (numbers.astype(float) ** exponent).sum(1)
    return weight, np.abs(weight / perfect - 1) >= LEAST_DIFFERENCE


def _guests(settings, rng, site, numbers) -> np.ndarray:
    """What may take every atom's place: a dopant; in a monolayer a chalcogen's is mostly taken by another one."""

    def drawn(symbols: tuple[str, ...]) -> np.ndarray:
        return np.array([atomic_numbers[s] for s in symbols])[rng.integers(len(symbols), size=numbers.shape)]

    dopant = drawn(settings.dopants)
    if not settings.true_scale:
        return dopant
    antisite = rng.random(numbers.shape) < 0.1
    return np.where((site == 0)[:, None] ^ antisite, dopant, drawn(_CHALCOGENS))


def _second_layer(rng, yx, site, weight, kind, scattered, side_px):
    """A second layer turned by half a turn, metal over chalcogen, on one side of a line."""
    direction = rng.normal(size=2)
    over = (yx - side_px * rng.uniform(0.2, 0.8, 2)) @ direction > 0
    weight = weight + np.where(over, scattered[1 - site], 0.0)
    return weight, np.where(over, METAL, kind).astype(np.uint8)


def _grain(cell: np.ndarray, place: np.ndarray, rng, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns (n, 2) of one orientation that cover the picture, and their sites (n,)."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn[:, 0] *= -1
    cell, place = cell @ turn, place @ turn
    corners = np.array([[0, 0], [0, side_px], [side_px, 0], [side_px, side_px]]) - side_px / 2
    reach = np.ceil(np.abs(corners @ np.linalg.inv(cell)).max(0)).astype(int) + 2
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 2)
    yx = (steps @ cell)[:, None] + place + side_px / 2 + rng.uniform(0, 1, 2) @ cell
    site = np.broadcast_to(np.arange(len(place)), yx.shape[:2])
    inside = ((yx > -0.5) & (yx < side_px - 0.5)).all(-1)
    return yx[inside], site[inside]


def _joined(grains, rng, side_px: int, least_px: float) -> tuple[np.ndarray, np.ndarray]:
    """One grain as it is; two on either side of a line, where columns too near to each other go."""
    if len(grains) == 1:
        return grains[0]
    direction = rng.normal(size=2)
    origin = side_px * rng.uniform(0.25, 0.75, 2)
    sides = [(yx - origin) @ direction > 0 for yx, _ in grains]
    kept = [sides[0], ~sides[1]]
    yx = np.concatenate([yx[k] for (yx, _), k in zip(grains, kept, strict=True)])
    site = np.concatenate([site[k] for (_, site), k in zip(grains, kept, strict=True)])
    alone = np.ones(len(yx), bool)
    for i, j in cKDTree(yx).query_pairs(least_px):
        if alone[i] and alone[j]:
            alone[max(i, j)] = False
    return yx[alone], site[alone]


def _bent(yx: np.ndarray, rng, side_px: int, most_px: float) -> np.ndarray:
    """A slowly varying displacement, as a bent or strained crystal has."""
    wave = rng.normal(size=(2, 2)) * np.pi / side_px
    phase = rng.uniform(0, 2 * np.pi, 2)
    return rng.uniform(0, most_px, 2) * np.sin(yx @ wave + phase)


def _depth(yx: np.ndarray, rng, side_px: int) -> np.ndarray:
    """How deep within the crystal each place lies, in pixels: inside some planes, outside of some holes."""
    depth = np.full(len(yx), np.inf)
    angles = rng.uniform(0, 2 * np.pi) + np.arange(rng.choice([1, 2, 5, 6, 8])) * rng.uniform(0.6, 1.3)
    centre = side_px * rng.uniform(0.3, 0.7, 2)
    for angle in angles:
        outward = np.array([np.sin(angle), np.cos(angle)])
        depth = np.minimum(depth, side_px * rng.uniform(0.15, 0.5) - (yx - centre) @ outward)
    for _ in range(rng.choice([0, 0, 1, 3])):
        hole = np.hypot(*(yx - side_px * rng.random(2)).T) - side_px * rng.uniform(0.02, 0.2)
        depth = np.minimum(depth, hole)
    return depth


def _clouds(rng, side_px: int, most: float) -> np.ndarray:
    """A slowly varying field (16, 16), 1 on average, to be spread over the picture."""
    field = gaussian_filter(rng.normal(size=(16, 16)), rng.uniform(2, 5), mode="reflect")
    return 1 + rng.uniform(0, most) * field / (np.abs(field).max() + 1e-12)


def _sampled(field: np.ndarray, yx: np.ndarray, side_px: int) -> np.ndarray:
    y, x = np.clip(np.rint(yx / side_px * (len(field) - 1)).astype(int), 0, len(field) - 1).T
    return field[y, x]
