"""What a particle stands on: slabs of ceria and of amorphous carbon, with a rough edge. Lengths in Å."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

CERIA_LATTICE_ANGSTROM = 5.411


class Slab(NamedTuple):
    """Atoms of a support: (n,) i8 numbers and (n, 3) positions around the box's centre."""

    numbers: np.ndarray
    xyz_angstrom: np.ndarray
    kind: str


def ceria(
    rng: np.random.Generator,
    side_angstrom: float,
    z_angstrom: tuple[float, float],
    outward: np.ndarray,
    edge_angstrom: float,
) -> Slab:
    """CeO2 (fluorite) filling the box beyond a rough edge; half of the slabs are in a zone axis.

    Parameters
    ----------
    side_angstrom : of the box; the slab is centred on its middle.
    z_angstrom : first and last height of the slab along the beam.
    outward : (2,) unit vector in the image plane (x, y); the slab fills xy · outward > edge.
    """
    if rng.random() < 0.5:
        rows = np.array(
            [((0, 1, 0), (0, 0, 1)), ((0, 0, 1), (1, -1, 0)), ((1, -1, 0), (1, 1, -2))][rng.integers(3)]
        )
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        upright = Rotation.from_matrix([*rows, np.cross(rows[0], rows[1])])
        tilt = Rotation.from_rotvec([*(rng.normal(0, np.deg2rad(1.5), 2)), 0])
        turn = tilt * Rotation.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)]) * upright
    else:
        turn = Rotation.random(rng=rng)
    middle = np.array([0, 0, sum(z_angstrom) / 2])
    reach = np.hypot(side_angstrom / np.sqrt(2), (z_angstrom[1] - z_angstrom[0]) / 2) + CERIA_LATTICE_ANGSTROM
    cells = np.arange(-np.ceil(reach / CERIA_LATTICE_ANGSTROM), np.ceil(reach / CERIA_LATTICE_ANGSTROM) + 1)
    corners = np.stack(np.meshgrid(cells, cells, cells, indexing="ij"), -1).reshape(-1, 3)
    corners = corners[(corners**2).sum(1) <= (reach / CERIA_LATTICE_ANGSTROM + 1) ** 2]
    fcc = np.array([(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)])
    oxygen = np.stack(np.meshgrid(*[(0.25, 0.75)] * 3, indexing="ij"), -1).reshape(-1, 3)
    basis = np.concatenate([fcc, oxygen])
    numbers = np.tile(np.array([58] * 4 + [8] * 8), len(corners))
    points = (corners[:, None] + basis).reshape(-1, 3) * CERIA_LATTICE_ANGSTROM
    xyz = turn.apply(points + rng.uniform(0, CERIA_LATTICE_ANGSTROM, 3)) + middle
    inside = _inside(rng, xyz, side_angstrom, z_angstrom, outward, edge_angstrom)
    return Slab(numbers[inside], xyz[inside], "ceria")


def amorphous_carbon(
    rng: np.random.Generator,
    side_angstrom: float,
    z_angstrom: tuple[float, float],
    outward: np.ndarray,
    edge_angstrom: float,
) -> Slab:
    """Carbon at random, no two atoms closer than 1.2 Å, about 2 g/cm³; parameters as for `ceria`."""
    volume = side_angstrom**2 * (z_angstrom[1] - z_angstrom[0])
    half = side_angstrom / 2
    xyz = rng.uniform([-half, -half, z_angstrom[0]], [half, half, z_angstrom[1]], (int(0.135 * volume), 3))
    xyz = xyz[_inside(rng, xyz, side_angstrom, z_angstrom, outward, edge_angstrom)]
    crowded = cKDTree(xyz).query_pairs(1.2, output_type="ndarray") if len(xyz) else np.zeros((0, 2), int)
    keep = np.ones(len(xyz), bool)
    keep[crowded[:, 1]] = False
    return Slab(np.full(np.count_nonzero(keep), 6), xyz[keep], "carbon")


def _inside(rng, xyz, side_angstrom, z_angstrom, outward, edge_angstrom) -> np.ndarray:
    """Within the box and beyond an edge that has terraces along the image and along the beam."""
    along = xyz[:, 0] * -outward[1] + xyz[:, 1] * outward[0]
    depth = xyz[:, :2] @ outward - edge_angstrom
    terraces = np.zeros(len(xyz))
    for coordinate, width in ((along, side_angstrom), (xyz[:, 2], 20.0)):
        steps = np.sort(rng.uniform(-width / 2, width / 2, rng.integers(0, 4)))
        heights = np.abs(rng.normal(0, 1.5, len(steps) + 1))
        terraces += heights[np.searchsorted(steps, coordinate)]
    half = side_angstrom / 2
    in_box = (np.abs(xyz[:, :2]) <= half).all(1) & (xyz[:, 2] >= z_angstrom[0]) & (xyz[:, 2] <= z_angstrom[1])
    return in_box & (depth > terraces)
