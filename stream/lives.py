"""What became of each site: since when nobody looks there any more, and of which older one it is part."""

from __future__ import annotations

import numpy as np

_IDLE = 2000  # frames in which a site was looked at and empty, before it is retired
_SUPPORT = 10  # frames with a column: one that was there so often is real, and never retired
_REST = 10_000  # frames from there until the place may be proposed again


class Lives:
    """Births, rest and mergers of sites, a row of each array for each.

    Attributes
    ----------
    proposed : (m,) bool, there because the lattice goes on; no column was seen there yet.
    retired_frame : (m,) i8, since when nobody looks there, or -1.
    merged_into : (m,) i8, the older site in the same place of which this one is part, or -1.
    idle, there : (m,) i8, frames without a column since the last with one, and all with one.
    looked : (m,) f8, frames that had the place in view, until it was retired.
    """

    FIELDS = ("proposed", "retired_frame", "merged_into", "idle", "there", "looked")

    def __init__(self) -> None:
        self.proposed = np.empty(0, np.bool_)
        self.retired_frame, self.merged_into = np.empty(0, np.int64), np.empty(0, np.int64)
        self.idle, self.there = np.empty(0, np.int64), np.empty(0, np.int64)
        self.looked = np.empty(0)

    @property
    def awake(self) -> np.ndarray:
        """(k,) i8, the sites that are looked at."""
        return np.flatnonzero(self.retired_frame < 0)

    @property
    def resting(self) -> np.ndarray:
        """(k,) i8, the sites that may wake: retired, and not part of another."""
        return np.flatnonzero((self.retired_frame >= 0) & (self.merged_into < 0))

    def rested_lately(self, frame: int) -> np.ndarray:
        """(m,) bool, retired so lately that the place is not to be proposed again yet."""
        return (self.retired_frame >= 0) & (frame - self.retired_frame < _REST)

    def begin(self, count: int, *, proposed: bool) -> None:
        """Add so many sites."""
        for name, value in (("proposed", proposed), ("retired_frame", -1), ("merged_into", -1)):
            self._append(name, np.full(count, value))
        for name in ("idle", "there", "looked"):
            self._append(name, np.zeros(count))

    def _append(self, name: str, values: np.ndarray) -> None:
        array = getattr(self, name)
        setattr(self, name, np.concatenate([array, values.astype(array.dtype)]))

    def learn(self, p_occupied: np.ndarray, observed: np.ndarray) -> None:
        """Take the smoothed P(occupied) (m,) of a frame, to know where a column ever is."""
        there = p_occupied > 0.5
        self.there += there & observed
        self.idle = np.where(there, 0, self.idle + observed)

    def idlers(self) -> np.ndarray:
        """(k,) i8, the sites at which hardly a column ever was."""
        return np.flatnonzero((self.retired_frame < 0) & (self.idle >= _IDLE) & (self.there < _SUPPORT))

    def rest(self, rows: np.ndarray, frame: int, looked: np.ndarray) -> None:
        """Nobody looks there from this frame on; `looked` frames (k,) had them in view."""
        self.retired_frame[rows] = frame
        self.looked[rows] = looked

    def wake(self, rows: np.ndarray, *, proposed: bool) -> None:
        """Look there again."""
        self.proposed[rows] = proposed
        self.retired_frame[rows] = -1
        self.idle[rows] = 0

    def merge(self, older: int, younger: int) -> None:
        """Make the younger, and all that is part of it, part of the older."""
        self.proposed[older] &= self.proposed[younger]
        self.there[older] += self.there[younger]
        self.idle[older] = min(self.idle[older], self.idle[younger])
        self.merged_into[self.merged_into == younger] = older
        self.merged_into[younger] = older
