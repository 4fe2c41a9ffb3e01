"""Candidates: places where a column was seen, too seldom so far to be believed."""

from __future__ import annotations

import numpy as np

from stream.matching import match, nearest
from stream.places import DETECTED, GATE, Places


class Candidates(Places):
    """Places that become sites, or are forgotten.

    Parameters
    ----------
    born_after, born_within, memory : of the last `born_within` frames, `born_after` must have seen a candidate; what
        the last `memory` saw is kept.

    Raises
    ------
    ValueError
        Unless 1 <= born_after <= born_within <= memory.
    """

    def __init__(self, born_after: int, born_within: int, memory: int) -> None:
        if not 1 <= born_after <= born_within <= memory:
            raise ValueError(
                "birth needs 1 <= born_after <= born_within <= memory, "
                f"got {born_after}, {born_within} and {memory}"
            )
        super().__init__(memory)
        self.born_after, self.born_within = born_after, born_within

    def claim(self, yx_nm: np.ndarray, spacing_nm: float, forget: float) -> np.ndarray:
        """(n,) bool, which of these columns (n, 2) belong to candidates; they are noted there."""
        place = match(yx_nm, self.yx_nm, GATE * spacing_nm)
        mine = place >= 0
        self.add_columns(place[mine], yx_nm[mine], forget)
        return mine

    def elsewhere(self, yx_nm: np.ndarray, spacing_nm: float) -> np.ndarray:
        """(n,) bool, which of these positions (n, 2) are none of a candidate."""
        return nearest(yx_nm, self.yx_nm, GATE * spacing_nm)[0] < 0

    def ripen(self) -> Places:
        """Take out those seen often enough, and forget those no longer seen; returns the former."""
        seen = self.code[-self.born_within :] == DETECTED
        ripe = np.flatnonzero(np.count_nonzero(seen, axis=0) >= self.born_after)
        gone = ~np.any(seen, axis=0)
        gone[ripe] = True
        places = Places(len(self.code))
        if len(ripe):
            places.take(self, ripe)
        self.keep(~gone)
        return places
