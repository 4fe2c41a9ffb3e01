"""How an fcc particle grows, atom by atom on its lattice, and how its lattice lies in the beam.

Sites are integers: positions in units of half the lattice constant, of which i + j + k is even.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from ase.data import atomic_numbers, reference_states
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

ZoneAxis = Literal["100", "110", "111"]

# Rows are the image's x and y and the beam (z), as lattice directions of the cubic crystal.
_AXES = {
    "100": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "110": ((0, 0, 1), (1, -1, 0), (1, 1, 0)),
    "111": ((1, -1, 0), (1, 1, -2), (1, 1, 1)),
}
# Wulff-like distances of the facet families from the centre, relative to {111}.
_FACETS = {(1, 1, 1): 1.0, (1, 0, 0): 1.13, (1, 1, 0): 1.19}


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


def twin(rng: np.random.Generator, sites: np.ndarray) -> np.ndarray:
    """A particle's sites (n, 3) with a {111} twin plane near its middle, along the beam of a <110> zone axis.

    What lies below the plane is mirrored in a {112} plane, which takes the lattice to that of the twin and keeps the
    height of every atom. Atoms that then hold on to fewer than three others are left away.

    Returns
    -------
    (m, 3) i8 in units of a/6, of which the twin's positions are whole numbers.
    """
    normal, mirror = np.array([1, -1, 1]), np.array([-1, 1, 2])  # at right angles to each other and to [110]
    layer = sites @ normal // 2
    boundary = int(np.median(layer)) + rng.integers(-2, 3)
    in_it = sites[layer == boundary]
    middle = in_it[np.argmin(((in_it - sites.mean(0)) ** 2).sum(1))]
    across = np.where(layer < boundary, (sites - middle) @ mirror, 0)
    sites = 3 * sites - across[:, None] * mirror
    while True:
        held = cKDTree(sites).query_ball_point(sites, 3 * 1.5, return_length=True) - 1 >= 3
        if held.all():
            return sites
        sites = sites[held]


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


def _equivalent(family: tuple[int, int, int]) -> np.ndarray:
    """All directions of a cubic family, (n, 3)."""
    signs = np.stack(np.meshgrid(*[(-1, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    orders = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    return np.unique((np.array(family)[orders][:, None] * signs).reshape(-1, 3), axis=0)


def _neighbours(sites: np.ndarray) -> np.ndarray:
    """(n, 12) i8 indices of the nearest neighbours of each site, -1 where there is none."""
    distance, index = cKDTree(sites).query(sites, k=13, distance_upper_bound=1.5)
    return np.where(np.isfinite(distance), index, -1)[:, 1:]
