"""Simulated specimens: metal nanoparticles in a zone axis, in vacuum, on and beside supports.

Lengths are in Å here (the unit of ASE and abTEM); what leaves for the rest of the program, the
positions of the atomic columns, is (y, x) in nm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, reference_states
from pydantic import BaseModel, ConfigDict, Field
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from training.support import Slab, SupportKind, make_support

ZoneAxis = Literal["100", "110", "111"]

# Rows are the image's x and y and the beam (z), as lattice directions of the cubic crystal.
_AXES = {
    "100": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "110": ((0, 0, 1), (1, -1, 0), (1, 1, 0)),
    "111": ((1, -1, 0), (1, 1, -2), (1, 1, 1)),
}
# Wulff-like distances of the facet families from the centre, relative to {111}.
_FACETS = {(1, 1, 1): 1.0, (1, 0, 0): 1.13, (1, 1, 0): 1.19}


class ParticleSettings(BaseModel):
    """What is drawn for every particle; ranges are uniform unless said otherwise.

    Attributes
    ----------
    element : a face-centred cubic metal ("Au", "Pt", ...).
    side_px : side of the (square, periodic) box in pixels of the exit wave.
    sampling_angstrom_px : size of a pixel; drawn per specimen, it is the jitter of the magnification.
    diameter_angstrom : of the particle before roughening.
    tilt_deg : of the particle away from its zone axis.
    thermal_angstrom : rms vibration of an atom along each axis; it blurs the potential (Debye-Waller), for an exposure
        sees the average of very many vibrations.
    disorder_angstrom : rms displacement of an atom along each axis that stays.
    supports : which, each as likely as it is named often.
    support_fraction, empty_fraction : of all specimens, those with a support, and those without a particle.
    stirred_fraction : of the particles, those whose columns are taken away and added (`stir_columns`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["particle"] = "particle"
    element: str = "Au"
    zone_axes: tuple[ZoneAxis, ...] = ("100", "110", "111")
    side_px: int = Field(320, ge=64, multiple_of=8)
    sampling_angstrom_px: tuple[float, float] = (0.18, 0.22)
    diameter_angstrom: tuple[float, float] = (18.0, 46.0)
    tilt_deg: tuple[float, float] = (0.0, 5.0)
    thermal_angstrom: tuple[float, float] = (0.07, 0.11)
    disorder_angstrom: tuple[float, float] = (0.0, 0.03)
    supports: tuple[SupportKind, ...] = Field(("ceria", "titania", "carbon"), min_length=1)
    support_fraction: float = Field(0.7, ge=0, le=1)
    empty_fraction: float = Field(0.08, ge=0, le=1)
    stirred_fraction: float = Field(0.0, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class Specimen:
    """Atoms in a box, the beam along z, and the columns a network is to find.

    Attributes
    ----------
    numbers : (n,) i8, atomic numbers.
    xyz_angstrom : (n, 3) f8.
    box_angstrom : (3,) f8, periodic in x and y.
    thermal_angstrom : rms vibration of the atoms along each axis.
    focus_z_angstrom : height of the particle's middle, to which a defocus refers; the box's without a particle.
    column_yx_nm : (m, 2) f8, mean position of each particle column's atoms.
    column_atoms : (m,) i8, atoms in each; 0 where contamination hides it, and no one is to report it.
    kind : in words ("Au <110>, ceria beside").
    zone_axis, tilt_deg : along the beam, and how far from it; None and 0 without a particle.
    column_lattice_nm : (m, 2) f8, where each column is in the untilted, unturned crystal of a particle.
    column_place : (m,) i8, in a sheet, what is around each atom (`facts.PLACES`).
    support_atoms : how many of the atoms, the last ones, belong to a support or to contamination.
    """

    numbers: np.ndarray
    xyz_angstrom: np.ndarray
    box_angstrom: np.ndarray
    thermal_angstrom: float
    focus_z_angstrom: float
    column_yx_nm: np.ndarray
    column_atoms: np.ndarray
    kind: str
    zone_axis: ZoneAxis | None = None
    tilt_deg: float = 0.0
    column_lattice_nm: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    column_place: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    support_atoms: int = 0


def lattice_constant_angstrom(element: str) -> float:
    """Cubic lattice constant in Å from ASE's table.

    Raises
    ------
    ValueError
        If the element is unknown or not face-centred cubic.
    """
    state = reference_states[atomic_numbers[element]] if element in atomic_numbers else None
    if state is None or state["symmetry"] != "fcc":
        found = "no such element" if element not in atomic_numbers else f"{state and state['symmetry']}"
        raise ValueError(f"cannot build a particle of {element!r}: expected an fcc metal, got {found}")
    return float(state["a"])


def grow_particle(
    rng: np.random.Generator, lattice_angstrom: float, diameter_angstrom: float
) -> tuple[np.ndarray, np.ndarray]:
    """An fcc particle: cut along {100}, {110}, {111}, then roughened atom by atom (000 section 4.1, eq. 9).

    Every facet keeps a random number of layers. Atoms are then added one at a time at free crystal
    sites i with at least three neighbours, with probability exp(n_i / T) / Σ_j exp(n_j / T), n the number
    of occupied neighbours and T drawn per particle.

    Returns
    -------
    sites, occupied : (n, 3) i8 lattice positions in units of a/2 (i + j + k even), and their (n,) bool.
    """
    half = lattice_angstrom / 2
    radius = diameter_angstrom / 2 / half
    reach = int(np.ceil(radius * 1.1)) + 3
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    sites = grid[(grid.sum(1) % 2 == 0) & ((grid**2).sum(1) <= (reach + 0.5) ** 2)]

    centre = rng.uniform(-0.5, 0.5, 3)
    occupied = np.ones(len(sites), bool)
    for family, relative in _FACETS.items():
        for normal in _equivalent(family):
            layers = rng.uniform(-1.5, 1.0) if rng.random() < 0.5 else 0.0
            layer = (2.0 if family == (1, 0, 0) else 1.0) / np.linalg.norm(family)
            distance = radius * relative * 0.93 + layers * layer
            occupied &= (sites - centre) @ normal / np.linalg.norm(normal) <= distance

    neighbours = _neighbours(sites)
    coordination = np.where(neighbours >= 0, occupied[neighbours], False).sum(1)
    surface = np.count_nonzero(occupied & (coordination < 12))
    temperature = rng.uniform(0.3, 2.0)
    for _ in range(int(surface * rng.uniform(0.0, 0.25))):
        free = np.flatnonzero(~occupied & (coordination >= 3))
        weight = np.exp((coordination[free] - 12) / temperature)
        chosen = free[rng.choice(len(free), p=weight / weight.sum())]
        occupied[chosen] = True
        touched = neighbours[chosen]
        coordination[touched[touched >= 0]] += 1
    return sites, occupied


def stir_columns(
    rng: np.random.Generator, sites: np.ndarray, occupied: np.ndarray, zone_axis: ZoneAxis
) -> np.ndarray:
    """Whole columns taken away and added, as on a surface whose columns hop: what growth hardly makes.

    A column of the rim goes with a probability drawn per particle, one of the inside seldom; beside what is
    left, short columns appear, also with a single neighbour. So the network sees vacancies, kinks, adatom
    columns and gaps in a rim, and cannot fill in a lattice it has merely continued.

    Returns
    -------
    (n,) bool, the sites occupied now.
    """
    occupied = occupied.copy()
    column = columns_of(sites, zone_axis)
    count = column.max() + 1
    rows = np.array(_AXES[zone_axis], float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    place = np.zeros((count, 2))
    place[column] = sites @ rows[:2].T
    nearest = cKDTree(place).query(place[: min(count, 50)], 2)[0][:, 1].min()
    pairs = cKDTree(place).query_pairs(1.25 * nearest, output_type="ndarray")

    def partners(there: np.ndarray) -> np.ndarray:
        return np.bincount(pairs[:, 0], there[pairs[:, 1]], count) + np.bincount(
            pairs[:, 1], there[pairs[:, 0]], count
        )

    there = np.bincount(column, occupied, count) > 0
    full = partners(np.ones(count)).max()
    rim = there & (partners(there) < full)
    gone = rim & (rng.random(count) < rng.uniform(0.0, 0.5))
    gone |= there & ~rim & (rng.random(count) < rng.choice([0.0, 0.01, 0.03]))
    occupied[gone[column]] = False

    there &= ~gone
    beside = partners(there)
    new = ~there & (beside > 0) & (rng.random(count) < rng.uniform(0.0, 0.3))
    middle = np.median(sites[occupied] @ rows[2]) if occupied.any() else 0.0
    for c in np.flatnonzero(new):
        mine = np.flatnonzero(column == c)
        depth = np.abs(sites[mine] @ rows[2] - middle - rng.normal(0, 1.0))
        occupied[mine[np.argsort(depth)[: rng.integers(2, 7)]]] = True
    return occupied


def columns_of(sites: np.ndarray, zone_axis: ZoneAxis) -> np.ndarray:
    """Number of the column along the zone axis to which each lattice site belongs, (n,) i8."""
    in_plane = sites @ np.array(_AXES[zone_axis][:2]).T  # integers: the same for all atoms of a column
    return np.unique(in_plane, axis=0, return_inverse=True)[1].reshape(-1)


def zone_rotation(
    zone_axis: ZoneAxis, in_plane_rad: float, tilt_rad: float, tilt_azimuth_rad: float
) -> Rotation:
    """Turn a cubic crystal's zone axis along the beam, then around it, then tilt it away."""
    rows = np.array(_AXES[zone_axis], float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if np.linalg.det(rows) < 0:
        rows[1] *= -1
    axis = np.array([np.cos(tilt_azimuth_rad), np.sin(tilt_azimuth_rad), 0.0])
    spin = Rotation.from_rotvec([0, 0, in_plane_rad])
    return Rotation.from_rotvec(tilt_rad * axis) * spin * Rotation.from_matrix(rows)


def make_particle(settings: ParticleSettings, seed: int) -> Specimen:
    """Draw one particle; the same settings and seed give the same atoms."""
    rng = np.random.default_rng([seed, 0x5EC])
    sampling = rng.uniform(*settings.sampling_angstrom_px)
    side = settings.side_px * sampling
    number = atomic_numbers[settings.element]

    supported = rng.random() < settings.support_fraction
    empty = rng.random() < settings.empty_fraction
    kind, xyz, column = "vacuum", np.zeros((0, 3)), np.zeros(0, int)
    zone, tilt_deg, in_lattice = None, 0.0, np.zeros((0, 2))
    if not empty:
        zone = settings.zone_axes[rng.integers(len(settings.zone_axes))]
        lattice = lattice_constant_angstrom(settings.element)
        sites, occupied = grow_particle(rng, lattice, rng.uniform(*settings.diameter_angstrom))
        if rng.random() < settings.stirred_fraction:
            occupied = stir_columns(rng, sites, occupied, zone)
        in_plane_rad, tilt_deg = rng.uniform(0, 2 * np.pi), rng.uniform(*settings.tilt_deg)
        turn = zone_rotation(zone, in_plane_rad, np.deg2rad(tilt_deg), rng.uniform(0, 2 * np.pi))
        column = columns_of(sites, zone)[occupied]
        xyz = turn.apply(sites[occupied] * lattice / 2)
        upright = zone_rotation(zone, 0.0, 0.0, 0.0)
        in_lattice = upright.apply(sites[occupied] * lattice / 2)[:, :2] / 10
        xyz -= (xyz.max(0) + xyz.min(0)) / 2
        kind = f"{settings.element} <{zone}>"
    else:
        supported = supported or rng.random() < 0.8

    slab = None
    if supported:
        support = settings.supports[rng.integers(len(settings.supports))]
        slab, keep = _place_support(rng, support, xyz, side, empty)
        xyz, column, in_lattice = xyz[keep], column[keep], in_lattice[keep]
        kind += f", {slab.kind}"

    numbers = np.full(len(xyz), number)
    atoms = xyz if slab is None else np.concatenate([xyz, slab.xyz_angstrom])
    if slab is not None:
        numbers = np.concatenate([numbers, slab.numbers])
    atoms = atoms + rng.normal(0, rng.uniform(*settings.disorder_angstrom), atoms.shape)

    low = atoms[:, 2].min() if len(atoms) else 0.0
    high = atoms[:, 2].max() if len(atoms) else 4.0
    offset = np.array([side / 2, side / 2, 2.0 - low])
    offset[:2] += rng.uniform(-0.06, 0.06, 2) * side
    atoms = atoms + offset
    particle = atoms[: len(xyz)]
    _, first, index, counts = np.unique(column, return_index=True, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    mean_xy = (
        np.stack([np.bincount(index, particle[:, i], len(counts)) for i in (0, 1)], -1) / counts[:, None]
    )
    return Specimen(
        numbers=numbers,
        xyz_angstrom=atoms,
        box_angstrom=np.array([side, side, high - low + 4.0]),
        thermal_angstrom=float(rng.uniform(*settings.thermal_angstrom)),
        focus_z_angstrom=float(particle[:, 2].mean()) if len(particle) else (high - low + 4.0) / 2,
        column_yx_nm=mean_xy[:, ::-1] / 10,
        column_atoms=counts.astype(np.int64),
        kind=kind,
        zone_axis=zone,
        tilt_deg=tilt_deg,
        column_lattice_nm=in_lattice[first],
        support_atoms=0 if slab is None else len(slab.numbers),
    )


def _place_support(rng, support: SupportKind, particle, side, empty) -> tuple[Slab, np.ndarray]:
    """A slab beside the particle or under it (in the beam), and which particle atoms it leaves."""
    keep = np.ones(len(particle), bool)
    thickness = rng.uniform(12, 45)
    if empty or rng.random() < 0.65:
        angle = rng.uniform(0, 2 * np.pi)
        outward = np.array([np.cos(angle), np.sin(angle)])
        depth = particle[:, :2] @ outward
        edge = rng.uniform(-0.4, 0.4) * side if empty else depth.max() * rng.uniform(0.3, 0.95)
        keep = depth <= edge
        centre_z = rng.uniform(-8, 8)
        slab = make_support(
            support, rng, side, (centre_z - thickness / 2, centre_z + thickness / 2), outward, edge + 2.2
        )
        return slab._replace(kind=f"{slab.kind} beside"), keep
    thickness *= 0.6
    bottom = particle[:, 2].max() + 2.2 if rng.random() < 0.5 else particle[:, 2].min() - 2.2 - thickness
    outward, edge = np.array([1.0, 0.0]), -side
    if rng.random() < 0.5:  # the support ends somewhere in the picture
        angle = rng.uniform(0, 2 * np.pi)
        outward, edge = np.array([np.cos(angle), np.sin(angle)]), rng.uniform(-0.4, 0.1) * side
    slab = make_support(support, rng, side, (bottom, bottom + thickness), outward, edge)
    return slab._replace(kind=f"{slab.kind} under"), keep


def _equivalent(family: tuple[int, int, int]) -> np.ndarray:
    """All directions of a cubic family, (n, 3)."""
    signs = np.stack(np.meshgrid(*[(-1, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    orders = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    return np.unique((np.array(family)[orders][:, None] * signs).reshape(-1, 3), axis=0)


def _neighbours(sites: np.ndarray) -> np.ndarray:
    """(n, 12) i8 indices of the nearest neighbours of each site, -1 where there is none."""
    distance, index = cKDTree(sites).query(sites, k=13, distance_upper_bound=1.5)
    return np.where(np.isfinite(distance), index, -1)[:, 1:]
