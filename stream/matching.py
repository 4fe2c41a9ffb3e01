"""Which point belongs to which: nearest neighbours of points in the plane, by square cells.

Cells (a counting sort) and not a tree: the points of one frame are used once, and a tree costs
more to build than the frame may take.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_FEW = 50  # times as many reference points as points


@njit(cache=True, nogil=True, error_model="numpy")
def cells(yx, size):
    """Sort `yx` (n, 2) into square cells at least `size` wide, to be asked for what lies within `size` of a point.

    Returns the points' indices ordered by cell, where each cell starts in that order, the cells'
    number along y and x, the first cell's corner, the cells' width, and the points in that order.
    """
    n = len(yx)
    if n == 0:
        return np.empty(0, np.int64), np.zeros(1, np.int64), 0, 0, 0.0, 0.0, size, np.empty((0, 2))
    y0, x0 = yx[0, 0], yx[0, 1]
    y1, x1 = y0, x0
    for i in range(n):
        y0, y1 = min(y0, yx[i, 0]), max(y1, yx[i, 0])
        x0, x1 = min(x0, yx[i, 1]), max(x1, yx[i, 1])
    ny, nx = int((y1 - y0) / size) + 1, int((x1 - x0) / size) + 1
    while ny * nx > 16 * n + 64:  # far outliers must not cost memory
        size *= 1.5
        ny, nx = int((y1 - y0) / size) + 1, int((x1 - x0) / size) + 1
    cell = np.empty(n, np.int64)
    start = np.zeros(ny * nx + 1, np.int64)
    for i in range(n):
        cell[i] = int((yx[i, 0] - y0) / size) * nx + int((yx[i, 1] - x0) / size)
        start[cell[i] + 1] += 1
    for c in range(ny * nx):
        start[c + 1] += start[c]
    order = np.empty(n, np.int64)
    ordered = np.empty((n, 2))
    filled = start[:-1].copy()
    for i in range(n):
        to = filled[cell[i]]
        order[to] = i
        ordered[to, 0], ordered[to, 1] = yx[i, 0], yx[i, 1]
        filled[cell[i]] += 1
    return order, start, ny, nx, y0, x0, size, ordered


@njit(cache=True, nogil=True, error_model="numpy")
def _span(value, origin, size, count):
    """The cells within one cell of `value` along one axis, as a half-open range."""
    c = int(np.floor((value - origin) / size))
    return max(c - 1, 0), min(c + 2, count)


@njit(cache=True, nogil=True, error_model="numpy")
def nearest_in(yx, sorted_cells, radius):
    """As `nearest`, of reference points sorted by `cells` with a size of at least `radius`."""
    order, start, ny, nx, y0, x0, size, ordered = sorted_cells
    n = len(yx)
    index = np.full(n, -1, np.int64)
    distance2 = np.full(n, np.inf)
    for i in range(n):
        y, x = yx[i, 0], yx[i, 1]
        ya, yb = _span(y, y0, size, ny)
        xa, xb = _span(x, x0, size, nx)
        if xa >= xb:
            continue
        best = radius * radius
        found = -1
        for cy in range(ya, yb):
            for k in range(start[cy * nx + xa], start[cy * nx + xb]):
                d2 = (ordered[k, 0] - y) ** 2 + (ordered[k, 1] - x) ** 2
                if d2 <= best:
                    best = d2
                    found = k
        if found >= 0:
            index[i] = order[found]
            distance2[i] = best
    return index, distance2


@njit(cache=True, nogil=True)
def nearest(yx, reference, radius):
    """Of each point, the nearest reference point within `radius`.

    Parameters
    ----------
    yx : (n, 2) f8, finite.
    reference : (m, 2) f8, finite, in the same unit.
    radius : in that unit, positive.

    Returns
    -------
    index : (n,) i8, the row of `reference`, or -1.
    distance2 : (n,) f8, the squared distance, inf where there is none.
    """
    if len(yx) * _FEW > len(reference):
        return nearest_in(yx, cells(reference, radius), radius)
    index = np.full(len(yx), -1, np.int64)  # so few points do not pay for cells
    distance2 = np.full(len(yx), np.inf)
    for i in range(len(yx)):
        best = radius * radius
        for j in range(len(reference)):
            d2 = (reference[j, 0] - yx[i, 0]) ** 2 + (reference[j, 1] - yx[i, 1]) ** 2
            if d2 <= best:
                best = d2
                index[i], distance2[i] = j, d2
    return index, distance2


@njit(cache=True, nogil=True)
def one_to_one(index, distance2, radius, m):
    """Of the points that chose one of `m` reference points, leave it to the nearest, if it lies within `radius`.

    `index` and `distance2` are those of `nearest`, of a radius as large or larger; `index` is changed in place.
    """
    owner = np.full(m, -1, np.int64)
    for i in range(len(index)):
        j = index[i]
        if distance2[i] > radius * radius:
            index[i] = -1
        elif j >= 0:
            if owner[j] < 0:
                owner[j] = i
            elif distance2[i] < distance2[owner[j]]:
                index[owner[j]] = -1
                owner[j] = i
            else:
                index[i] = -1


@njit(cache=True, nogil=True)
def match(yx, reference, radius):
    """One-to-one `nearest`: of the points that chose one reference point, the nearest gets it.

    Parameters as in `nearest`. Returns the row of `reference` for each point, (n,) i8, or -1.
    """
    index, distance2 = nearest(yx, reference, radius)
    one_to_one(index, distance2, radius, len(reference))
    return index


@njit(cache=True, nogil=True)
def pairs(yx, reference, radius):
    """All pairs of a point and a reference point within `radius` (inclusive) of each other.

    Parameters as in `nearest`. Returns the rows of `yx` and of `reference`, (k,) i8 each, and the squared
    distances, (k,) f8, in order of the rows of `yx`.
    """
    most = max(4 * len(yx), 16)
    rows, columns = np.empty(most, np.int64), np.empty(most, np.int64)
    distance2 = np.empty(most)
    k = 0
    if len(yx) == 0 or len(reference) == 0:
        return rows[:0], columns[:0], distance2[:0]
    order, start, ny, nx, y0, x0, size, _ = cells(reference, radius)
    for i in range(len(yx)):
        y, x = yx[i, 0], yx[i, 1]
        ya, yb = _span(y, y0, size, ny)
        xa, xb = _span(x, x0, size, nx)
        if xa >= xb:
            continue
        for cy in range(ya, yb):
            for n in range(start[cy * nx + xa], start[cy * nx + xb]):
                j = order[n]
                d2 = (reference[j, 0] - y) ** 2 + (reference[j, 1] - x) ** 2
                if d2 > radius * radius:
                    continue
                if k == most:
                    rows = np.concatenate((rows, np.empty(most, np.int64)))
                    columns = np.concatenate((columns, np.empty(most, np.int64)))
                    distance2 = np.concatenate((distance2, np.empty(most)))
                    most *= 2
                rows[k], columns[k], distance2[k] = i, j, d2
                k += 1
    return rows[:k], columns[:k], distance2[:k]


@njit(cache=True, nogil=True)
def crowded(yx, radius):
    """True where an earlier point of the same list lies within `radius`; (n,) bool."""
    n = len(yx)
    found = np.zeros(n, np.bool_)
    if n == 0:
        return found
    order, start, ny, nx, y0, x0, size, _ = cells(yx, radius)
    for i in range(n):
        ya, yb = _span(yx[i, 0], y0, size, ny)
        xa, xb = _span(yx[i, 1], x0, size, nx)
        for cy in range(ya, yb):
            for k in range(start[cy * nx + xa], start[cy * nx + xb]):
                j = order[k]
                if j < i and not found[i]:
                    dy, dx = yx[j, 0] - yx[i, 0], yx[j, 1] - yx[i, 1]
                    found[i] = dy * dy + dx * dx <= radius * radius
    return found


@njit(cache=True, nogil=True)
def neighbours(yx, radius, most):
    """The up to `most` nearest other points within `radius`; (n, most) i8, nearest first, then -1."""
    n = len(yx)
    index = np.full((n, most), -1, np.int64)
    distance2 = np.full(most, np.inf)
    if n == 0:
        return index
    order, start, ny, nx, y0, x0, size, _ = cells(yx, radius)
    for i in range(n):
        distance2[:] = np.inf
        ya, yb = _span(yx[i, 0], y0, size, ny)
        xa, xb = _span(yx[i, 1], x0, size, nx)
        for cy in range(ya, yb):
            for k in range(start[cy * nx + xa], start[cy * nx + xb]):
                j = order[k]
                d2 = (yx[j, 0] - yx[i, 0]) ** 2 + (yx[j, 1] - yx[i, 1]) ** 2
                if j == i or d2 > radius * radius or d2 >= distance2[most - 1]:
                    continue
                at = most - 1
                while at > 0 and distance2[at - 1] > d2:
                    distance2[at], index[i, at] = distance2[at - 1], index[i, at - 1]
                    at -= 1
                distance2[at], index[i, at] = d2, j
    return index


def spacing(yx: np.ndarray) -> float:
    """The median distance to the nearest other point, in the unit of `yx` (n, 2); NaN for n < 2."""
    if len(yx) < 2:
        return float("nan")
    extent = np.ptp(yx, axis=0).max()
    radius = max(extent / np.sqrt(len(yx)), 1e-12)
    while True:  # the first radius suits points that fill a square; sparse ones need a wider look
        first = neighbours(yx, radius, 1)[:, 0]
        if np.count_nonzero(first >= 0) > len(yx) // 2 or radius > 2 * extent:
            break
        radius *= 2.0
    found = first >= 0
    distance = np.full(len(yx), np.inf)
    distance[found] = np.hypot(*(yx[found] - yx[first[found]]).T)
    return float(np.median(distance))
