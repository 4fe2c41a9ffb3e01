"""Places of the specimen: where they are, how well that is known, and what was lately seen there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

UNOBSERVED, MISSED, DETECTED = 0, 1, 2  # what a frame says of a place
GATE = 0.35  # of the spacing: a column nearer than this to a place is its column
_LATELY = 32.0  # sightings of which the mean residual is known
_LEANING = 16.0  # times its variance by chance, the square of that mean: a place that creeps
_BRISK, _HASTE = 30.0, 0.8  # a creeping place forgets by that factor per sighting, down to so many sightings


@dataclass(frozen=True, slots=True)
class Begun:
    """Sites that were born, proposed or woken, with what the past says of them.

    Attributes
    ----------
    site : (b,) i8, their rows: woken ones first, then new ones, which are the last of all.
    history : (memory - 1, b) u1, their codes in the frames before this one, oldest first.
    empty_frames : (b,) f8, how many frames before those had the place in view, and nothing there; of a woken site,
        since it was retired.
    """

    site: np.ndarray
    history: np.ndarray
    empty_frames: np.ndarray


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one frame says of the sites.

    Attributes
    ----------
    column_site : (n,) i8, the site of each column, or -1.
    code : (m,) u1 per site, new ones included: UNOBSERVED, MISSED or DETECTED.
    begun : the sites that are looked at from this frame on.
    """

    column_site: np.ndarray
    code: np.ndarray
    begun: Begun


@njit(cache=True, nogil=True, error_model="numpy")
def _settle(row, seen_yx, forget, yx, variance, weight, lean, code):
    """Move the places at rows (k,) towards columns (k, 2) seen there, no row twice (Welford's running moments).

    A place that creeps, as all do while a particle sinters, is late by its speed times its weight: where columns are
    seen to one side of it (`lean`, (m, 2), their mean residual of late), earlier sightings are forgotten sooner.
    Where the place is out of view, or at the border, `code` (m,) stays: that is not evidence.
    """
    for i in range(len(row)):
        k = row[i]
        if code[k] != UNOBSERVED:
            code[k] = DETECTED
        weight[k] = min(weight[k] + 1.0, forget)
        creeps = False
        for axis in range(2):
            lean[k, axis] += (seen_yx[i, axis] - yx[k, axis] - lean[k, axis]) / _LATELY
            creeps |= lean[k, axis] ** 2 > _LEANING / (2.0 * _LATELY) * variance[k, axis]
        if creeps and weight[k] > _BRISK:
            weight[k] = max(_HASTE * weight[k], _BRISK)
        for axis in range(2):
            before = seen_yx[i, axis] - yx[k, axis]
            yx[k, axis] += before / weight[k]
            after = seen_yx[i, axis] - yx[k, axis]
            variance[k, axis] += (before * after - variance[k, axis]) / weight[k]


class Places:
    """Positions with running mean and variance, and what was seen there in the last frames."""

    FIELDS = ("yx_nm", "variance", "weight", "lean", "first", "code")

    def __init__(self, memory: int) -> None:
        self.yx_nm = np.empty((0, 2))
        self.variance = np.empty((0, 2))  # nm², of one sighting
        self.weight = np.empty(0)  # sightings behind the mean
        self.lean = np.empty((0, 2))  # nm, mean residual of late
        self.first = np.empty(0, np.int64)
        self.code = np.empty((memory, 0), np.uint8)  # oldest first

    def see(self, code: np.ndarray | int) -> None:
        """Begin a frame: shift what was seen by one, `code` until a column says otherwise."""
        self.code = np.concatenate([self.code[1:], self.code[:1]])
        self.code[-1] = code

    def add_columns(self, row: np.ndarray, yx_nm: np.ndarray, forget: float) -> None:
        """Note that columns (k, 2) were seen at rows (k,), no row twice."""
        _settle(row, yx_nm, forget, self.yx_nm, self.variance, self.weight, self.lean, self.code[-1])

    def append(self, yx_nm: np.ndarray, first: np.ndarray, code: np.ndarray) -> None:
        self.yx_nm = np.concatenate([self.yx_nm, yx_nm])
        self.variance = np.concatenate([self.variance, np.zeros_like(yx_nm)])
        self.weight = np.concatenate([self.weight, np.ones(len(yx_nm))])
        self.lean = np.concatenate([self.lean, np.zeros_like(yx_nm)])
        self.first = np.concatenate([self.first, first])
        self.code = np.ascontiguousarray(np.concatenate([self.code, code], axis=1))

    def take(self, other: Places, which: np.ndarray) -> None:
        n = len(self.yx_nm)
        self.append(other.yx_nm[which], other.first[which], other.code[:, which])
        for name in ("variance", "weight", "lean"):
            getattr(self, name)[n:] = getattr(other, name)[which]

    def replace(self, rows: np.ndarray, other: Places, which: np.ndarray) -> None:
        """Begin anew at rows (k,) with what is known of others; when the first column was seen there stays."""
        first = np.where(self.first[rows] >= 0, self.first[rows], other.first[which])
        for name in self.FIELDS[:-1]:
            getattr(self, name)[rows] = getattr(other, name)[which]
        self.first[rows] = first
        self.code[:, rows] = other.code[:, which]

    def merge(self, a: int, b: int, forget: float) -> None:
        """Place a takes in all that is known of place b, as if all of it had been seen there."""
        w = self.weight[[a, b]]
        share = w / w.sum()
        apart = self.yx_nm[b] - self.yx_nm[a]
        self.variance[a] = share @ self.variance[[a, b]] + share[0] * share[1] * apart**2
        self.yx_nm[a] += share[1] * apart
        self.weight[a] = min(w.sum(), forget)
        known = [first for first in self.first[[a, b]].tolist() if first >= 0]
        self.first[a] = min(known, default=-1)
        self.code[:, a] = self.code[:, [a, b]].max(axis=1)

    def keep(self, which: np.ndarray) -> None:
        if which.all():
            return
        for name in self.FIELDS[:-1]:
            setattr(self, name, getattr(self, name)[which])
        self.code = np.ascontiguousarray(self.code[:, which])
