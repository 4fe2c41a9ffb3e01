"""A recording played again: paced by the clock, or sent through a socket as a camera sends it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from stream.frame import Algorithm, Frame, Item, SeriesEnd, SeriesHeader
from stream.sender import Dialect, Sender

_LOOK_S = 0.02  # between two looks at `stop`


def _never() -> bool:
    return False


class Pace:
    """Says when frame after frame is due: the n-th (from 0) at n / fps after the first.

    Frames that came late do not move those after them, so the mean rate is kept; flat out if fps is None.
    """

    def __init__(self, fps: float | None) -> None:
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps must be a positive number, or None for flat out, got {fps}")
        self._period_s = None if fps is None else 1 / fps
        self._start_s = 0.0
        self._due_s = 0.0
        self._frames = 0

    def wait(self, stop: Callable[[], bool] = _never) -> bool:
        """Wait until the next frame is due; False if told to stop."""
        now_s = time.monotonic()
        if self._period_s is None:
            return not stop()
        if self._frames == 0:
            self._start_s = now_s
        self._due_s = self._start_s + self._frames * self._period_s
        self._frames += 1
        while not stop():
            remaining_s = self._due_s - time.monotonic()
            if remaining_s <= 0:
                return True
            time.sleep(min(remaining_s, _LOOK_S))
        return False

    @property
    def lag_s(self) -> float:
        """How long ago the present frame was due; 0 flat out."""
        return 0.0 if self._period_s is None else max(0.0, time.monotonic() - self._due_s)


def paced(
    source: Iterable[Item | None], fps: float | None, stop: Callable[[], bool] = _never
) -> Iterator[Item | None]:
    """The items of `source`, its frames no earlier than the clock allows at `fps`; gaps take no time.

    When told to stop, a series that has begun still gets its SeriesEnd.
    """
    pace = Pace(fps)
    series_id: int | None = None
    for item in source:
        if stop() or (isinstance(item, Frame) and not pace.wait(stop)):
            if isinstance(item, Frame):
                item.release()
            break
        if isinstance(item, SeriesHeader):
            series_id = item.series_id
        elif isinstance(item, SeriesEnd):
            series_id = None
        yield item
    if series_id is not None:
        yield SeriesEnd(series_id)


@dataclass(frozen=True)
class Played:
    """What was sent: frames, the bytes of their payloads, and how well the clock was kept.

    `seconds` are from the moment a receiver took the first message until all was handed over;
    `max_lag_s` is the longest that a frame left after it was due.
    """

    frames: int
    bytes: int
    seconds: float
    max_lag_s: float


def play(
    source: Iterable[Item | None],
    endpoint: str,
    *,
    fps: float | None = None,
    dialect: Dialect = "dectris-v2",
    algorithm: Algorithm = "bslz4",
    stop: Callable[[], bool] = _never,
    on_frame: Callable[[Frame], object] = lambda _: None,
    on_bound: Callable[[str], object] = lambda _: None,
    patience_s: float = 30.0,
) -> Played:
    """Send `source` as a camera would: a PUSH socket that binds, and blocks while the receiver is busy.

    Nothing is dropped: at the end, or when told to stop, the series is ended and what is under way is
    delivered before this returns. Payloads already compressed by `algorithm` are sent as they are.

    Parameters
    ----------
    endpoint : to bind, such as "tcp://127.0.0.1:31001"; port ``*`` takes any free one.
    fps : frames per second, on the clock; None: as fast as the receiver takes them.
    stop : asked some 50 times a second and at each frame.
    on_frame : called with each frame once it was sent.
    on_bound : called with the address actually bound.
    patience_s : how long to wait for a receiver, also for one that takes nothing any more.

    Raises
    ------
    TimeoutError
        If no receiver came, or it took nothing for so long.
    OSError
        If the endpoint cannot be bound.
    ValueError
        If fps or the dialect is impossible.
    """
    pace = Pace(fps)
    camera = Sender(endpoint, dialect, algorithm, stop, patience_s, on_bound)
    max_lag_s = 0.0
    try:
        for item in source:
            if stop():
                break
            if isinstance(item, SeriesHeader):
                sent = camera.start(item)
            elif isinstance(item, Frame):
                sent = pace.wait(stop) and camera.send(item)
                if sent:
                    max_lag_s = max(max_lag_s, pace.lag_s)
                    on_frame(item)
                item.release()
            elif isinstance(item, SeriesEnd):
                sent = camera.end()
            else:
                continue
            if not sent:
                break
        camera.end()
        seconds = camera.hand_over()
    except BaseException:
        camera.hang_up()
        raise
    return Played(camera.frames, camera.bytes, seconds, max_lag_s)
