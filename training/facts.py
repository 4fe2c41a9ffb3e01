"""What an exit wave does not say about its specimen: tilt, neighbours, support, found by drawing it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from training.exitwave import CacheError, ExitWave
from training.growth import ZoneAxis, lattice_constant_angstrom
from training.honeycomb import BOND_ANGSTROM
from training.kinds import SpecimenSettings, draw_specimen, make_specimen
from training.sheet import SheetSettings
from training.specimen import ParticleSettings, Specimen

PLACES = {"particle": ("bulk", "surface", "corner"), "sheet": ("ideal", "boundary", "edge")}
_NEIGHBOURS = {"100": 8, "110": 6, "111": 6}  # columns around a column of the bulk, within 1.5 spacings
# In units of the lattice constant: between neighbouring columns, and between the atoms of one.
_BETWEEN = {"100": 1 / 2, "110": np.sqrt(3 / 8), "111": 1 / np.sqrt(6)}
_ALONG = {"100": 1.0, "110": 1 / np.sqrt(2), "111": np.sqrt(3)}
_MOST_MOVED_NM = 0.05  # by relaxing and heat, half of the columns of a particle


@dataclass(frozen=True, slots=True)
class SpecimenFacts:
    """A specimen as an evaluation asks about it.

    Attributes
    ----------
    zone_axis, tilt_deg : of the particle; None and 0 where there is none.
    spacing_nm : between neighbouring columns; NaN without a particle.
    smear : by how much of that spacing the tilt draws out the tallest column: its length × tan(tilt) / spacing.
    column_yx_nm : (m, 2) f8, as in the exit wave.
    place : (m,) i8, index into PLACES of the kind. In a sheet: see `sheet.places`. In a particle, bulk: all
        neighbouring columns (within 1.5 spacings) are there, 8 for <100> and 6 for <110> and <111>. Corner: half of
        them or fewer. Surface: in between.
    support_nm : (m,) f8, distance to the nearest atom of a support or contamination, as seen along the beam; inf if
        there is none.
    support_yx_nm : (k, 2) f8, the atoms of the support.
    around : (m, k) i8, of each column the neighbours in whose middle it would be, had nothing displaced it, strained
        as a whole or not; -1 where there are no more. In a particle's lattice, three pairs of one across the other, or
        four: none at a surface, nor on the plane of a twin. In a sheet, three atoms evenly around.
    """

    zone_axis: ZoneAxis | None
    tilt_deg: float
    spacing_nm: float
    smear: float
    column_yx_nm: np.ndarray
    place: np.ndarray
    support_nm: np.ndarray
    support_yx_nm: np.ndarray
    around: np.ndarray


def specimen_facts(settings: SpecimenSettings, seed: int, wave: ExitWave | None = None) -> SpecimenFacts:
    """Draw the specimen of a seed again, and look at what its exit wave does not hold.

    A relaxed particle is not relaxed again where its exit wave is given: that says where its columns went.

    Raises
    ------
    CacheError
        If the wave is not of this specimen.
    """
    if wave is not None and isinstance(settings, ParticleSettings) and settings.relaxed:
        specimen = _with_columns(draw_specimen(settings, seed), wave)
    else:
        specimen = make_specimen(settings, seed)
    first = len(specimen.numbers) - specimen.support_atoms
    support_yx_nm = specimen.xyz_angstrom[first:, 1::-1] / 10
    zone = specimen.zone_axis
    spacing_nm, smear = float("nan"), 0.0
    if isinstance(settings, SheetSettings):
        spacing_nm = BOND_ANGSTROM / 10
    elif zone is not None:
        lattice_nm = lattice_constant_angstrom(settings.element) / 10
        spacing_nm = float(_BETWEEN[zone] * lattice_nm)
        tallest_nm = (specimen.column_atoms.max(initial=1) - 1) * _ALONG[zone] * lattice_nm
        smear = float(tallest_nm * np.tan(np.deg2rad(specimen.tilt_deg)) / spacing_nm)
    return SpecimenFacts(
        zone_axis=zone,
        tilt_deg=specimen.tilt_deg,
        spacing_nm=spacing_nm,
        smear=smear,
        column_yx_nm=specimen.column_yx_nm,
        place=specimen.column_place if isinstance(settings, SheetSettings) else _places(specimen, spacing_nm),
        support_nm=distance_nm(specimen.column_yx_nm, support_yx_nm, float(specimen.box_angstrom[0]) / 10),
        support_yx_nm=support_yx_nm,
        around=_three(specimen.column_yx_nm, spacing_nm)
        if isinstance(settings, SheetSettings)
        else _pairs(specimen.column_lattice_nm, spacing_nm),
    )


def distance_nm(yx_nm: np.ndarray, others_yx_nm: np.ndarray, side_nm: float) -> np.ndarray:
    """From each point (n, 2) to the nearest of others (k, 2), in a periodic square; (n,) f8, inf if there is none."""
    return nearest(yx_nm, others_yx_nm, side_nm)[0]


def nearest(yx_nm: np.ndarray, others_yx_nm: np.ndarray, side_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """`distance_nm`, and which of the others that is, (n,) i8; -1 if there is none."""
    if len(yx_nm) == 0 or len(others_yx_nm) == 0:
        return np.full(len(yx_nm), np.inf), np.full(len(yx_nm), -1)
    here, there = (
        np.mod(yx, side_nm) % side_nm for yx in (yx_nm, others_yx_nm)
    )  # twice: -1e-20 gives the side
    return cKDTree(there, boxsize=side_nm).query(here)


def displacements(yx: np.ndarray, around: np.ndarray, side: float) -> np.ndarray:
    """How far columns (n, 2) in a periodic square lie from the middle of their neighbours (`SpecimenFacts.around`).

    Returns
    -------
    (n, 2) f8, in the unit of the columns and of `side`; NaN where no neighbours are.
    """
    to = yx[around] - yx[:, None]
    to -= side * np.round(to / side)
    there = (around >= 0)[..., None]
    with np.errstate(invalid="ignore"):
        return -(to * there).sum(1) / there.sum(1)


def _with_columns(specimen: Specimen, wave: ExitWave) -> Specimen:
    """A specimen on its lattice sites with its columns where the exit wave has them."""
    same = np.array_equal(specimen.column_atoms, wave.column_atoms)
    if same and len(wave.column_atoms):
        moved_nm = np.hypot(*(specimen.column_yx_nm - wave.column_yx_nm).T)
        same = bool(np.median(moved_nm) < _MOST_MOVED_NM)
    if not same:
        raise CacheError(
            f"an exit wave ({wave.kind}) is not of the specimen drawn from its seed today ({specimen.kind}): expected "
            f"its {len(specimen.column_atoms)} columns, half of them within {_MOST_MOVED_NM} nm of their lattice "
            "sites; simulate the exit waves again (another --cache)"
        )
    return replace(specimen, column_yx_nm=wave.column_yx_nm)


def _places(specimen: Specimen, spacing_nm: float) -> np.ndarray:
    """Which of a particle's PLACES each column has; counted in the untilted crystal, where a tilt moves nothing."""
    if specimen.zone_axis is None:
        return np.zeros(0, np.int64)
    tree = cKDTree(specimen.column_lattice_nm)
    around = tree.query_ball_point(specimen.column_lattice_nm, 1.5 * spacing_nm, return_length=True) - 1
    full = _NEIGHBOURS[specimen.zone_axis]
    return np.where(around == full, 0, np.where(2 * around > full, 1, 2))


def _pairs(lattice_nm: np.ndarray, spacing_nm: float) -> np.ndarray:
    """`SpecimenFacts.around` of columns (m, 2) on their lattice sites."""
    around = np.full((len(lattice_nm), 8), -1)
    for k, (others, to) in enumerate(_near(lattice_nm, 1.5 * spacing_nm)):
        gap_nm = np.hypot(*np.moveaxis(to[:, None] + to[None, :], -1, 0))
        paired = others[(gap_nm < 0.01).any(1)]
        if len(paired) >= 6:
            around[k, : len(paired)] = paired
    return around


def _three(yx_nm: np.ndarray, bond_nm: float) -> np.ndarray:
    """`SpecimenFacts.around` of the atoms (m, 2) of a sheet."""
    around = np.full((len(yx_nm), 3), -1)
    for k, (others, to) in enumerate(_near(yx_nm, 1.3 * bond_nm)):
        if len(others) == 3 and np.hypot(*to.mean(0)) < bond_nm / 4:
            around[k] = others
    return around


def _near(yx_nm: np.ndarray, radius_nm: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each point which others lie within a radius, and the ways (k, 2) to them."""
    if len(yx_nm) == 0:
        return
    for k, near in enumerate(cKDTree(yx_nm).query_ball_point(yx_nm, radius_nm)):
        others = np.array([i for i in near if i != k], int)
        yield others, yx_nm[others] - yx_nm[k]
