"""How points move: all together (drift), and each by itself (mean squared displacement)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from stream.matching import match, pairs

LEAST = 5  # points that tell where all of them went


def common_shift(
    yx: np.ndarray, before: np.ndarray, view: tuple[float, float], reach: float, gate: float
) -> np.ndarray | None:
    """The shift that most points share, whatever the others do: a vote over all pairs, then the median.

    In a perfect lattice shifts that differ by a lattice vector fit nearly as well.

    Parameters
    ----------
    yx, before : (n, 2) and (m, 2) f8, the points now and before, in one unit.
    view : what could be seen is from 0 to this, along y and x.
    reach : the largest shift looked for.
    gate : how far a point may move by itself and still be taken for the same.

    Returns
    -------
    (2,) f8: yx is at before plus this; None where fewer than LEAST, or than half of the points of either
    that should be seen in the other, found a partner: a blank, dim or foreign frame.
    """
    yx, before = np.ascontiguousarray(yx, np.float64), np.ascontiguousarray(before, np.float64)
    i, j, _ = pairs(yx, before, reach)
    if min(len(yx), len(before)) < LEAST or len(i) == 0:
        return None
    difference = yx[i] - before[j]
    half = int(np.ceil(2 * reach / gate))
    side = 2 * half + 1
    bins = np.rint(difference / (gate / 2)).astype(np.int64) + half
    votes = np.bincount(bins[:, 0] * side + bins[:, 1], minlength=side * side).reshape(side, side)
    spread = uniform_filter(votes.astype(np.float64), 3, mode="constant")
    shift = (np.array(np.unravel_index(np.argmax(spread), spread.shape)) - half) * (gate / 2)
    matched = 0
    for _ in range(3):
        partner = match(yx - shift, before, gate)
        found = partner >= 0
        matched = np.count_nonzero(found)
        if matched < LEAST:
            return None
        shift = shift + np.median(yx[found] - shift - before[partner[found]], axis=0)
    expected = max(_in_view(before + shift, view), _in_view(yx - shift, view))
    return shift if 2 * matched >= expected else None


def _in_view(yx: np.ndarray, view: tuple[float, float]) -> int:
    return int(np.count_nonzero(np.all((yx >= 0) & (yx < view), axis=1)))


def mean_squared_displacement(
    frame: np.ndarray, yx: np.ndarray, track: np.ndarray, most_frames: int
) -> np.ndarray:
    """Of each track, over every pair of its points that are so many frames apart.

    Parameters
    ----------
    frame, track : (n,) i8; no track twice in a frame.
    yx : (n, 2) f8, free of drift.
    most_frames : the longest lag.

    Returns
    -------
    (tracks, most_frames) f8, squared unit of `yx`; rows in order of the tracks' numbers, column k for a
    lag of k + 1 frames; NaN where no pair is so far apart. Divided by 4 times the lag in s it tends to the
    diffusion coefficient, if the motion is diffusion and the lag long enough for the error of the
    positions (4 sigma² of one coordinate, whatever the lag) to vanish beside it.
    """
    numbers, row = np.unique(track, return_inverse=True)
    order = np.lexsort((frame, row))
    row, yx, when = row[order], np.asarray(yx, np.float64)[order], np.asarray(frame, np.int64)[order]
    when = when - when.min(initial=0)
    key = row * (when.max(initial=0) + most_frames + 1) + when
    result = np.full((len(numbers), most_frames), np.nan)
    for lag in range(1, most_frames + 1):
        later = np.searchsorted(key, key + lag)
        here = np.flatnonzero(np.append(key, -1)[later] == key + lag)
        squared = ((yx[later[here]] - yx[here]) ** 2).sum(axis=1)
        count = np.bincount(row[here], minlength=len(numbers))
        total = np.bincount(row[here], squared, minlength=len(numbers))
        result[:, lag - 1] = np.divide(total, count, out=result[:, lag - 1], where=count > 0)
    return result
