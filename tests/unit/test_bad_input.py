"""What a camera should not send: handled, or refused by name, and never a wrong rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.runtime import Engine, open_engine
from stream.config import Camera, EngineSettings, Settings
from stream.find import OnCpu
from stream.frame import Encoding, Frame, Gap, SeriesHeader
from stream.pipeline import Analysis, Seen
from stream.tracking import Tracker
from tests.helpers.detections import particle
from tests.helpers.tiny_engine import make_tiny_engine

SHAPE = (512, 512)
PERIOD_NS = 20_000_000
SMALL = (96, 128)
HEADER = SeriesHeader(3, SMALL, np.dtype("<u2"), frame_period_s=0.02, pixel_size_nm=0.02)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder: Path = tmp_path_factory.mktemp("engine")
    with open_engine(make_tiny_engine(folder)) as engine:
        yield engine


def frame(index: int, t_ns: int | None = None) -> Frame:
    counts = np.random.default_rng(index).poisson(10, SMALL).astype("<u2")
    counts[10:90:14, 10:120:14] += 200
    payload = memoryview(counts.tobytes()).toreadonly()
    t_ns = index * PERIOD_NS if t_ns is None else t_ns
    return Frame(3, index, t_ns, 0, payload, Encoding(SMALL, counts.dtype, "none"))


def see(analysis: Analysis, one: Frame) -> list[Seen | Gap]:
    analysis.start([one])
    return list(analysis.fetch())


def followed(tracker: Tracker, yx_px: np.ndarray, first: int, last: int, seed: int = 1) -> list:
    rng = np.random.default_rng(seed)
    events = []
    for index in range(first, last):
        found = yx_px + rng.normal(0, 0.2, yx_px.shape)
        events += tracker.update(index, index * PERIOD_NS, found).events
    return events


@pytest.mark.parametrize("at", [0, 2, 60])
def test_one_frame_with_100_times_the_usual_columns_changes_nothing(at: int) -> None:
    rng, there = np.random.default_rng(2), particle(80)
    tracker = Tracker(SHAPE, 0.02, 0.02)
    events = followed(tracker, there, 0, at)
    events += tracker.update(at, at * PERIOD_NS, rng.random((100 * len(there), 2)) * 511).events
    events += followed(tracker, there, at + 1, 120, seed=3) + tracker.finish()
    assert events == []
    assert np.count_nonzero(~tracker.sites.proposed) == len(there)
    assert len(tracker.sites.candidates_yx_nm) == 0
    now = tracker.occupancy.snapshot()
    real = ~tracker.sites.proposed
    frames = now.observed_s[real] / 0.02
    assert frames.min() >= 120 - 6  # of the first frames, those before the birth that knew no drift yet
    assert frames.max() <= 120.001
    assert now.occupied_s[real] / 0.02 == pytest.approx(frames, abs=1)


def with_blank_frames(there: np.ndarray) -> Tracker:
    """A tracker that saw columns, five empty frames, and the columns again: of which it told no event."""
    tracker = Tracker(SHAPE, 0.02, 0.02)
    events = followed(tracker, there, 0, 50)
    for index in range(50, 55):
        assert tracker.update(index, index * PERIOD_NS, np.empty((0, 2))).shift.lost
    events += followed(tracker, there, 55, 100, seed=3) + tracker.finish()
    assert events == []
    observed_s = tracker.occupancy.snapshot().observed_s[~tracker.sites.proposed]
    assert observed_s / 0.02 == pytest.approx(95, abs=1)
    return tracker


def test_an_empty_frame_is_no_time_observed_and_no_event() -> None:
    tracker = with_blank_frames(particle(80))
    now, real = tracker.occupancy.snapshot(), ~tracker.sites.proposed
    assert now.arrivals[real].max() < 0.01  # nor is the first frame one: nothing is known of before
    assert now.departures[real].max() < 0.001


FEW = np.array([[100.0, 100.0], [100.0, 112.5], [300.0, 120.0], [150.0, 400.0]])


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_an_empty_frame_of_a_few_columns_is_no_event_either(columns: int) -> None:
    tracker = with_blank_frames(FEW[:columns])
    real = ~tracker.sites.proposed
    assert np.count_nonzero(real) == columns
    assert tracker.occupancy.snapshot().departures[real].max() < 0.01


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_few_columns_that_hop_and_leave_are_followed(columns: int) -> None:
    """The first hops to the next place and back; then all leave, one after the other, and nothing is left."""
    there, tracker = FEW[[0, 2, 3, 1]][:columns], Tracker(SHAPE, 0.02, 0.02)
    away = there.copy()
    away[0] += (12.5, 0.0)
    events, last = [], 0
    for at in (there, away, there, *(there[k:] for k in range(1, columns + 1))):
        events += followed(tracker, at, last, last + 50, seed=last + 1)
        last += 50
    events += tracker.finish()
    assert [event.frame for event in events if event.kind == "hop"] == [50, 100]
    left = [event.frame for event in events if event.kind == "disappear"]
    assert left == list(range(150, last, 50))
    now = tracker.occupancy.snapshot()
    real = now.occupied_s > 0.5
    assert now.observed_s[real] / 0.02 == pytest.approx(last, abs=60)  # empty frames after the last tell, too


def test_missing_frames_are_no_time_observed_and_their_time_passes() -> None:
    """A site that is occupied before a gap of 500 frames and empty after it left once, in one frame's time at most."""
    there, tracker = particle(80), Tracker(SHAPE, 0.02, 0.02)
    followed(tracker, there, 0, 100)
    events = followed(tracker, there[1:], 600, 700, seed=3) + tracker.finish()
    (event,) = events
    assert (event.kind, event.frame) == ("disappear", 600)
    now = tracker.occupancy.snapshot()
    assert now.observed_s[event.from_site] / 0.02 == pytest.approx(200, abs=1)
    assert now.departures[event.from_site] < 0.01  # 1/500 of one switch: the rest fell into time nobody saw


@pytest.mark.parametrize("index", [19, 12, 0])
def test_frames_that_came_before_are_left_alone_and_counted(engine: Engine, index: int) -> None:
    analysis = Analysis(Settings(), OnCpu(engine, "a test"))
    analysis.begin(HEADER)
    for k in range(20):
        assert see(analysis, frame(k))
    before = analysis.state()
    assert see(analysis, frame(index)) == []
    assert analysis.report()["counters"]["out_of_order"] == 1
    after = analysis.state()
    assert before.keys() == after.keys()
    for name in before.keys() - {"counted"}:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert see(analysis, frame(20))


@pytest.mark.parametrize("t_ns", [19 * PERIOD_NS, 5, -1])
def test_a_clock_that_does_not_go_on_is_refused_by_name(
    engine: Engine, t_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    analysis = Analysis(Settings(), OnCpu(engine, "a test"))
    analysis.begin(HEADER)
    for k in range(20):
        see(analysis, frame(k))
    assert see(analysis, frame(20, t_ns)) == [Gap(3, 20, 1, "decode")]
    assert "out of order" in caplog.text
    assert isinstance(see(analysis, frame(21))[0], Seen)
    assert analysis.report()["gaps"] == {"decode": 1}


@pytest.mark.parametrize(
    "change",
    [{"pixel_size_nm": 0.021}, {"frame_period_s": 0.05}, {"exposure_s": 0.01}, {"dose_rate_e_nm2_s": 5.0}],
)
def test_another_calibration_within_a_series_begins_anew(engine: Engine, change: dict[str, float]) -> None:
    analysis = Analysis(Settings(), OnCpu(engine, "a test"))
    analysis.begin(HEADER)
    for k in range(20):
        see(analysis, frame(k))
    first, state = analysis.tracker, analysis.state()
    analysis.begin(HEADER)
    assert analysis.tracker is first
    changed = replace(HEADER, **change)
    analysis.begin(changed)
    tracker = analysis.tracker
    assert tracker is not None
    assert tracker is not first
    assert len(tracker.sites) == 0
    assert tracker.occupancy.frame_period_s == changed.frame_period_s
    assert tracker.sites.pixel_size_nm == changed.pixel_size_nm
    for header, remembered in ((HEADER, True), (changed, False)):
        again = Analysis(Settings(), OnCpu(engine, "a test"))
        again.restore(state)
        again.begin(header)
        assert again.tracker is not None
        assert (len(again.tracker.sites) > 0) == remembered


def test_settings_that_contradict_the_stream_are_told_once_per_series(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(camera=Camera(pixel_size_nm=0.0205, frame_period_s=0.02))
    analysis = Analysis(settings, OnCpu(engine, "a test"))
    for series_id in (3, 3, 4):
        analysis.begin(replace(HEADER, series_id=series_id))
        (text,) = analysis.warnings
        assert f"0.02 as series {series_id} says, and 0.0205 by camera.pixel_size_nm" in text
        assert analysis.header is not None
        assert analysis.header.pixel_size_nm == 0.0205
    assert caplog.text.count("correct whichever is wrong") == 2
    analysis.begin(replace(HEADER, series_id=5, pixel_size_nm=0.0205))
    assert analysis.warnings == []


def test_sites_behind_bad_pixels_are_not_observed_rather_than_empty() -> None:
    there = particle(80)
    mask = np.zeros(SHAPE, bool)
    mask[:, 290:310] = True  # a dead stripe, 1.6 spacings wide
    mask[::37, ::41] = True  # single pixels hide nothing
    tracker = Tracker(SHAPE, 0.02, 0.02, bad_pixels=mask)
    rng, events = np.random.default_rng(4), []
    drift = 25.0 * np.sin(np.arange(300) / 30)  # columns go behind the stripe and come back
    hidden = np.zeros((300, len(there)), bool)
    for index in range(300):
        at = there + np.array([0.0, drift[index]])
        hidden[index] = (at[:, 1] > 290 - 0.5) & (at[:, 1] < 309 + 0.5)
        found = at[~hidden[index]]
        events += tracker.update(index, index * PERIOD_NS, found + rng.normal(0, 0.2, found.shape)).events
    events += tracker.finish()
    assert [event for event in events if event.kind != "appear"] == []
    sites, now = tracker.sites, tracker.occupancy.snapshot()
    apart = np.hypot(*(sites.yx_nm[:, None] / 0.02 - there).transpose(2, 0, 1))
    real, partner = apart.min(axis=1) < 2, apart.argmin(axis=1)
    share = now.occupied_s[real] / now.observed_s[real]
    assert np.median(share) > 0.99
    assert (share > 0.9).all()
    # half covered counts as hidden or as seen: a column crosses both edges, twice per period
    seen = 300 - hidden.sum(axis=0)[partner[real]]
    assert (now.observed_s[real] / 0.02 <= seen + 1).all()
    assert hidden.any(axis=0).sum() > 40


@pytest.mark.parametrize(("told", "share"), [(None, 0.76), (0.7, 1.4)])
def test_a_session_tracks_weaker_columns_than_a_picture_alone_shows(
    engine: Engine, told: float | None, share: float
) -> None:
    where = OnCpu(engine, "a test")
    Analysis(Settings(engine=EngineSettings(threshold=told)), where).begin(HEADER)
    assert where._finder is not None
    assert where._finder.threshold == pytest.approx(share * engine.manifest.threshold)
    where.begin(HEADER, 0.02)
    assert where._finder.threshold == engine.manifest.threshold == 0.5
