"""What a particle stands on: slabs of oxides and of amorphous carbon, with a rough edge. Lengths in Å."""

from __future__ import annotations

from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

SupportKind = Literal["ceria", "titania", "zirconia", "carbon"]
CERIA_LATTICE_ANGSTROM = 5.411


class Slab(NamedTuple):
    """Atoms of a support: (n,) i8 numbers and (n, 3) positions around the box's centre."""

    numbers: np.ndarray
    xyz_angstrom: np.ndarray
    kind: str


class _Crystal(NamedTuple):
    """An oxide: its right-angled cell in Å, the atoms in it, and (x, y) directions that put a zone axis in the beam."""

    cell_angstrom: tuple[float, float, float]
    numbers: list[int]
    places: list[tuple[float, float, float]]  # in units of the cell
    in_plane: list[tuple[tuple[int, int, int], tuple[int, int, int]]]


_FLUORITE = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0), *product((0.25, 0.75), repeat=3)]
_CUBIC_VIEWS = [
    ((0, 1, 0), (0, 0, 1)),
    ((0, 0, 1), (1, -1, 0)),
    ((1, -1, 0), (1, 1, -2)),
]  # <100>, <110>, <111>
_U = 0.3048  # where rutile's oxygen is
_RUTILE = [
    (0, 0, 0),
    (0.5, 0.5, 0.5),
    (_U, _U, 0),
    (-_U, -_U, 0),
    (0.5 + _U, 0.5 - _U, 0.5),
    (0.5 - _U, 0.5 + _U, 0.5),
]
_CRYSTALS = {
    "ceria": _Crystal(
        (CERIA_LATTICE_ANGSTROM, CERIA_LATTICE_ANGSTROM, CERIA_LATTICE_ANGSTROM),
        [58] * 4 + [8] * 8,
        _FLUORITE,
        _CUBIC_VIEWS,
    ),
    "zirconia": _Crystal((5.09, 5.09, 5.09), [40] * 4 + [8] * 8, _FLUORITE, _CUBIC_VIEWS),
    "titania": _Crystal(  # rutile, seen along [001], [100] and [110]
        (4.594, 4.594, 2.959),
        [22] * 2 + [8] * 4,
        _RUTILE,
        [((1, 0, 0), (0, 1, 0)), ((0, 1, 0), (0, 0, 1)), ((0, 0, 1), (1, -1, 0))],
    ),
}


def make_support(
    kind: SupportKind,
    rng: np.random.Generator,
    side_angstrom: float,
    z_angstrom: tuple[float, float],
    outward: np.ndarray,
    edge_angstrom: float,
) -> Slab:
    """A slab of a support, filling the box beyond a rough edge; half of the crystalline ones are in a zone axis.

    Parameters
    ----------
    side_angstrom : of the box; the slab is centred on its middle.
    z_angstrom : first and last height of the slab along the beam.
    outward : (2,) unit vector in the image plane (x, y); the slab fills xy · outward > edge.
    """
    if kind == "carbon":
        return _amorphous_carbon(rng, side_angstrom, z_angstrom, outward, edge_angstrom)
    crystal = _CRYSTALS[kind]
    cell = np.array(crystal.cell_angstrom)
    turn = _view(rng, crystal)
    middle = np.array([0, 0, sum(z_angstrom) / 2])
    reach = np.hypot(side_angstrom / np.sqrt(2), (z_angstrom[1] - z_angstrom[0]) / 2) + cell.max()
    cells = [np.arange(-np.ceil(reach / side), np.ceil(reach / side) + 1) for side in cell]
    corners = np.stack(np.meshgrid(*cells, indexing="ij"), -1).reshape(-1, 3)
    corners = corners[((corners * cell) ** 2).sum(1) <= (reach + cell.max()) ** 2]
    points = (corners[:, None] + np.array(crystal.places)).reshape(-1, 3) * cell
    xyz = turn.apply(points + rng.uniform(0, cell)) + middle
    inside = _inside(rng, xyz, side_angstrom, z_angstrom, outward, edge_angstrom)
    return Slab(np.tile(np.array(crystal.numbers), len(corners))[inside], xyz[inside], kind)


def _view(rng: np.random.Generator, crystal: _Crystal) -> Rotation:
    """How the crystal lies: near a zone axis (1.5° rms along each axis) or anyhow."""
    if rng.random() < 0.5:
        return Rotation.random(rng=rng)
    views = np.array(crystal.in_plane) * np.array(crystal.cell_angstrom)
    rows = views[rng.integers(len(views))]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    upright = Rotation.from_matrix([*rows, np.cross(rows[0], rows[1])])
    tilt = Rotation.from_rotvec([*(rng.normal(0, np.deg2rad(1.5), 2)), 0])
    return tilt * Rotation.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)]) * upright


def _amorphous_carbon(
    rng: np.random.Generator,
    side_angstrom: float,
    z_angstrom: tuple[float, float],
    outward: np.ndarray,
    edge_angstrom: float,
) -> Slab:
    """Carbon at random, no two atoms closer than 1.2 Å, about 2 g/cm³; parameters as for `make_support`."""
    volume = side_angstrom**2 * (z_angstrom[1] - z_angstrom[0])
    half = side_angstrom / 2
    xyz = rng.uniform([-half, -half, z_angstrom[0]], [half, half, z_angstrom[1]], (int(0.135 * volume), 3))
    xyz = xyz[_inside(rng, xyz, side_angstrom, z_angstrom, outward, edge_angstrom)]
    keep = uncrowded(xyz)
    return Slab(np.full(np.count_nonzero(keep), 6), xyz[keep], "carbon")


def uncrowded(xyz: np.ndarray) -> np.ndarray:
    """(n,) bool, atoms of amorphous carbon without the second of every two nearer than 1.2 Å."""
    crowded = cKDTree(xyz).query_pairs(1.2, output_type="ndarray") if len(xyz) else np.zeros((0, 2), int)
    keep = np.ones(len(xyz), bool)
    keep[crowded[:, 1]] = False
    return keep


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
