"""The phantom's gold particle: where its columns are, and where they could be.

Seen along <110>, fcc gold is a centred rectangle of 0.4078 by 0.2884 nm. The particle is cut by
{111} and {100} planes, sits with a {111} facet on its support, and is thickest in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

LATTICE_NM = 0.4078  # gold at room temperature
SPACING_NM = LATTICE_NM / np.sqrt(2)  # of the atoms along a <110> column
_NEIGHBOUR_NM = LATTICE_NM * np.sqrt(3 / 8)  # between columns; the next ones are SPACING_NM away


@dataclass(frozen=True)
class Particle:
    """Sites of a particle: where a column is, or could be.

    Attributes
    ----------
    yx_nm : (m, 2) f8, from the particle's middle.
    height : (m,) i8, atoms in the column when there is one.
    hold : (m,) f8, energy over kT that keeps a column in its place: more if it is tall, or on the support.
    occupied : (m,) bool, at the start.
    neighbours : (m, 6) i8, the sites at the six places around; -1 where there is none.
    down_yx : (2,) f8, unit vector from the particle into its support.
    support_nm : distance of the support's surface from the middle.
    """

    yx_nm: np.ndarray
    height: np.ndarray
    hold: np.ndarray
    occupied: np.ndarray
    neighbours: np.ndarray
    down_yx: np.ndarray
    support_nm: float


def gold_particle(
    diameter_nm: float, max_height: int, rotation_rad: float, offset_nm: tuple[float, float]
) -> Particle:
    """A truncated octahedron along <110>, with one row of vacant sites around it.

    Parameters
    ----------
    diameter_nm : between opposite {111} facets seen edge-on, before the support cuts one short.
    max_height : atoms in the column in the middle; 2 at the rim.
    rotation_rad : of the particle; at 0 the facet on the support is the lowest, and level.
    offset_nm : (y, x) of the lattice against the middle, so that no site is special.

    Raises
    ------
    ValueError
        If the particle would have fewer than seven columns, or none as tall as 2 atoms.
    """
    if max_height < 2:
        raise ValueError(f"columns have 2 atoms at least, got max_height = {max_height}")
    radius = diameter_nm / 2
    reach = int(2 * diameter_nm / LATTICE_NM) + 2
    i, j = np.mgrid[-2 * reach : 2 * reach + 1, -2 * reach : 2 * reach + 1]
    keep = (i + j) % 2 == 0
    plane = np.column_stack([i[keep] * LATTICE_NM / 2, j[keep] * SPACING_NM / 2])
    plane += offset_nm
    # outlines of {100} and {111} seen edge-on; surface energies as 1.1 to 1 (Wulff), and on a support
    # one {111} facet is nearer (Winterbottom)
    steep = np.arctan(np.sqrt(2))  # between {100} and {111}
    normals = np.array([0.0, np.pi, steep, -steep, np.pi - steep, np.pi + steep])
    distances = radius * np.array([1.1, 1.1, 1.0, 0.62, 1.0, 1.0])
    depth = plane @ np.stack([np.cos(normals), np.sin(normals)])
    inside = np.all(depth <= distances, axis=1)
    margin = np.full(6, 0.9 * _NEIGHBOUR_NM)
    margin[3] = 0.0  # nothing grows into the support
    around = np.all(depth <= distances + margin, axis=1)
    near = KDTree(plane[inside]).query(plane)[0] < 1.05 * SPACING_NM
    chosen = around & near
    if inside.sum() < 7:
        raise ValueError(
            f"a gold particle of {diameter_nm:g} nm has only {inside.sum()} columns, expected at least 7: "
            "give it a larger diameter"
        )
    plane, occupied = plane[chosen], inside[chosen]
    rim = np.clip(np.hypot(*plane.T) / (1.08 * radius), 0, 1)
    height = np.maximum(2, np.rint(max_height * np.sqrt(1 - rim**2)).astype(np.int64))
    # turn the fourth normal to point down the image (+y), then by the rotation asked for
    turn = np.pi / 2 + steep + rotation_rad
    down = np.array([np.cos(normals[3]), np.sin(normals[3])])
    facet_nm = float((plane @ down).max())
    on_support = plane @ down > facet_nm - 0.1
    hold = 0.3 * (height - 2) + 2.0 * on_support
    yx, down_yx = _turned(plane, turn), _turned(down[None], turn)[0]
    support_nm = facet_nm + 0.27  # Au to Ce at the interface
    return Particle(yx, height, hold, occupied, _neighbours(plane), down_yx, support_nm)


def _turned(uv: np.ndarray, angle: float) -> np.ndarray:
    """(n, 2) of (u, v) turned by `angle` and given as (y, x), with u along x and v along y."""
    u, v = uv.T
    return np.column_stack([np.sin(angle) * u + np.cos(angle) * v, np.cos(angle) * u - np.sin(angle) * v])


def _neighbours(plane: np.ndarray) -> np.ndarray:
    u, v = LATTICE_NM / 2, SPACING_NM / 2
    steps = np.array([(u, v), (u, -v), (-u, v), (-u, -v), (0, 2 * v), (0, -2 * v)])
    tree = KDTree(plane)
    found = [tree.query(plane + step, distance_upper_bound=0.05) for step in steps]
    return np.column_stack([np.where(np.isfinite(d), k, -1) for d, k in found]).astype(np.int64)
