"""What an exit wave does not say about its specimen: tilt, neighbours, support, found by drawing it again."""

from __future__ import annotations

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
    """

    zone_axis: ZoneAxis | None
    tilt_deg: float
    spacing_nm: float
    smear: float
    column_yx_nm: np.ndarray
    place: np.ndarray
    support_nm: np.ndarray
    support_yx_nm: np.ndarray


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


def displacements(yx: np.ndarray, spacing: float) -> np.ndarray:
    """How far points (n, 2) lie from where their neighbours have them; (n, 2) f8, in the unit of the points.

    Neighbours lie within 1.6 spacings, and each has another across, to a quarter of a spacing: the middle of three such
    pairs or more is where a crystal has the point, strained or not. In a honeycomb it is the middle of three neighbours
    that lie evenly around. NaN where there is neither: at a surface, on the plane of a twin.
    """
    away = np.full((len(yx), 2), np.nan)
    if len(yx) < 2 or not np.isfinite(spacing):
        return away
    for k, near in enumerate(cKDTree(yx).query_ball_point(yx, 1.6 * spacing)):
        to = yx[[i for i in near if i != k]] - yx[k]
        gap = np.hypot(*np.moveaxis(to[:, None] + to[None, :], -1, 0))
        across = (gap < spacing / 4).any(1)
        if np.count_nonzero(across) >= 6:
            away[k] = -to[across].mean(0)
        elif len(to) == 3 and np.hypot(*to.mean(0)) < spacing / 4:
            away[k] = -to.mean(0)
    return away


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
