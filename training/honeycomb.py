"""Nets of threefold carbon in a periodic square: honeycombs, crystals that meet, and what only resembles them.

Every net is made from the middles of its rings (`seeds`): a Voronoi diagram's corners are the atoms, its borders the
bonds, and each atom has three of each (Madsen et al. 2018, fig. 4). Triangular seeds give graphene, scattered ones
something like it. Lengths in Å, positions (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.spatial import Delaunay, cKDTree

BOND_ANGSTROM = 1.42
_BETWEEN_RINGS = np.sqrt(3) * BOND_ANGSTROM
_LATTICE = _BETWEEN_RINGS * np.array([[1.0, 0.0], [0.5, np.sqrt(3) / 2]])  # rows a1, a2
_MARGIN = 4 * _BETWEEN_RINGS  # no ring is larger
_BEND = 0.21  # of an angle's stiffness to a bond's: 5.5 and 26 eV/Å² (Jain et al., J. Phys. Chem. C 119, 9646 (2015))


@dataclass(frozen=True, slots=True)
class Net:
    """Atoms, bonds and rings.

    Attributes
    ----------
    side_angstrom : of the periodic square.
    xy_angstrom : (n, 2) f8 atoms.
    partners : (n, 3) i8, the atoms each is bonded to.
    rings : (n, 3) i8, the rings that meet in each atom.
    ring_xy_angstrom : (k, 2) f8, the rings' seeds.
    """

    side_angstrom: float
    xy_angstrom: np.ndarray
    partners: np.ndarray
    rings: np.ndarray
    ring_xy_angstrom: np.ndarray

    @property
    def ring_size(self) -> np.ndarray:
        """(k,) i8, atoms in each ring."""
        return np.bincount(self.rings.ravel(), minlength=len(self.ring_xy_angstrom))

    def bonds(self) -> np.ndarray:
        """(n, 3, 2) f8, from each atom to its partners, the short way round."""
        return short_way(self.xy_angstrom[self.partners] - self.xy_angstrom[:, None], self.side_angstrom)

    def scaled(self) -> Net:
        """The same with a mean bond of BOND_ANGSTROM; the square grows or shrinks with it."""
        scale = BOND_ANGSTROM / np.linalg.norm(self.bonds(), axis=-1).mean()
        return Net(
            self.side_angstrom * scale,
            self.xy_angstrom * scale,
            self.partners,
            self.rings,
            self.ring_xy_angstrom * scale,
        )


def short_way(step: np.ndarray, side_angstrom: float) -> np.ndarray:
    """Differences of positions in a periodic square, each the shortest."""
    return step - side_angstrom * np.round(step / side_angstrom)


def perfect(rng: np.random.Generator, side_angstrom: float) -> Net:
    """Graphene, turned at random and strained by what fits it into the square: 1 % or so, differently along x and y."""
    along = _nearest_site(side_angstrom * _unit(rng.uniform(0, np.pi / 3)))
    up = _nearest_site(side_angstrom * _unit(np.pi / 2 + np.arctan2(*(along @ _LATTICE)[::-1])))
    count = along[0] * up[1] - along[1] * up[0]
    reach = 2 * int(side_angstrom / _BETWEEN_RINGS)
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    place = np.stack([i * up[1] - j * up[0], j * along[0] - i * along[1]], -1).reshape(-1, 2)  # × count
    seeds = place[((place >= 0) & (place < count)).all(1)] / count * side_angstrom
    return net_of(seeds + rng.uniform(0, side_angstrom, 2), side_angstrom).scaled()


def scattered(rng: np.random.Generator, side_angstrom: float) -> Net:
    """Rings of four to nine atoms: points no nearer than a distance, a few steps of Lloyd, a little relaxed."""
    darts = rng.uniform(0, side_angstrom, (int(20 * (side_angstrom / _BETWEEN_RINGS) ** 2), 2))
    seeds = _no_nearer(darts, 0.73 * _BETWEEN_RINGS, side_angstrom)
    net = net_of(seeds, side_angstrom)
    for _ in range(rng.integers(2, 8)):
        net = _lloyd(net, np.ones(len(net.ring_xy_angstrom), bool))
    return relaxed(net.scaled(), steps=int(rng.integers(6, 20))).scaled()


def boundary(rng: np.random.Generator, side_angstrom: float, least_turn_deg: float = 6.0) -> Net:
    """Two crystals of graphene, turned against each other, that meet along two rough lines; relaxed.

    Rings along the lines are moved as Lloyd does, which makes pentagons and heptagons of them, as in real boundaries
    (Ophus et al., Phys. Rev. B 92, 205402 (2015)).
    """
    turns = _lattices_along_y(side_angstrom)
    while True:
        one, other = rng.choice(len(turns), 2)
        apart = np.rad2deg(abs(turns[one][0] - turns[other][0])) % 60
        if min(apart, 60 - apart) >= least_turn_deg:
            break
    y_terms = [(k, rng.normal(0, 1.5), rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)]
    left, width = rng.uniform(0, side_angstrom), rng.uniform(0.35, 0.65) * side_angstrom
    parts = []
    for inside, (turn, scale) in ((True, turns[one]), (False, turns[other])):
        points = _crystal(side_angstrom, turn, scale) + rng.uniform(0, side_angstrom, 2)
        points = points[(points[:, 1] >= 0) & (points[:, 1] < side_angstrom)]
        rough = sum(
            a * np.sin(2 * np.pi * k * points[:, 1] / side_angstrom + phase) for k, a, phase in y_terms
        )
        x = points[:, 0] - left - rough
        first, last = (0, width) if inside else (width, side_angstrom)
        parts.append(points[(x >= first) & (x < last)])
    seeds = _no_nearer(np.concatenate(parts) % side_angstrom, 0.68 * _BETWEEN_RINGS, side_angstrom)
    net = net_of(seeds, side_angstrom)
    for _ in range(12):
        odd = net.ring_size != 6
        near = np.zeros(len(odd), bool)
        near[net.rings[odd[net.rings].any(1)].ravel()] = True  # odd rings and their neighbours
        net = _lloyd(net, near)
    return relaxed(net.scaled(), steps=500).scaled()


def net_of(seeds: np.ndarray, side_angstrom: float) -> Net:
    """The Voronoi diagram of seeds (k, 2) in a periodic square, as atoms, bonds and rings.

    Raises
    ------
    ValueError
        If the seeds leave gaps in which no net of threefold atoms closes.
    """
    seeds = seeds % side_angstrom
    shifts = side_angstrom * np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 1, 2)
    points = (seeds + shifts).reshape(-1, 2)
    original = np.tile(np.arange(len(seeds)), 9)
    near = ((points > -_MARGIN) & (points < side_angstrom + _MARGIN)).all(1)
    points, original = points[near], original[near]
    corners = Delaunay(points).simplices
    middle = _circumcentres(points[corners])
    inside = ((middle > -0.5) & (middle < side_angstrom + 0.5)).all(1)
    rings, first = np.unique(np.sort(original[corners[inside]], 1), axis=0, return_index=True)
    # two atoms are bonded where they have two rings in common
    sides = np.concatenate([rings[:, [0, 1]], rings[:, [1, 2]], rings[:, [0, 2]]])
    order = np.lexsort(sides.T)
    one, other = sides[order[0::2]], sides[order[1::2]]
    if len(rings) != 2 * len(seeds) or (one != other).any():
        raise ValueError(
            f"{len(seeds)} rings make no closed net: expected {2 * len(seeds)} atoms, got {len(rings)}; "
            "their seeds leave a gap, or the square is too small"
        )
    one, other = (order % len(rings)).reshape(-1, 2).T
    atoms, mates = np.concatenate([one, other]), np.concatenate([other, one])
    partners = mates[np.argsort(atoms, kind="stable")].reshape(-1, 3)
    return Net(side_angstrom, middle[inside][first] % side_angstrom, partners, rings, seeds)


def relaxed(net: Net, steps: int) -> Net:
    """The atoms moved in the plane to lower Keating's energy of bonds and angles, at most `steps` of L-BFGS.

    E = Σ_bonds (r² - d²)² + 2 β/α Σ_angles (r₁ · r₂ + d²/2)², d the ideal bond (Keating, Phys. Rev. 145, 637 (1966)).
    """
    side, partners, d2 = net.side_angstrom, net.partners, BOND_ANGSTROM**2
    first, second = np.array([0, 1, 2]), np.array([1, 2, 0])

    def energy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        xy = flat.reshape(-1, 2)
        step = short_way(xy[partners] - xy[:, None], side)
        stretch = (step**2).sum(-1) - d2
        bend = (step[:, first] * step[:, second]).sum(-1) + d2 / 2
        slope = 2 * stretch[..., None] * step  # every bond is met twice: half of 4
        slope[:, first] += 4 * _BEND * bend[..., None] * step[:, second]
        slope[:, second] += 4 * _BEND * bend[..., None] * step[:, first]
        force = -slope.sum(1)
        for axis in (0, 1):
            force[:, axis] += np.bincount(partners.ravel(), slope[..., axis].ravel(), len(xy))
        return float((stretch**2).sum() / 2 + 2 * _BEND * (bend**2).sum()), force.ravel()

    found = minimize(energy, net.xy_angstrom.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return Net(side, found.x.reshape(-1, 2) % side, partners, net.rings, net.ring_xy_angstrom)


def _lloyd(net: Net, moving: np.ndarray) -> Net:
    """The moving seeds in the middle of their rings' atoms, and the net that this makes."""
    out = short_way(net.xy_angstrom[:, None] - net.ring_xy_angstrom[net.rings], net.side_angstrom)
    rings, size = net.rings.ravel(), net.ring_size
    mean = np.stack([np.bincount(rings, out[..., axis].ravel()) for axis in (0, 1)], -1) / size[:, None]
    return net_of(net.ring_xy_angstrom + np.where(moving[:, None], mean, 0), net.side_angstrom)


def _no_nearer(points: np.ndarray, distance: float, side_angstrom: float) -> np.ndarray:
    """Points taken in their order, but for those too near to one taken before."""
    tree = cKDTree(points, boxsize=side_angstrom)
    taken = np.ones(len(points), bool)
    for i, near in enumerate(tree.query_ball_point(points, distance)):
        taken[i] = not any(taken[j] for j in near if j < i)
    return points[taken]


def _circumcentres(corners: np.ndarray) -> np.ndarray:
    """Of triangles (n, 3, 2): (n, 2)."""
    a = corners[:, 0]
    b, c = corners[:, 1] - a, corners[:, 2] - a
    twice = 2 * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    b2, c2 = (b**2).sum(1), (c**2).sum(1)
    offset = np.stack([c[:, 1] * b2 - b[:, 1] * c2, b[:, 0] * c2 - c[:, 0] * b2], -1)
    return a + offset / np.where(twice == 0, np.inf, twice)[:, None]


def _unit(angle_rad: float) -> np.ndarray:
    return np.array([np.cos(angle_rad), np.sin(angle_rad)])


def _nearest_site(xy: np.ndarray) -> np.ndarray:
    """(2,) i8, the lattice vector in units of a1 and a2 that comes nearest to a position."""
    corner = np.floor(np.linalg.solve(_LATTICE.T, xy)).astype(int)
    sites = corner + np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    return sites[np.argmin(np.linalg.norm(sites @ _LATTICE - xy, axis=1))]


def _lattices_along_y(side_angstrom: float) -> list[tuple[float, float]]:
    """(turn in rad, scale) of crystals that repeat along y with the square's side, scaled by 0.8 % at the most."""
    reach = int(side_angstrom / _BETWEEN_RINGS * 1.3) + 2
    sites = np.stack(np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1)), -1).reshape(
        -1, 2
    )
    vectors = sites @ _LATTICE
    scale = side_angstrom / np.maximum(np.linalg.norm(vectors, axis=1), 1e-9)
    fits = np.abs(scale - 1) < 0.008
    turn = np.pi / 2 - np.arctan2(vectors[fits, 1], vectors[fits, 0])
    return list(zip(turn.tolist(), scale[fits].tolist(), strict=True))


def _crystal(side_angstrom: float, turn_rad: float, scale: float) -> np.ndarray:
    """Triangular seeds, turned and scaled, that cover the square and one side more all around."""
    reach = int(4 * side_angstrom / _BETWEEN_RINGS)
    sites = np.stack(np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1)), -1).reshape(
        -1, 2
    )
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    points = scale * sites @ _LATTICE @ np.array([[cos, sin], [-sin, cos]])
    return points[(np.abs(points) < 2.5 * side_angstrom).all(1)]
