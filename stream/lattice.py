"""Where a column could be, although none was ever seen there: the empty places of a lattice, at its rim and in it."""

from __future__ import annotations

import numpy as np
from numba import njit

from stream.matching import crowded, nearest, neighbours

_REACH = 1.35  # of the spacing: neighbours as far as that
_TOLERANCE = 0.2  # of the spacing: steps that differ by less are one step
_COMMON = (
    0.6  # of the columns, those at the end of whose step there must be another: then it is a lattice's step
)
_ROOM = 0.5  # of the spacing: a place is new if nothing known is nearer
_MOST_STEPS = 8
_MANY = 300  # columns, enough to know their lattice


@njit(cache=True, nogil=True)
def _most_common(steps, every, radius):
    """The mask (n,) of the steps within `radius` of that one, of every so many, that has the most of them."""
    best, most = 0, -1
    for i in range(0, len(steps), every):
        close = 0
        for j in range(len(steps)):
            close += (steps[i, 0] - steps[j, 0]) ** 2 + (steps[i, 1] - steps[j, 1]) ** 2 < radius * radius
        if close > most:
            best, most = i, close
    return (steps[:, 0] - steps[best, 0]) ** 2 + (steps[:, 1] - steps[best, 1]) ** 2 < radius * radius


def lattice_steps(yx_nm: np.ndarray, spacing_nm: float) -> np.ndarray:
    """The short translations that a lattice of columns has, (k, 2) in nm; none where there is no lattice.

    Parameters
    ----------
    yx_nm : (n, 2), the columns.
    spacing_nm : median distance between neighbours.

    Notes
    -----
    From a column of a lattice every step leads to another one, but for the rim. Honeycombs fail: half of their
    shortest steps lead to the middle of a ring.
    """
    looked = np.arange(0, len(yx_nm), 1 + len(yx_nm) // _MANY)
    beside = neighbours(yx_nm, _REACH * spacing_nm, _MOST_STEPS)[looked]
    row, column = np.nonzero(beside >= 0)
    steps = yx_nm[beside[row, column]] - yx_nm[looked[row]]
    found = []
    while len(steps) >= _COMMON * len(looked):
        alike = _most_common(steps, 1 + len(steps) // _MANY, _TOLERANCE * spacing_nm)
        step = np.median(steps[alike], axis=0)
        same = np.hypot(*(steps - step).T) < _TOLERANCE * spacing_nm
        if same.sum() < _COMMON * len(looked):
            break
        found.append(steps[same].mean(axis=0))
        steps = steps[~same]
    return np.array(found).reshape(-1, 2)


def empty_places(
    yx_nm: np.ndarray, known_yx_nm: np.ndarray, spacing_nm: float, least_neighbours: int = 2
) -> np.ndarray:
    """Places of the lattice beside columns at which nothing is known yet, (k, 2) in nm.

    Parameters
    ----------
    yx_nm : (n, 2), the columns that are there.
    known_yx_nm : (m, 2), sites and candidates.
    spacing_nm : median distance between neighbours.
    least_neighbours : columns from which a step must lead to the place.
    """
    if len(yx_nm) < _MOST_STEPS:
        return np.empty((0, 2))
    steps = lattice_steps(yx_nm, spacing_nm)
    ends = np.ascontiguousarray((yx_nm[:, None] + steps).reshape(-1, 2))
    ends = ends[nearest(ends, np.ascontiguousarray(known_yx_nm), _ROOM * spacing_nm)[0] < 0]
    if not len(ends):
        return ends
    beside = neighbours(ends, 1.5 * _TOLERANCE * spacing_nm, _MOST_STEPS)
    agreeing = (beside >= 0).sum(axis=1) + 1
    around = np.where((beside >= 0)[:, :, None], ends[beside], 0.0).sum(axis=1)
    middle = (around + ends) / agreeing[:, None]
    middle = np.ascontiguousarray(middle[agreeing >= least_neighbours])
    return middle[~crowded(middle, _ROOM * spacing_nm)]
