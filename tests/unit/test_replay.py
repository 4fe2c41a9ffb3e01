"""Pacing, against a clock that only moves when told."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from stream import replay
from stream.frame import Encoding, Frame, Gap, Item, SeriesEnd, SeriesHeader
from stream.replay import Pace, paced

HEADER = SeriesHeader(3, (4, 4), np.dtype("u1"))


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.longest_sleep_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.longest_sleep_s = max(self.longest_sleep_s, seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replay, "time", clock)
    return clock


def frame(index: int, on_release: Callable[[], None] | None = None) -> Frame:
    payload = memoryview(bytes(16))
    return Frame(3, index, None, 0, payload, Encoding((4, 4), np.dtype("u1")), on_release=on_release)


def movie(frames: int) -> list[Item]:
    return [HEADER, *[frame(i) for i in range(frames)], SeriesEnd(3)]


def test_frames_come_at_the_clocks_rate_without_drift(clock: Clock) -> None:
    seen_s = []
    for item in paced(movie(101), fps=30):
        if isinstance(item, Frame):
            seen_s.append(clock.now_s - 1000.0)
            clock.now_s += 0.02  # work that fits between two frames
    np.testing.assert_allclose(seen_s, np.arange(101) / 30, atol=1e-6)
    assert clock.longest_sleep_s <= 0.02 + 1e-9, "so that a stop is seen soon"


def test_a_late_frame_does_not_move_those_after_it(clock: Clock) -> None:
    seen_s = []
    for item in paced(movie(10), fps=10):
        if isinstance(item, Frame):
            seen_s.append(clock.now_s - 1000.0)
            if item.index == 2:
                clock.now_s += 0.35
    np.testing.assert_allclose(seen_s, [0, 0.1, 0.2, 0.55, 0.55, 0.55, 0.6, 0.7, 0.8, 0.9], atol=1e-6)


def test_gaps_and_silence_take_no_time_and_flat_out_means_no_waiting(clock: Clock) -> None:
    items = [HEADER, frame(0), Gap(3, 1, 10**6, "paused"), None, frame(10**6 + 1), SeriesEnd(3)]
    assert list(paced(items, fps=1)) == items
    assert clock.now_s == pytest.approx(1001.0)
    assert list(paced(movie(5), fps=None))[1:-1]
    assert clock.now_s == pytest.approx(1001.0)


def test_told_to_stop_while_waiting_the_series_is_ended(clock: Clock) -> None:
    released = []
    items = [HEADER, *[frame(i, lambda i=i: released.append(i)) for i in range(5)], SeriesEnd(3)]
    seen = list(paced(items, fps=1, stop=lambda: clock.now_s > 1001.5))
    assert [item.index for item in seen if isinstance(item, Frame)] == [0, 1]
    assert seen[-1] == SeriesEnd(3)
    assert released == [2], "the frame that was waiting goes back to its owner"
    assert clock.now_s < 1001.6


def test_stopped_between_two_series_there_is_no_second_end() -> None:
    stops = iter([False] * 6 + [True] * 10)
    seen = list(paced([*movie(2), *movie(2)], fps=None, stop=lambda: next(stops)))
    assert seen.count(SeriesEnd(3)) == 1


def test_the_source_is_closed_when_its_reader_stops() -> None:
    closed = []

    def source() -> Iterator[Item]:
        try:
            yield from movie(100)
        finally:
            closed.append(True)

    reader = paced(source(), fps=None)
    next(reader)
    del reader
    assert closed == [True]


def test_lag_is_since_the_frame_was_due(clock: Clock) -> None:
    pace = Pace(10)
    pace.wait()
    clock.now_s += 0.25
    assert pace.lag_s == pytest.approx(0.25)
    pace.wait()
    assert pace.lag_s == pytest.approx(0.15)
    flat_out = Pace(None)
    assert flat_out.wait()
    assert flat_out.lag_s == 0


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_impossible_rates(fps: float) -> None:
    with pytest.raises(ValueError, match="fps must be a positive number"):
        Pace(fps)
