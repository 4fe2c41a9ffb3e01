"""Where on the particle a site is: its facet, by the direction in which the surface faces there.

Definition. The body is the largest connected set of sites occupied for more than half of the time they
were observed; columns that stand on it with fewer than three of its neighbours are no part of it (an
adatom is not a facet). Its convex hull, simplified until no corner of it is nearer than half a spacing
to the line it would leave, is the outline. Each edge of it at least three spacings long is a facet,
named by the direction of its outward normal. A site belongs to the nearest facet if it lies above the
edge or no deeper than 0.6 spacings under it (the outermost layer), within the edge's ends. Other sites
of that layer, or outside, are "corner"; what lies deeper is "inside". Real particles are only nearly
convex: of a concave stretch the hull sees the chord.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, QhullError
from skimage.measure import approximate_polygon

INSIDE, CORNER = -1, -2
_DEPTH = 0.6  # of the spacing; the next layer of gold's {111} and {100} is at 0.94 and 0.82
_SHORTEST = 3.0
_LEAST = 7  # sites of a body that can have facets
_SIMPLIFY = 0.5


@dataclass(frozen=True, slots=True)
class Facets:
    """The facets of a particle, and which site is on which.

    Attributes
    ----------
    normal_deg : (f,) f8, directions of the outward normals as seen in the picture: 0 to the right,
        90 up, rising.
    facet : (m,) i8, row of `normal_deg`, or INSIDE, or CORNER.
    outline_yx_nm : (v, 2) f8, the corners of the outline.
    """

    normal_deg: np.ndarray
    facet: np.ndarray
    outline_yx_nm: np.ndarray

    @property
    def labels(self) -> list[str]:
        """What each facet is called; then "corner" and "inside", for -2 and -1."""
        return [f"{angle:+.0f}°" for angle in self.normal_deg] + ["corner", "inside"]


def find_facets(
    yx_nm: np.ndarray, occurrence: np.ndarray, neighbours: np.ndarray, spacing_nm: float
) -> Facets:
    """Facets as defined above; a body too small for a hull has none, and all sites are corners.

    Parameters
    ----------
    yx_nm : (m, 2), the sites.
    occurrence : (m,), fraction of the time observed in which each was occupied; NaN counts as 0.
    neighbours : (m, k), sites beside each, then -1.
    spacing_nm : between neighbouring sites.
    """
    m = len(yx_nm)
    there = np.nan_to_num(occurrence) > 0.5
    none = Facets(np.empty(0), np.full(m, CORNER, np.int64), np.empty((0, 2)))
    if np.count_nonzero(there) < _LEAST:
        return none
    body = _body(there, neighbours)
    if np.count_nonzero(body) < _LEAST:
        return none
    try:
        hull = ConvexHull(yx_nm[body])
    except QhullError:  # all in a line
        return none
    corner = yx_nm[body][hull.vertices]
    outline = _simplified(corner, _SIMPLIFY * spacing_nm)
    edge = np.roll(outline, -1, axis=0) - outline
    length = np.hypot(*edge.T)
    along = edge / length[:, None]
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    inwards = ((outline.mean(axis=0) - outline) * normal).sum(axis=1) > 0
    normal[inwards] *= -1
    angle = np.rad2deg(np.arctan2(-normal[:, 0], normal[:, 1]))
    chosen = np.flatnonzero(length >= _SHORTEST * spacing_nm)
    chosen = chosen[np.argsort(angle[chosen])]

    from_corner = yx_nm[:, None] - outline  # (m, edges, 2)
    height = (from_corner * normal).sum(axis=2) / spacing_nm
    reach = (from_corner * along).sum(axis=2) / spacing_nm
    beside = (reach >= -0.5) & (reach <= length / spacing_nm + 0.5)
    fits = np.where(beside & (height >= -_DEPTH), np.abs(height), np.inf)[:, chosen]
    facet = np.where((height >= -_DEPTH).any(axis=1), CORNER, INSIDE)
    if len(chosen):
        found = np.isfinite(fits.min(axis=1))
        facet[found] = fits.argmin(axis=1)[found]
    return Facets(angle[chosen], facet.astype(np.int64), outline)


def _body(there: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """(m,) bool: the largest connected set of the sites `there`, without what has under three neighbours in it."""
    m = len(there)
    row, column = np.nonzero(neighbours >= 0)
    other = neighbours[row, column]
    both = there[row] & there[other]
    graph = coo_array((np.ones(both.sum()), (row[both], other[both])), shape=(m, m))
    _, part = connected_components(graph, directed=False)
    size = np.bincount(part[there], minlength=m)
    body = there & (part == size.argmax())
    beside = np.zeros(m, np.int64)
    np.add.at(beside, row, body[other])
    return body & (beside >= 3)


def _simplified(corner: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed outline with fewer corners (Douglas and Peucker), begun at the one farthest from the middle."""
    start = int(np.hypot(*(corner - corner.mean(axis=0)).T).argmax())
    ring = np.roll(corner, -start, axis=0)
    return approximate_polygon(np.concatenate([ring, ring[:1]]), tolerance)[:-1]
