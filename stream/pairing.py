"""Which departure belongs to which arrival: the probability of each possible pair.

A column that left one site and one that came to another beside it are one column that hopped, unless one of them has a
better partner. Every event has one partner at the most, and as few as possible have none.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_ALONE = 1e-3  # weight of an event without a partner; that of a sure pair in one frame is 1
_CROWD = 12  # events of the rarer kind, all connected, beyond which not all matchings are gone through


def probabilities(weight: np.ndarray) -> np.ndarray:
    """The probability of each pair, given that all events happened.

    Every way to pair some of the events weighs as much as the product of the weights of its pairs, times 0.001 for each
    event that stays alone; a pair has its share of their sum. So two departures beside one arrival have one half each;
    two departures and two arrivals, all beside each other, make two hops of four pairs. Where more than 12 of each are
    connected, a pair is weighed against those it competes with alone, which is less than it has.

    Parameters
    ----------
    weight : (d, a) f8, at least 0; 0 for what cannot be a pair.

    Returns
    -------
    (d, a) f8; no row and no column adds up to more than 1.
    """
    share = np.zeros_like(weight)
    d, a = weight.shape
    row, column = np.nonzero(weight)
    graph = coo_array((np.ones(len(row)), (row, d + column)), shape=(d + a, d + a))
    component = connected_components(graph, directed=False)[1]
    for number in np.unique(component[row]):
        mine = np.ix_(np.flatnonzero(component[:d] == number), np.flatnonzero(component[d:] == number))
        some = weight[mine]
        if min(some.shape) > _CROWD:
            share[mine] = some / (some.sum(axis=0) + some.sum(axis=1)[:, None] - some)
        else:
            share[mine] = _of_all_matchings(some) if some.shape[1] <= _CROWD else _of_all_matchings(some.T).T
    return share


def best(weight: np.ndarray) -> list[tuple[int, int]]:
    """One-to-one pairs (departure, arrival) of weights (d, a): the most, and of those the likeliest."""
    # a pair more counts for more than any difference in likelihood
    gain = np.where(weight > 0, 100.0 + np.log(np.maximum(weight, 1e-40)), 0.0)
    pairs = zip(*linear_sum_assignment(gain, maximize=True), strict=True)
    return [(int(i), int(j)) for i, j in pairs if weight[i, j] > 0]


def _of_all_matchings(weight: np.ndarray) -> np.ndarray:
    """Exact: departure by departure, over all sets of arrivals that are taken (a bit each)."""
    d, a = weight.shape
    taken = np.arange(1 << a)
    free = [np.flatnonzero(~taken >> j & 1) for j in range(a)]  # the sets without arrival j
    before = np.zeros((d + 1, 1 << a))  # weight of all ways to get there, and to go on from there
    after = np.zeros_like(before)
    before[0, 0] = 1.0
    after[d] = _ALONE ** (a - np.array([int(set_).bit_count() for set_ in taken]))
    for i in range(d):
        before[i + 1] = _ALONE * before[i]
        for j in np.flatnonzero(weight[i]):
            before[i + 1, free[j] + (1 << j)] += weight[i, j] * before[i, free[j]]
    for i in range(d - 1, -1, -1):
        after[i] = _ALONE * after[i + 1]
        for j in np.flatnonzero(weight[i]):
            after[i, free[j]] += weight[i, j] * after[i + 1, free[j] + (1 << j)]
    share = np.zeros_like(weight)
    for i, j in np.argwhere(weight > 0):
        share[i, j] = weight[i, j] * (before[i, free[j]] @ after[i + 1, free[j] + (1 << j)]) / after[0, 0]
    return share
