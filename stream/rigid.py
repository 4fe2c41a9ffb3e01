"""How points lie on other points, shifted and turned: votes, a close fit, a count of partners, and a turn."""

from __future__ import annotations

import numpy as np
from numba import njit

from stream.matching import nearest_in, one_to_one

GATE = 0.25  # of the spacing: a column further from a site than this is no partner of it
BESIDE = 0.75  # of the spacing: a column nearer than this to a site, and no partner of it, is between sites
_TURNING = 12  # matched columns needed to tell a turn
_ENOUGH = 600  # columns looked at for that, and for the first look at a shift
_CHANCE = 1.5  # standard errors of a turn that are taken for chance


def turned(yx_px: np.ndarray, turn_rad: float | np.ndarray, centre_yx_px: np.ndarray) -> np.ndarray:
    """Points (n, 2) turned about a centre, all alike or each by its own (n,), clockwise as pictures are shown."""
    each = np.zeros(len(yx_px)) + turn_rad  # always of one type for the compiler
    return _turn_each(np.ascontiguousarray(yx_px, np.float64), each, np.asarray(centre_yx_px, np.float64))


@njit(cache=True, nogil=True)
def _turn_each(yx, turn_rad, centre):
    """Points (n, 2), each turned by its own (n,) about the centre."""
    out = np.empty_like(yx)
    cosine, sine, last = 1.0, 0.0, 0.0
    for i in range(len(yx)):
        if turn_rad[i] != last:
            last = turn_rad[i]
            cosine, sine = np.cos(last), np.sin(last)
        y, x = yx[i, 0] - centre[0], yx[i, 1] - centre[1]
        out[i, 0] = cosine * y + sine * x + centre[0]
        out[i, 1] = cosine * x - sine * y + centre[1]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _within(value, reach, origin, size, count):
    """The cells that hold what lies within `reach` of `value` along one axis, as a half-open range."""
    first, last = np.floor((value - reach - origin) / size), np.floor((value + reach - origin) / size)
    return max(int(first), 0), min(int(last) + 1, count)


@njit(cache=True, nogil=True, error_model="numpy")
def cast_votes(yx, sites, centre, half, bin_px):
    """2-D histogram of all differences of `yx` and the sites within `half` bins of `centre`.

    `sites` are the `cells` of the reference.
    """
    side = 2 * half + 1
    histogram = np.zeros((side, side), np.int32)
    _, start, ny, nx, y0, x0, size, ordered = sites
    y0, x0, size, ordered = y0 / bin_px, x0 / bin_px, size / bin_px, ordered / bin_px
    reach = half + 0.5
    for i in range(len(yx)):
        y, x = (yx[i, 0] - centre[0]) / bin_px, (yx[i, 1] - centre[1]) / bin_px
        ya, yb = _within(y, reach, y0, size, ny)
        xa, xb = _within(x, reach, x0, size, nx)
        if xa >= xb:
            continue
        for cy in range(ya, yb):
            for k in range(start[cy * nx + xa], start[cy * nx + xb]):
                by, bx = y - ordered[k, 0] + reach, x - ordered[k, 1] + reach
                if 0 <= by < side and 0 <= bx < side:
                    histogram[int(by), int(bx)] += 1
    return histogram


@njit(cache=True, nogil=True)
def settle(yx, reference, sites, start, spacing_px):
    """The shift near `start` that makes the median residual vanish, some columns with a wide gate, then all closely.

    `sites` are the `cells` of the reference.
    """
    shift = start.copy()
    for gate, step in ((0.5, 1 + len(yx) // _ENOUGH), (GATE, 1)):
        some = yx[::step]
        partner, _ = nearest_in(some - shift, sites, gate * spacing_px)
        residual = np.empty((2, len(some)))
        found = 0
        for i in range(len(some)):
            j = partner[i]
            if j >= 0:
                residual[0, found] = some[i, 0] - reference[j, 0]
                residual[1, found] = some[i, 1] - reference[j, 1]
                found += 1
        if found == 0:
            break
        shift[0], shift[1] = np.median(residual[0, :found]), np.median(residual[1, :found])
    return shift


@njit(cache=True, nogil=True)
def count(yx, reference, sites, shift, seen, shape, spacing_px):
    """Partners, and the columns and sites that should have one and do not, under one shift.

    A column outside of what was ever in view (`seen`, less a spacing: nearer, a site may be too new), or a site out
    of view now, need not have one. Nor need a column between sites, as a network makes of noise: it lies so wherever
    the lattice fits itself again, and tells nothing of which of these places is right.

    Returns the number of partners, of columns and of sites that count, of those of either without a partner, and the
    sum of squared distances of partners.
    """
    moved = yx - shift
    beside, distance2 = nearest_in(moved, sites, BESIDE * spacing_px)
    partner = beside.copy()
    one_to_one(partner, distance2, GATE * spacing_px, len(reference))
    due = np.zeros(len(reference), np.bool_)
    in_view = 0
    for j in range(len(reference)):
        y, x = reference[j, 0] + shift[0], reference[j, 1] + shift[1]
        rim = 0.5 * spacing_px
        due[j] = rim <= y <= shape[0] - 1 - rim and rim <= x <= shape[1] - 1 - rim
        in_view += due[j]
    matched = columns = unmatched = 0
    square = 0.0
    for i in range(len(moved)):
        j = partner[i]
        known = True
        for axis in range(2):
            known &= seen[0, axis] + spacing_px <= moved[i, axis] <= seen[1, axis] - spacing_px
        if j >= 0:
            matched += 1
            due[j] = False
            square += (moved[i, 0] - reference[j, 0]) ** 2 + (moved[i, 1] - reference[j, 1]) ** 2
        elif known and beside[i] < 0:
            unmatched += 1
        columns += known or j >= 0
    for j in range(len(reference)):
        unmatched += due[j]
    return matched, columns, in_view, unmatched, square


@njit(cache=True, nogil=True, error_model="numpy")
def turn_between(yx, reference, sites, centre, gate):
    """By how much `yx` (n, 2) is turned about `centre` against `reference` (m, 2), in rad; 0 where chance would do it.

    `sites` are the `cells` of the reference.

    Least squares over partners, those far off left out; what could be chance is taken off, so that noise makes no
    turn and a slow one is followed a little later.
    """
    some = yx[:: 1 + len(yx) // _ENOUGH]
    partner, distance2 = nearest_in(some, sites, gate)
    found = np.flatnonzero(partner >= 0)
    if len(found) < _TURNING:
        return 0.0
    near = found[distance2[found] <= 9.0 * np.median(distance2[found])]
    n = len(near)
    arm, residual = np.empty((2, n)), np.empty((2, n))
    for axis in range(2):
        for i in range(n):
            site = reference[partner[near[i]], axis]
            arm[axis, i], residual[axis, i] = site - centre[axis], some[near[i], axis] - site
        arm[axis] -= arm[axis].mean()
        residual[axis] -= residual[axis].mean()
    lever2 = (arm**2).sum()
    if not lever2 > 0:
        return 0.0
    turn = (arm[1] * residual[0] - arm[0] * residual[1]).sum() / lever2
    chance = _CHANCE**2 * 0.5 * ((residual**2).sum() / n) / lever2
    return turn * max(0.0, 1.0 - chance / max(turn**2, 1e-300))
