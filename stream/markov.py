"""Two-state Markov chains with evidence, one per site, and what neighbouring chains tell each other.

Probabilities of the state "occupied" stand for both states, and ratios for sums that would underflow
(L. R. Rabiner, Proc. IEEE 77 (1989) 257, eq. 18 to 27, for two states). Arrays per slot and site are
(slots, m): rings of the last frames, `slots` telling the order of time.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ALONE = 0.2  # of a site's switches, the share that no neighbour's switch explains: a guess, not critical
_NEGLIGIBLE = 1e-4


@njit(cache=True, nogil=True)
def advance(p, arrive_hz, leave_hz, elapsed_s, ratio, out, arrive, leave):
    """One forward step of all sites: relax towards equilibrium, then weigh the evidence."""
    for k in range(len(p)):
        total = arrive_hz[k] + leave_hz[k]
        relaxed = -np.expm1(-total * elapsed_s)
        arrive[k] = arrive_hz[k] / total * relaxed
        leave[k] = leave_hz[k] / total * relaxed
        ahead = p[k] * (1.0 - leave[k]) + (1.0 - p[k]) * arrive[k]
        weight = ahead * ratio[k]
        out[k] = weight / (weight + 1.0 - ahead)


@njit(cache=True, nogil=True)
def look_back(slots, forward, arrive, leave, ratio, out):
    """Smooth the frames in `slots` (in order of time) with the later ones, each site for itself.

    Fills `out` (3, slots, m): P(occupied) and the probabilities that a column arrived or left since the
    slot before.
    """
    p, up, down = out[0], out[1], out[2]
    for k in range(p.shape[1]):
        later = 1.0  # P(later evidence | occupied) / P(... | empty)
        for w in range(len(slots) - 1, -1, -1):
            s = slots[w]
            odds = forward[s, k] * later
            p[w, k] = odds / (odds + 1.0 - forward[s, k])
            if w > 0:
                before = forward[slots[w - 1], k]
                weight = ratio[s, k] * later
                filled, emptied = (1.0 - before) * arrive[s, k] * weight, before * leave[s, k]
                stayed = before * (1.0 - leave[s, k]) * weight + (1.0 - before) * (1.0 - arrive[s, k])
                up[w, k] = filled / (filled + emptied + stayed)
                down[w, k] = emptied / (filled + emptied + stayed)
                later = (1.0 - leave[s, k]) * weight + leave[s, k]
                later /= arrive[s, k] * weight + 1.0 - arrive[s, k]


@njit(cache=True, nogil=True)
def couple(neighbours, alone, out):
    """What comes from beside: a column that leaves a site has gone to one of the vacant sites around
    it, all alike; a column that arrives has come from one of the occupied ones.

    From `alone` (3, slots, m), as `look_back` fills it, adds to `out` (2, slots, m): the probability
    that a column comes in from beside, or goes out.
    """
    p, up, down = alone[0], alone[1], alone[2]
    inflow, outflow = out[0], out[1]
    for w in range(1, len(p)):
        for k in range(p.shape[1]):
            if up[w, k] < _NEGLIGIBLE and down[w, k] < _NEGLIGIBLE:
                continue
            vacant = occupied = 1e-3
            for n in neighbours[k]:
                if n >= 0:
                    occupied += p[w - 1, n]
                    vacant += 1.0 - p[w - 1, n]
            for n in neighbours[k]:
                if n >= 0:
                    inflow[w, n] += down[w, k] / max(vacant, 1.0)
                    outflow[w, n] += up[w, k] / max(occupied, 1.0)


@njit(cache=True, nogil=True)
def switching(arrive, leave, beside):
    """Turn `beside` (2, rows, m), as `couple` fills it, into the chances of a site to fill and to empty."""
    for w in range(beside.shape[1]):
        for k in range(beside.shape[2]):
            beside[0, w, k], beside[1, w, k] = _switches(
                arrive[w, k], leave[w, k], beside[0, w, k], beside[1, w, k]
            )


@njit(cache=True, nogil=True, inline="always")
def _switches(arrive, leave, inflow, outflow):
    """Chances to fill and to empty: by itself, or because a neighbour did the opposite."""
    alone = _ALONE + (1.0 - _ALONE) * (arrive + leave)  # all, once in equilibrium
    come, go = alone * arrive, alone * leave
    return come + (1.0 - come) * min(inflow, 0.5), go + (1.0 - go) * min(outflow, 0.5)


@njit(cache=True, nogil=True)
def smooth(slots, arrive, leave, ratio, beside, start, out):
    """Smooth the second of `slots` with all later ones, switches being likelier where one beside is.

    `beside` (2, slots, m) as `couple` fills it. `start` (m,), P(occupied) in the first slot given its
    past, moves on to the second. Fills `out` (3, m): P(occupied) in the second, and the probabilities
    that a column arrived or left between the two.
    """
    p, up, down = out[0], out[1], out[2]
    inflow, outflow = beside[0], beside[1]
    for k in range(len(p)):
        later = 1.0
        for w in range(len(slots) - 1, 0, -1):
            s = slots[w]
            come, go = _switches(arrive[s, k], leave[s, k], inflow[w, k], outflow[w, k])
            weight = ratio[s, k] * later
            on, off = (1.0 - go) * weight + go, come * weight + 1.0 - come
            if w > 1:
                later = on / off
                continue
            occupied, empty = start[k] * on, (1.0 - start[k]) * off
            up[k] = (1.0 - start[k]) * come * weight / (occupied + empty)
            down[k] = start[k] * go / (occupied + empty)
            p[k] = (start[k] * (1.0 - go) + (1.0 - start[k]) * come) * weight / (occupied + empty)
            ahead = start[k] * (1.0 - go) + (1.0 - start[k]) * come
            start[k] = ahead * ratio[s, k] / (ahead * ratio[s, k] + 1.0 - ahead)
