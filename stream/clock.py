"""Do frames come at the period they are said to? Their own time stamps tell: the detector's clock is the truth.

A rate is per second of the time that the observed frames stand for: a wrong period makes every rate wrong by as much.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stream.frame import CalibrationError

TOLERANCE = 0.05  # of the period; jitter leaves less of a window's median
_CHANGE = 0.1  # of the period, within a recording: from there on no one period is right for all of it
_APART = 12  # frames over which a long step is taken: bursts of 2, 3, 4 or 6 frames average out
_FRAMES = 36  # of a window; a pause spoils less than half of the long steps in it, which a median bears


class Clock:
    """Watches the time stamps of a series while its frames come in.

    Parameters
    ----------
    period_s : from frame to frame, as it is said.

    Attributes
    ----------
    other_s : the period that the stamps of the last two windows of 36 frames agree upon, if it is another; else None.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.other_s: float | None = None
        self._seen: list[tuple[int, int]] = []
        self._before_s: float | None = None

    def see(self, index: int, t_ns: int) -> None:
        """Take in a frame's index and time by the detector's clock; frames may be missing."""
        self._seen.append((index, t_ns))
        if len(self._seen) <= _FRAMES:
            return
        seen = np.array(self._seen)
        now_s, before_s = period_of(seen[:, 0], seen[:, 1], self.period_s), self._before_s
        self._seen, self._before_s = self._seen[-1:], now_s
        self.other_s = None
        # one window may lie across a change, so that its median is of neither side
        if now_s is not None and before_s is not None and not differ(before_s, now_s):
            self.other_s = now_s if differ(now_s, self.period_s) else None


def differ(period_s: float, said_s: float, tolerance: float = TOLERANCE) -> bool:
    """Whether a period is another one than that which is said."""
    return abs(period_s - said_s) > tolerance * said_s


def period_of(index: np.ndarray, t_ns: np.ndarray, said_s: float) -> float | None:
    """The median time from frame to frame, in s, of frames (n,) at times (n,); None for one frame, or a clock that
    stands still.

    Of single steps, if that is what is said: a camera may pause again and again. Else of long ones: the stamps of
    frames may come in bursts.
    """
    period_s = 0.0
    for apart in (1, min(_APART, len(index) - 1)) if len(index) > 1 else ():
        step_s = (t_ns[apart:] - t_ns[:-apart]) * 1e-9 / (index[apart:] - index[:-apart])
        period_s = float(np.median(step_s))
        if not differ(period_s, said_s):
            break
    return period_s if period_s > 0 else None


def recorded_period(path: Path, index: np.ndarray, t_ns: np.ndarray | None, said_s: float) -> float | None:
    """The period of a whole recording by its frames' own time stamps, s; None where it has none.

    Parameters
    ----------
    index, t_ns : (n,) i8, of the frames; -1 where a frame has no time.
    said_s : the period, as it is said.

    Raises
    ------
    CalibrationError
        If the period changes on the way.
    """
    if t_ns is None:
        return None
    timed = t_ns >= 0
    index, t_ns = index[timed], t_ns[timed]
    period_s = period_of(index, t_ns, said_s)
    if period_s is None:
        return None
    for first in range(0, len(index) - _FRAMES, _APART):
        window = slice(first, first + _FRAMES + 1)
        here_s = period_of(index[window], t_ns[window], period_s)
        if here_s is not None and differ(here_s, period_s, _CHANGE):
            raise changed(path, int(index[window][-1]), here_s, period_s)
    return period_s


def changed(path: Path, index: int, here_s: float, period_s: float) -> CalibrationError:
    """The error of a recording whose period changes on the way, as noticed at frame `index`."""
    return CalibrationError(
        f"{path}: the frame period changes within the series: expected one from the first frame to the last, got "
        f"{here_s:.4g} s before frame {index} and {period_s:.4g} s in the median of all, by the frames' own time "
        "stamps; no one period is right for both: replay the parts apart"
    )
