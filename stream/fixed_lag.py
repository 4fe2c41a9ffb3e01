"""The smoother of a live session: a frame given some frames more, of all sites together."""

from __future__ import annotations

import numpy as np
from numba import njit

from stream.beside import listen
from stream.markov import filtered, look_back, there_and_back

_TURNS = 2  # in which sites hear what their neighbours have to tell
_NEGLIGIBLE = 1e-2  # chance that a site switched in a frame, below which its neighbours do not ask it


class FixedLag:
    """Smooths the older of the last frames with the newer ones; its arrays are kept from frame to frame.

    Parameters
    ----------
    slots : of the rings that frames are kept in.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._scratch = np.empty((5, slots, 0))
        self._told = np.empty((2, slots, 0, 0), np.float32)

    def smooth(
        self,
        slots: np.ndarray,
        forward: np.ndarray,
        own: np.ndarray,
        ratio: np.ndarray,
        past: np.ndarray,
        neighbours: np.ndarray,
        alone: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Smooth the second of `slots`, which are in order of time.

        Parameters
        ----------
        forward, ratio : (slots, m) f8, P(occupied) so far and the evidence as a likelihood ratio.
        own : (2, slots, m) f8, chances to arrive and to leave since the frame before.
        past : (m,) f8, P(occupied) in the first slot given its past.
        neighbours, alone : as `stream.beside.listen` takes them.

        Returns
        -------
        (3, m) f8: P(occupied), P(arrived) and P(left) since the first slot, given all frames of all sites; (2, m) f8:
        of an arrival or a departure there, the chance that it was no hop; and (m,) f8: `past` of the second slot.
        """
        if self._told.shape[2:] != neighbours.shape:
            self._scratch = np.empty((5, self._slots, len(neighbours)))
            self._told = np.empty((2, self._slots, *neighbours.shape), np.float32)
        posterior, chances = self._scratch[:3, : len(slots)], self._scratch[3:]
        look_back(slots, forward, own[0], own[1], ratio, posterior)
        np.copyto(chances, own)
        near, asked = np.zeros(posterior.shape[1:], np.bool_), np.zeros(len(neighbours), np.bool_)
        settled = forward[slots[1]].copy()
        for _ in range(_TURNS):
            listen(posterior, own, chances, slots, alone, neighbours, self._told, near, _NEGLIGIBLE)
            _again(slots, ratio, chances, past, near, asked, posterior, settled)
        by_itself = np.minimum(alone * own[:, slots[1]] / chances[:, slots[1]], 1.0)
        return posterior[:, 1].copy(), by_itself, settled


@njit(cache=True, nogil=True, error_model="numpy")
def _again(slots, ratio, chances, past, near, asked, posterior, settled):
    """Smooth the sites that are `near`, or `asked` before, by the `chances` they have now.

    Arrays as in `FixedLag.smooth`; `asked` (m,) bool, `posterior` and `settled` are changed in place.
    """
    rows = len(slots)
    for t in range(rows):
        asked |= near[t]
    sites = np.flatnonzero(asked)  # the others have nothing to do with each other now
    told, come, go = np.empty((3, rows, len(sites)))
    for t in range(rows):
        s = slots[t]
        for i in range(len(sites)):
            k = sites[i]
            told[t, i] = ratio[s, k] if t else 1.0  # the first is in the past
            come[t, i], go[t, i] = chances[0, s, k], chances[1, s, k]
    before, anew = past[sites], np.empty((3, rows, len(sites)))
    there_and_back(told, come, go, before, anew)
    for what in range(3):
        for t in range(rows):
            for i in range(len(sites)):
                posterior[what, t, sites[i]] = anew[what, t, i]
    settled[sites] = filtered(told[:2], come, go, before)
