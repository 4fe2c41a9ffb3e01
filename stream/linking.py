"""Tracks of what does not stay at a site: points linked from frame to frame, gaps closed afterwards.

The linear assignment of K. Jaqaman et al., Nature Methods 5 (2008) 695, without merging and splitting;
symbols are the paper's. Its matrix is never built: each link uses up one element of the lower right
block, so the cheapest assignment is the set of links that minimizes the sum of l_ij + m - b - d, and
that falls apart into groups of points that could be linked with each other.

Positions may be in any unit, and should be free of the specimen's drift (`stream.motion`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from stream.matching import pairs

_DENSE = 1 << 18  # elements of a cost matrix from which the sparse solver is the faster one
_FACTOR = 1.05  # of the largest cost, or of its percentile: the paper's alternative costs
_PERCENTILE = 90


def link_points(
    frame: np.ndarray,
    yx: np.ndarray,
    radius: float,
    *,
    gap_frames: int = 3,
    gap_radius: float | None = None,
    b: float | None = None,
    d: float | None = None,
    b_gap: float | None = None,
    d_gap: float | None = None,
) -> np.ndarray:
    """The track of each point: frame to frame, then segments over gaps, all at once.

    Parameters
    ----------
    frame : (n,) i8, the detector's number of each point's frame, in any order; a number without points
        (an empty frame, or one that was not received) is a frame that went by.
    yx : (n, 2) f8, positions, in any order within a frame.
    radius : the longest step from one frame to the next, in the unit of `yx`.
    gap_frames : most frames from the end of a segment to the start of the next of the same track: 3 closes
        gaps of up to two frames, 1 and less none.
    gap_radius : the longest step over a gap; `radius` if None.
    b, d : cost of a track's start and end, from frame to frame (squared unit of `yx`). None: 1.05 times
        the largest cost l_ij (squared distance) between these two frames.
    b_gap, d_gap : the same of segments. None: 1.05 times the 90th percentile of the costs of all gaps that
        could be closed; give more, as `gap_radius` squared, to close every gap that has no rival.

    Returns
    -------
    track : (n,) i8, from 0 in order of first frame, then y, then x. Whole recordings are held in memory:
        some 150 bytes per point.

    Raises
    ------
    ValueError
        If the points are not finite or the radius is not positive.
    """
    yx = _checked(yx, radius)
    frame = np.asarray(frame, np.int64)
    order = np.lexsort((yx[:, 1], yx[:, 0], frame))
    frame, yx = frame[order], yx[order]
    numbers, first = np.unique(frame, return_index=True)
    bounds = np.append(first, len(frame))
    following = np.full(len(frame), -1, np.int64)
    for k in np.flatnonzero(np.diff(numbers) == 1):
        here, then = slice(bounds[k], bounds[k + 1]), slice(bounds[k + 1], bounds[k + 2])
        i, j, l_ij = pairs(yx[here], yx[then], radius)
        linked = _link(i, j, l_ij, b, d)
        following[here.start + i[linked]] = then.start + j[linked]

    started = np.ones(len(frame), bool)
    started[following[following >= 0]] = False
    ends, starts = np.flatnonzero(following < 0), np.flatnonzero(started)
    reach = radius if gap_radius is None else gap_radius
    i, j, l_ij = _gaps(frame, yx, ends, starts, gap_frames, reach)
    b_gap, d_gap = _alternatives(l_ij, b_gap, d_gap, _PERCENTILE)
    linked = assign(i, j, l_ij, b_gap, d_gap, lower=min(b_gap, d_gap))
    following[ends[i[linked]]] = starts[j[linked]]

    track = np.empty(len(frame), np.int64)
    track[order] = _number(following)
    return track


def assign(i: np.ndarray, j: np.ndarray, l_ij: np.ndarray, b: float, d: float, lower: float) -> np.ndarray:
    """Which candidates are links: Jaqaman's assignment, fig. 1b and c.

    Parameters
    ----------
    i, j : (k,) i8, rows and columns of the candidates; no pair twice.
    l_ij : (k,) f8, what it costs to link them.
    b, d : what it costs to leave a column, a row, without a partner.
    lower : m, the elements of the lower right block.

    Returns
    -------
    (k,) bool; each row and each column is in at most one link.
    """
    gain = b + d - lower - l_ij
    linked = np.zeros(len(gain), bool)
    worth = np.flatnonzero(gain > 0)
    if len(worth) == 0:
        return linked
    i, j, gain = i[worth], j[worth], gain[worth]
    alone = (np.bincount(i)[i] == 1) & (np.bincount(j)[j] == 1)
    linked[worth[alone]] = True
    worth, i, j, gain = worth[~alone], i[~alone], j[~alone], gain[~alone]
    for group, row, column in _groups(i, j):
        linked[worth[group[_best(row, column, gain[group])]]] = True
    return linked


class Linker:
    """Tracks while frames arrive; remembers a track for `gap_frames` frames and no longer.

    Tracks that paused compete for a frame's points on equal terms with those of the frame before, in one
    assignment. `link_points`, as the paper, gives the latter the first choice, which costs identities where
    points are often missed; but it sees what comes later. Where no point has two tracks to choose from,
    nor a track two points, both give the same (with b_gap and d_gap of at least the squared radius).

    Parameters
    ----------
    radius, gap_frames, b, d : as in `link_points`; the radius holds over gaps as well.
    """

    def __init__(
        self, radius: float, *, gap_frames: int = 3, b: float | None = None, d: float | None = None
    ) -> None:
        self.radius, self.gap_frames, self.b, self.d = radius, gap_frames, b, d
        self._next = 0
        self._frame: int | None = None
        self._track = np.empty(0, np.int64)  # of those that may go on: number, last frame and place
        self._last = np.empty(0, np.int64)
        self._yx = np.empty((0, 2))

    def update(self, frame: int, yx: np.ndarray) -> np.ndarray:
        """The track of each point of the next frame, (n,) i8; numbers are never used again.

        Raises
        ------
        ValueError
            If the frame is not later than the last one, or the points are not finite.
        """
        yx = _checked(yx, self.radius)
        if self._frame is not None and frame <= self._frame:
            raise ValueError(f"frame {frame} came after frame {self._frame}: expected increasing numbers")
        self._frame = frame
        order = np.lexsort((yx[:, 1], yx[:, 0]))
        yx = yx[order]
        alive = frame - self._last <= max(self.gap_frames, 1)
        i, j, l_ij = pairs(self._yx[alive], yx, self.radius)
        linked = _link(i, j, l_ij, self.b, self.d)
        track = np.full(len(yx), -1, np.int64)
        track[j[linked]] = self._track[alive][i[linked]]
        new = track < 0
        track[new] = self._next + np.arange(np.count_nonzero(new))
        self._next += np.count_nonzero(new)

        alive &= ~np.isin(self._track, track)
        self._track = np.concatenate([self._track[alive], track])
        self._last = np.concatenate([self._last[alive], np.full(len(track), frame)])
        self._yx = np.concatenate([self._yx[alive], yx])
        result = np.empty(len(yx), np.int64)
        result[order] = track
        return result


def _link(i: np.ndarray, j: np.ndarray, l_ij: np.ndarray, b: float | None, d: float | None) -> np.ndarray:
    """The links between two frames: m is the smallest element of the matrix."""
    b, d = _alternatives(l_ij, b, d)
    return assign(i, j, l_ij, b, d, lower=min(b, d, l_ij.min(initial=np.inf)))


def _checked(yx: np.ndarray, radius: float) -> np.ndarray:
    yx = np.ascontiguousarray(yx, np.float64).reshape(-1, 2)
    if not np.isfinite(yx).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(yx).all(axis=1))} of {len(yx)} points are not finite"
        )
    if not radius > 0:
        raise ValueError(f"points are linked within a radius > 0, got {radius}")
    return yx


def _alternatives(
    l_ij: np.ndarray, b: float | None, d: float | None, percentile: float = 100
) -> tuple[float, float]:
    """b and d, as given or estimated from the costs of all candidates."""
    usual = 1.0
    if len(l_ij):
        usual = max(_FACTOR * float(np.percentile(l_ij, percentile, method="lower")), np.finfo(float).tiny)
    return usual if b is None else b, usual if d is None else d


def _gaps(
    frame: np.ndarray, yx: np.ndarray, ends: np.ndarray, starts: np.ndarray, gap_frames: int, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates (rows of `ends` and of `starts`, both in order of frame) and their costs."""
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    end_frames, end_bounds = _runs(frame[ends])
    start_frames, start_bounds = _runs(frame[starts])
    # a gap of no frame is one too: what assignment left apart for a rival that went elsewhere
    for ahead in range(1, gap_frames + 1) if gap_frames > 1 else ():
        _, at_end, at_start = np.intersect1d(end_frames + ahead, start_frames, return_indices=True)
        for e, s in zip(at_end, at_start, strict=True):
            e0, s0 = end_bounds[e], start_bounds[s]
            i, j, l_ij = pairs(yx[ends[e0 : end_bounds[e + 1]]], yx[starts[s0 : start_bounds[s + 1]]], radius)
            found.append((e0 + i, s0 + j, l_ij))
    i, j, l_ij = (np.concatenate(part) for part in zip(*found, strict=True))
    return i, j, l_ij


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of a sorted array, and where each begins, with the end of the last."""
    distinct, first = np.unique(values, return_index=True)
    return distinct, np.append(first, len(values))


def _groups(i: np.ndarray, j: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Candidates that compete with each other, directly or through others.

    Yields their indices, and their rows and columns counted within the group.
    """
    if len(i) == 0:
        return
    rows, i = np.unique(i, return_inverse=True)
    columns, j = np.unique(j, return_inverse=True)
    size = len(rows) + len(columns)
    graph = coo_array((np.ones(len(i), np.int8), (i, len(rows) + j)), shape=(size, size))
    label = connected_components(graph, directed=False)[1]
    group = label[i]
    i, j = _within(label[: len(rows)])[i], _within(label[len(rows) :])[j]
    order = np.argsort(group, kind="stable")
    bounds = [0, *(np.flatnonzero(np.diff(group[order])) + 1), len(order)]
    i, j = i[order], j[order]
    for begin, end in pairwise(bounds):
        yield order[begin:end], i[begin:end], j[begin:end]


def _within(label: np.ndarray) -> np.ndarray:
    """The rank of each element among those of the same label."""
    order = np.argsort(label, kind="stable")
    _, first, count = np.unique(label[order], return_index=True, return_counts=True)
    rank = np.empty(len(label), np.int64)
    rank[order] = np.arange(len(label)) - np.repeat(first, count)
    return rank


def _best(i: np.ndarray, j: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Which of one group's candidates are links, of the largest sum of `gain` > 0; (k,) bool."""
    n, m = int(i.max()) + 1, int(j.max()) + 1
    if n * m <= _DENSE:
        cost = np.zeros((n, m))
        cost[i, j] = -gain
        row, column = linear_sum_assignment(cost)
    else:  # one more column per row: to stay without a partner
        own = np.arange(n)
        cost = np.append(gain.max() - gain, np.full(n, gain.max())) + 1.0  # a zero would be no element
        graph = coo_array((cost, (np.append(i, own), np.append(j, m + own))), shape=(n, m + n))
        row, column = min_weight_full_bipartite_matching(graph.tocsr())
    partner = np.full(n, -1, np.int64)
    partner[row] = column
    return partner[i] == j


def _number(following: np.ndarray) -> np.ndarray:
    """Tracks from the row that follows each row (-1: none), rows in order of frame."""
    previous = np.full(len(following), -1, np.int64)
    has = np.flatnonzero(following >= 0)
    previous[following[has]] = has
    first = np.flatnonzero(previous < 0)
    track = np.full(len(following), -1, np.int64)
    track[first] = np.arange(len(first))
    step = first
    numbers = track[first]
    while len(step):  # all tracks one point further
        onward = following[step]
        on = onward >= 0
        step, numbers = onward[on], numbers[on]
        track[step] = numbers
    return track
