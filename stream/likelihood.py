"""The rates that make a site's evidence likeliest, and the site's occupancy given them: each site for itself.

A site is a hidden Markov chain of two states. Its rates by expectation and maximization (Baum and Welch; L. R. Rabiner,
Proc. IEEE 77 (1989) 257, eq. 40): the switches expected given all evidence, over the time empty or occupied expected
given all evidence, until that changes nothing. A switch which no single frame proves still counts for what it is worth,
so that the rate is right where a count of events, however careful, comes out too low. How well the evidence fixes a
rate is read off the curvature of the likelihood (T. A. Louis, J. R. Stat. Soc. B 44 (1982) 226).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stream.markov import filtered, there_and_back

_START = 0.02  # switches per frame assumed at first
PRIOR_SWITCHES = 0.5  # weight of all sites' mean rate against a site's own record, in switches
_ROUNDS, _SETTLED = 40, 1e-3  # of the estimate; relative change of a rate at which it is done
_STEP = 0.05  # relative step at which the likelihood's curvature is taken
_LONGEST_BRIDGE = 16  # frames of a gap that are gone through one by one
_AT_ONCE = 1_000_000  # site-frames in memory
_AHEAD = 128  # frames after which what comes later changes nothing


class Histories(Protocol):
    """What was seen of every site: `stream.histories`.

    Attributes
    ----------
    frame, t_ns : (n,) i8, of the frames analysed.
    sites : m.
    """

    @property
    def frame(self) -> np.ndarray: ...
    @property
    def t_ns(self) -> np.ndarray: ...
    @property
    def sites(self) -> int: ...

    def log_ratio(self, rows: slice, sites: slice) -> np.ndarray:
        """(rows, sites) f8, log P(frame | occupied) / P(frame | empty); NaN where a site was not observed."""
        ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some frames in a row of what was seen, as if there were no others.

    Attributes
    ----------
    histories : of all frames.
    rows : those of the stretch.
    """

    histories: Histories
    rows: slice

    @property
    def frame(self) -> np.ndarray:
        return self.histories.frame[self.rows]

    @property
    def t_ns(self) -> np.ndarray:
        return self.histories.t_ns[self.rows]

    @property
    def sites(self) -> int:
        return self.histories.sites

    def log_ratio(self, rows: slice, sites: slice) -> np.ndarray:
        """(rows, sites) f8; rows from the beginning of the stretch."""
        first = self.rows.start
        return self.histories.log_ratio(slice(first + rows.start, first + rows.stop), sites)


@dataclass(frozen=True, slots=True)
class Grid:
    """The frames with the gaps between them filled by blank rows.

    Attributes
    ----------
    row : (n,) i8, the row of each frame.
    steps : (rows,) i8, frame periods since the row before: 1, or more behind a long gap.
    """

    row: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, t_ns: np.ndarray, period_s: float) -> Grid:
        """Of frames at times (n,) i8; a gap longer than 16 frames is one row."""
        apart = np.maximum(np.rint(np.diff(t_ns) * 1e-9 / period_s).astype(np.int64), 1)
        rows_on = np.minimum(apart, _LONGEST_BRIDGE)
        row = np.concatenate([[0], np.cumsum(rows_on)])
        steps = np.ones(row[-1] + 1, np.int64)
        steps[row[1:]] += apart - rows_on
        return cls(row, steps)


def estimate(histories: Histories, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Rates of the highest likelihood.

    Returns
    -------
    (2, m) f8, chances per frame to arrive and to leave; and their worth (m,) f8, above 0 and at most 1: of the
    switches expected, the share that, seen beyond doubt, would fix the rates as well.
    """
    n, m = len(grid.row), histories.sites
    chance = np.full((2, m), _START)
    mean = np.full(2, _START)
    counted = np.empty((4, m))
    worth = np.empty(m)
    at_once = max(1, _AT_ONCE // len(grid.steps))
    for last_round in (False, True):  # the second with the mean of all sites, known by then
        for first in range(0, m, at_once):
            some = slice(first, min(first + at_once, m))
            ratio = np.ones((len(grid.steps), some.stop - first))
            ratio[grid.row] = _odds(histories.log_ratio(slice(0, n), some))
            chance[:, some] = _likeliest(ratio, grid.steps, mean, chance[:, some])
            counted[:, some] = _count(ratio, grid.steps, chance[:, some])
            if last_round:
                # at the rates that are told, not where what was assumed of the site before has drawn them
                told = np.clip(_rates(counted[:, some]), 1e-7, 0.9)
                worth[some] = _worth(ratio, grid.steps, told, _count(ratio, grid.steps, told))
        total = counted.sum(axis=1)
        mean = np.clip(total[:2] / np.maximum(total[2:], 1e-9), 1e-6, 0.5)
    known = (counted[:2].min(axis=0) >= 1.0) & (worth > 0)
    typical = np.median(worth[known]) if known.any() else 1.0
    return _rates(counted), np.where(known, np.minimum(worth, 1.0), min(typical, 1.0))


def _rates(counted: np.ndarray) -> np.ndarray:
    """(2, b) f8, by the record itself, without what was assumed of the site before."""
    return counted[:2] / np.maximum(counted[2:], 1e-9)


def _likeliest(ratio: np.ndarray, steps: np.ndarray, mean: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(2, b) f8, by expectation and maximization; sites whose rates have settled are left as they are."""
    chance, open_ = chance.copy(), np.arange(ratio.shape[1])
    for _ in range(_ROUNDS):
        counted = _count(ratio, steps, chance[:, open_])
        better = (counted[:2] + PRIOR_SWITCHES) / (counted[2:] + PRIOR_SWITCHES / mean[:, None])
        better = np.clip(better, 1e-7, 0.9)
        moving = np.abs(np.log(better / chance[:, open_])).max(axis=0) >= _SETTLED
        chance[:, open_] = better
        if not moving.any():
            break
        if np.count_nonzero(moving) < 0.7 * len(open_):  # fewer are not worth the copy
            open_, ratio = open_[moving], np.ascontiguousarray(ratio[:, moving])
    return chance


def _count(ratio: np.ndarray, steps: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(4, b) f8: arrivals, departures, frames empty and occupied before a frame, expected given all the evidence."""
    arrive, leave = over(steps, chance)
    out = np.empty((3, *ratio.shape))
    there_and_back(ratio, arrive, leave, chance[0] / chance.sum(axis=0), out)
    p, up, down = out[0], out[1], out[2]
    one = steps[1:] == 1
    before = p[:-1][one]
    return np.stack(
        [up[1:][one].sum(axis=0), down[1:][one].sum(axis=0), (1 - before).sum(axis=0), before.sum(axis=0)]
    )


def _worth(ratio: np.ndarray, steps: np.ndarray, chance: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(b,) f8: of the switches counted, the share that, seen beyond doubt, would fix the event rate as well.

    The variance of the event rate's logarithm, from the curvature of the likelihood over the logarithms of both
    chances, is one over a number of events: those against the expected number.
    """

    def slope(at: np.ndarray, count: np.ndarray) -> np.ndarray:
        return count[:2] - at / (1 - at) * (count[2:] - count[:2])

    here = slope(chance, counted)
    curvature = []
    for k in (0, 1):
        moved = chance * np.where(np.arange(2) == k, 1 + _STEP, 1.0)[:, None]
        curvature.append((here - slope(moved, _count(ratio, steps, moved))) / np.log1p(_STEP))
    (a, c1), (c2, b) = curvature
    c = (c1 + c2) / 2
    determinant = a * b - c * c
    # rate of events ~ κ u d / (u + d), with κ(s) = -ln(1 - s) / s, s = u + d
    u, d = chance
    s = np.minimum(u + d, 0.95)
    bend = (s / (1 - s)) / -np.log1p(-s) - 1  # d ln κ / d ln s
    by_u, by_d = d / (u + d) + bend * u / s, u / (u + d) + bend * d / s
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (by_u**2 * b + by_d**2 * a - 2 * by_u * by_d * c) / determinant
        worth = 1 / (variance * counted[:2].sum(axis=0))
    return np.where((determinant > 0) & (a > 0) & np.isfinite(worth), worth, 0.0)


def over(steps: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, m) each: chances to arrive and to leave over each row's steps, from those over one: of all rows (2, m), or
    of each (2, rows, m), which are then changed in place."""
    arrive, leave = chance if chance.ndim == 3 else (np.repeat(c[None], len(steps), 0) for c in chance)
    long = np.flatnonzero(steps > 1)
    together = arrive[long] + leave[long]
    share = (1 - (1 - together) ** steps[long, None]) / together
    arrive[long] *= share
    leave[long] *= share
    return arrive, leave


@dataclass(frozen=True, slots=True)
class Window:
    """Some frames in a row, with a look ahead; each site for itself.

    Attributes
    ----------
    first, last : of the frames that are told of, `last` excluded.
    rows : (k,) i8, the rows of the frames from `first` on; row 0 stands for what was before.
    log_ratio : (k, m) f8, of the frames from `first` on.
    ratio : (rows, m) f8, evidence as likelihood ratios.
    steps : (rows,) i8, frame periods since the row before.
    alone : (3, rows, m) f8, P(occupied), P(arrived) and P(left) since the row before, given all evidence.
    """

    first: int
    last: int
    rows: np.ndarray
    log_ratio: np.ndarray
    ratio: np.ndarray
    steps: np.ndarray
    alone: np.ndarray

    @property
    def kept(self) -> int:
        """The row of the last frame."""
        return int(self.rows[self.last - self.first - 1])


def windows(histories: Histories, grid: Grid, chance: np.ndarray) -> Iterator[Window]:
    """The whole series, a window of frames at a time, so that memory does not grow with its length.

    Parameters
    ----------
    chance : (2, m) f8, per frame, to arrive and to leave.
    """
    n, m = len(grid.row), histories.sites
    length = max(_AHEAD, _AT_ONCE // m - _AHEAD)
    p = equilibrium(chance)
    chance = np.clip(chance, 1e-7, 0.9)
    for first in range(0, n, length):
        last, ahead = min(first + length, n), min(first + length + _AHEAD, n)
        log_ratio = histories.log_ratio(slice(first, ahead), slice(0, m))
        rows = grid.row[first:ahead] - grid.row[first] + 1
        ratio = np.ones((rows[-1] + 1, m))
        ratio[rows] = _odds(log_ratio)
        before = grid.row[first]
        steps = np.concatenate([[1], grid.steps[before : before + len(ratio) - 1]])
        if first == 0:
            steps[1] = 1
        arrive, leave = over(steps, chance)
        alone = np.empty((3, *ratio.shape))
        there_and_back(ratio, arrive, leave, p, alone)
        window = Window(first, last, rows, log_ratio, ratio, steps, alone)
        p = filtered(ratio[: window.kept + 1], arrive, leave, p)
        yield window


def equilibrium(chance: np.ndarray) -> np.ndarray:
    """(m,) f8, P(occupied) of sites of which nothing else is known."""
    return chance[0] / np.maximum(chance.sum(axis=0), 1e-12)


def _odds(log_ratio: np.ndarray) -> np.ndarray:
    """Likelihood ratios, bounded so that no single frame decides for ever; 1 where nothing was seen."""
    return np.exp(np.clip(np.nan_to_num(log_ratio, nan=0.0), -30.0, 30.0))
