"""Where a column could be, although none was ever seen there: the empty places of a lattice, at its rim and in it."""

from __future__ import annotations

import numpy as np
from numba import njit

from stream.matching import crowded, nearest, neighbours, pairs

_NEAR = 1.35  # of the spacing: steps as far as that, between neighbours
_BESIDE = 1.5  # of the spacing: columns beside a place
_FAR = 2.2  # where neighbours are of several sublattices; a honeycomb's steps are 1.73 long
_TOLERANCE = 0.2  # of the spacing: steps that differ by less are one step
_COMMON = (
    0.6  # of the columns, those at the end of whose step there must be another: then it is a lattice's step
)
_ROOM = 0.5  # of the spacing: a place is new if nothing known is nearer
_FEWEST = 8  # columns that may be a lattice
_MOST_AGREE = 8  # counted
_MANY = 300  # columns, enough to know their lattice
_MOST_BESIDE = 0.9  # of the columns have no more columns beside them than a place of theirs can have


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
    From a column of a lattice every step leads to another one, but for the rim. In honeycombs the way to a neighbour is
    no step: from half of the columns it leads to the middle of a ring. Those to the next columns of the same sublattice
    are; where they are longer than 2.2 spacings (dumbbells), no lattice is seen.
    """
    near = _common_steps(yx_nm, spacing_nm, _NEAR, 8, _MANY)
    return near if len(near) else _common_steps(yx_nm, spacing_nm, _FAR, 18, _MANY // 2)


def _common_steps(yx_nm: np.ndarray, spacing_nm: float, reach: float, most: int, many: int) -> np.ndarray:
    """The steps (k, 2) in nm, within `reach` spacings, that lead from most columns to one of their `most` nearest."""
    looked = np.arange(0, len(yx_nm), 1 + len(yx_nm) // many)
    beside = neighbours(yx_nm, reach * spacing_nm, most)[looked]
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
    if len(yx_nm) < _FEWEST:
        return np.empty((0, 2))
    steps = lattice_steps(yx_nm, spacing_nm)
    ends = np.ascontiguousarray((yx_nm[:, None] + steps).reshape(-1, 2))
    ends = ends[nearest(ends, np.ascontiguousarray(known_yx_nm), _ROOM * spacing_nm)[0] < 0]
    if not len(ends):
        return ends
    beside = neighbours(ends, 1.5 * _TOLERANCE * spacing_nm, _MOST_AGREE)
    agreeing = (beside >= 0).sum(axis=1) + 1
    around = np.where((beside >= 0)[:, :, None], ends[beside], 0.0).sum(axis=1)
    middle = (around + ends) / agreeing[:, None]
    middle = np.ascontiguousarray(middle[agreeing >= least_neighbours])
    if np.hypot(*steps.T).max() > _NEAR * spacing_nm:
        middle = middle[_fits_in(middle, np.ascontiguousarray(yx_nm), _BESIDE * spacing_nm)]
    return middle[~crowded(middle, _ROOM * spacing_nm)]


def _fits_in(places: np.ndarray, yx_nm: np.ndarray, radius_nm: float) -> np.ndarray:
    """(k,) bool, the places with a column within the radius, and no more of them than columns have: a step that is
    longer may lead away from all columns, or into the middle of another grain's ring."""
    beside = np.bincount(pairs(places, yx_nm, radius_nm)[0], minlength=len(places))
    usual = np.bincount(pairs(yx_nm, yx_nm, radius_nm)[0]) - 1  # but for itself
    return (beside > 0) & (beside <= np.quantile(usual, _MOST_BESIDE))
