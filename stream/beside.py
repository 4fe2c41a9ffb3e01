"""What neighbouring sites have to tell each other: a column that leaves one turns up at the other.

Each site is a chain of its own, smoothed exactly; between chains goes what the frames of one say of a hop to the
other, without what it was told itself, so that nothing comes back as an echo: belief propagation (F. R. Kschischang,
B. J. Frey, H.-A. Loeliger, IEEE Trans. Inf. Theory 47 (2001) 498).
"""

from __future__ import annotations

import numpy as np
from numba import njit

MOST = 0.6  # chance per frame
_LEAST_VACANT = 0.5  # places beside a site, in expectation: fewer are none, and a column there stays
_ALONE = 0.2  # the share of switches that are no hops, assumed at first
_PRIOR_ALONE = 100.0  # its weight, in switches


def share_alone(explained: np.ndarray) -> float:
    """Of all switches, the share that is no hop from or to a neighbour, by those (2,) counted: such ones, and all."""
    return float((explained[0] + _PRIOR_ALONE * _ALONE) / (explained[1] + _PRIOR_ALONE))


def alone_of(neighbours: np.ndarray, share: float) -> np.ndarray:
    """(m,) f8, that share of each site: all of them, where there are no neighbours (m, k)."""
    return np.where((neighbours[:, :1] >= 0).any(axis=1), share, 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def listen(posterior, own, chances, slots, alone, neighbours, told, near, negligible):
    """From the chances by which sites were smoothed to those by what their neighbours have to say.

    A column leaves for one of the vacant sites beside it, the rather the more readily a column arrives there. That it
    left at this frame is the likelier, the better the other's frames say that one arrived: P(arrived) over the chance
    it was given, without the part of that chance which came from here.

    Parameters
    ----------
    posterior : (3, rows, m), P(occupied), P(arrived) and P(left) since the row before, by `chances`.
    own : (2, slots, m), chances to arrive and to leave without that.
    chances : (2, slots, m), to fill and to empty; those of sites that are told anything are changed in place.
    slots : (rows,) i8, where a row's chances are.
    alone : (m,), of a site's switches, the share that is no hop.
    neighbours : (m, k), sites between which columns may hop, then -1.
    told : (2, rows, m, k), the part of these that each neighbour has brought, where `near`; changed in place.
    near : (rows, m) bool, sites that were told anything; at first none, changed in place.
    negligible : chance that a site switched in a frame, below which nobody asks it.
    """
    p, up, down = posterior[0], posterior[1], posterior[2]
    m = p.shape[1]
    stirs, was_near = np.zeros(m, np.bool_), np.zeros(m, np.bool_)
    sites = np.empty(m, np.int64)  # those near
    left, arrived, vacancy = np.empty(m), np.empty(m), np.empty(m)
    heard = np.empty((2, *neighbours.shape))
    for t in range(1, p.shape[0]):
        was_near[:] = near[t]
        count = _stirring(up[t], down[t], neighbours, negligible, stirs, near[t], sites)
        s = slots[t]
        arrive, leave = own[0, s], own[1, s]
        for k in sites[:count]:
            vacancy[k] = _vacancy(p[t - 1], arrive, neighbours[k])
            arrived[k], left[k] = up[t, k] / chances[0, s, k], down[t, k] / chances[1, s, k]
        for i in range(count):
            k = sites[i]
            hop = 1.0 - alone[k]
            for e in range(neighbours.shape[1]):
                n = neighbours[k, e]
                heard[0, i, e] = heard[1, i, e] = 0.0
                if n >= 0 and stirs[n]:
                    its, mine = _told_by(k, n, t, told, neighbours) if was_near[n] else (0.0, 0.0)
                    out_of = left[n] / max(1.0 - left[n] * mine, 1e-6)
                    into = arrived[n] / max(1.0 - arrived[n] * its, 1e-6)
                    heard[0, i, e] = hop * leave[n] * arrive[k] / vacancy[n] * out_of
                    heard[1, i, e] = hop * leave[k] * arrive[n] / vacancy[k] * into
        for i in range(count):
            k = sites[i]
            chances[0, s, k] = _take_in(arrive[k] * alone[k], heard[0, i], told[0, t, k])
            chances[1, s, k] = _take_in(leave[k] * alone[k], heard[1, i], told[1, t, k])


@njit(cache=True, nogil=True)
def _stirring(up, down, neighbours, negligible, stirs, near, sites):
    """Which sites may have switched in a frame, and which of those or beside one of those: fills (m,) bool each.

    The latter are listed in `sites`, too; returns how many they are.
    """
    near[:] = False
    for k in range(len(up)):  # without a branch: eight at once
        stirs[k] = up[k] + down[k] > negligible
    count = 0
    for k in np.flatnonzero(stirs):
        if not near[k]:
            near[k], sites[count] = True, k
            count += 1
        for n in neighbours[k]:
            if n >= 0 and not near[n]:
                near[n], sites[count] = True, n
                count += 1
    return count


@njit(cache=True, nogil=True)
def _vacancy(p, arrive, around):
    """How readily a column arrives at the vacant sites around one, in all."""
    readily, vacant = 1e-9, 1e-9
    for n in around:
        if n >= 0:
            readily += (1.0 - p[n]) * arrive[n]
            vacant += 1.0 - p[n]
    return readily * max(1.0, _LEAST_VACANT / vacant)


@njit(cache=True, nogil=True)
def _told_by(k, n, t, told, neighbours):
    """The parts that site k has brought of its neighbour n's chances to fill and to empty in row t."""
    for e in range(neighbours.shape[1]):
        if neighbours[n, e] == k:
            return told[0, t, n, e], told[1, t, n, e]
    return 0.0, 0.0


@njit(cache=True, nogil=True)
def _take_in(of_itself, heard, told):
    """The chance of a site to switch `of_itself` or by what it `heard` (k,), which is kept in `told` (k,)."""
    total = of_itself
    for part in heard:
        total += part
    chance = min(total, MOST)
    for e in range(len(heard)):
        told[e] = heard[e] * (chance / total)
    return chance
