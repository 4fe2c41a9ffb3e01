"""Two-state Markov chains with evidence, one per site.

Probabilities of the state "occupied" stand for both states, and ratios for sums that would underflow
(L. R. Rabiner, Proc. IEEE 77 (1989) 257, eq. 18 to 27, for two states). Arrays per slot and site are
(slots, m): rings of the last frames, `slots` telling the order of time.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
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


# In all smoothers the sites are the inner loop, and nothing branches in it: eight of them go at once.


@njit(cache=True, nogil=True, error_model="numpy")
def _given_later(here, later, out):
    """P(occupied) (m,) given the past and this frame -> given the `later` ones as well."""
    for k in range(len(here)):
        odds = here[k] * later[k]
        out[k] = odds / (odds + 1.0 - here[k])


@njit(cache=True, nogil=True, error_model="numpy")
def _step_back(before, come, go, told, later, up, down):
    """From one frame to the one before, whose P(occupied) given its past is `before` (m,).

    Fills the probabilities that a column arrived or left between them; `later` becomes that of the frame before.
    """
    for k in range(len(before)):
        weight = told[k] * later[k]
        filled, emptied = (1.0 - before[k]) * come[k] * weight, before[k] * go[k]
        stayed = before[k] * (1.0 - go[k]) * weight + (1.0 - before[k]) * (1.0 - come[k])
        up[k] = filled / (filled + emptied + stayed)
        down[k] = emptied / (filled + emptied + stayed)
        later[k] = ((1.0 - go[k]) * weight + go[k]) / (come[k] * weight + 1.0 - come[k])


@njit(cache=True, nogil=True, error_model="numpy")
def look_back(slots, forward, arrive, leave, ratio, out):
    """Smooth the frames in `slots` (in order of time) with the later ones, each site for itself.

    Fills `out` (3, slots, m): P(occupied) and the probabilities that a column arrived or left since the
    slot before.
    """
    m = out.shape[2]
    later = np.ones(m)  # P(later evidence | occupied) / P(... | empty)
    for w in range(len(slots) - 1, -1, -1):
        s = slots[w]
        _given_later(forward[s], later, out[0, w])
        if w > 0:
            _step_back(forward[slots[w - 1]], arrive[s], leave[s], ratio[s], later, out[1, w], out[2, w])


@njit(cache=True, nogil=True, error_model="numpy")
def filtered(ratio, arrive, leave, start):
    """P(occupied) in the last row given all rows (rows, m), `start` (m,) being that in row 0."""
    p = start.copy()
    for t in range(1, len(ratio)):
        told, come, go = ratio[t], arrive[t], leave[t]
        for k in range(len(p)):
            ahead = p[k] * (1.0 - go[k]) + (1.0 - p[k]) * come[k]
            weight = ahead * told[k]
            p[k] = weight / (weight + 1.0 - ahead)
    return p


@njit(cache=True, nogil=True, error_model="numpy")
def there_and_back(ratio, arrive, leave, start, out):
    """Forward and backward over all rows, each site for itself.

    `ratio`, `arrive`, `leave` (rows, m): evidence of a row, and the chances to have switched since the row before;
    `start` (m,), P(occupied) in row 0 before or without its evidence (which is `ratio[0]`). Fills `out` (3, rows, m):
    P(occupied), P(arrived) and P(left) since the row before, given everything.
    """
    rows, m = ratio.shape
    for k in range(m):
        weight = start[k] * ratio[0, k]
        out[0, 0, k] = weight / (weight + 1.0 - start[k])
        out[1, 0, k] = out[2, 0, k] = 0.0
    for t in range(1, rows):
        before, here, told, come, go = out[0, t - 1], out[0, t], ratio[t], arrive[t], leave[t]
        for k in range(m):
            ahead = before[k] * (1.0 - go[k]) + (1.0 - before[k]) * come[k]
            weight = ahead * told[k]
            here[k] = weight / (weight + 1.0 - ahead)
    later = np.ones(m)  # P(later evidence | occupied) / P(... | empty)
    for t in range(rows - 1, 0, -1):
        _given_later(out[0, t], later, out[0, t])
        _step_back(out[0, t - 1], arrive[t], leave[t], ratio[t], later, out[1, t], out[2, t])
    _given_later(out[0, 0], later, out[0, 0])


@njit(cache=True, nogil=True, error_model="numpy")
def tally(smoothed, observed, period_s, share, shortest, time_s, switches, recent):
    """Add one smoothed frame to what is kept per site.

    Parameters
    ----------
    smoothed : (3, m), P(occupied), P(arrived) and P(left).
    observed : (m,) bool; other sites stay as they are.
    period_s : what the frame stands for.
    share : of the time since the frame before, what was observed.
    shortest : frames of a site's record behind `recent`, or half of the record if that is more.
    time_s : (2, m), observed and occupied.
    switches : (2, m), expected arrivals and departures.
    recent : (2, 2, m), the same and the time at risk of either, fading.
    """
    for k in range(len(observed)):
        if not observed[k]:
            continue
        p = smoothed[0, k]
        time_s[0, k] += period_s
        time_s[1, k] += p * period_s
        keep = 1.0 - 1.0 / max(shortest, 0.5 * time_s[0, k] / period_s)
        for way in range(2):
            happened = smoothed[1 + way, k] * share
            switches[way, k] += happened
            recent[0, way, k] = recent[0, way, k] * keep + happened
            recent[1, way, k] = recent[1, way, k] * keep + (p if way else 1.0 - p) * period_s
