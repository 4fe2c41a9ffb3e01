"""The smoother of a live session: a frame given some frames more, of all sites together."""

from __future__ import annotations

import numpy as np

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
        near, asked = np.zeros((2, *posterior.shape[1:]), np.bool_)
        settled = forward[slots[1]].copy()
        for _ in range(_TURNS):
            listen(posterior, own, chances, slots, alone, neighbours, self._told, near, _NEGLIGIBLE)
            asked |= near
            some = np.flatnonzero(asked.any(axis=0))  # the others have nothing to do with each other now
            rows = slots[:, None], some
            told = ratio[rows]
            told[0] = 1.0  # is in the past
            come, go = chances[0][rows], chances[1][rows]
            anew = np.empty((3, *told.shape))
            there_and_back(told, come, go, past[some], anew)
            posterior[:, :, some] = anew
        settled[some] = filtered(told[:2], come, go, past[some])
        by_itself = np.minimum(alone * own[:, slots[1]] / chances[:, slots[1]], 1.0)
        return posterior[:, 1].copy(), by_itself, settled
