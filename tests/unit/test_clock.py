"""A frame period that the frames' own time stamps do not bear out: never a wrong rate by it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from engines.runtime import open_engine
from stream.analyse import LiveAnalysis
from stream.clock import Clock, recorded_period
from stream.config import Settings
from stream.find import OnCpu
from stream.frame import CalibrationError, Encoding, Frame, SeriesEnd, SeriesHeader
from stream.offline import analyse_recording
from stream.pipeline import Analysis
from stream.summary import Session
from stream.tables import read_table
from tests.helpers.tiny_engine import make_tiny_engine

SHAPE = (96, 128)
PERIOD_S, FRAMES = 0.1, 160
INDEX = np.arange(FRAMES)
EVEN_S = INDEX * PERIOD_S
SLOWER_S = np.cumsum(np.where(INDEX < 50, 0.1, 0.2))  # the camera was told to expose for longer


def picture(index: int) -> np.ndarray:
    """Bright spots; one of them is away for ten frames in twenty."""
    counts = np.random.default_rng(index).poisson(10, SHAPE).astype("<u2")
    counts[10:90:14, 10:120:14] += 200
    if index // 10 % 2:
        counts[52, 66] -= 200
    return counts


def asked(time_s: np.ndarray, period_s: float = PERIOD_S, index: np.ndarray = INDEX) -> list[float | None]:
    clock, said = Clock(period_s), []
    for i, t_s in zip(index.tolist(), time_s.tolist(), strict=True):
        clock.see(i, round(t_s * 1e9))
        said.append(clock.other_s)
    return said


def test_jitter_bursts_pauses_and_lost_frames_are_no_other_period() -> None:
    rng = np.random.default_rng(1)
    assert not any(asked(EVEN_S))
    assert not any(asked(EVEN_S + rng.normal(0, 0.03, FRAMES)))
    assert not any(asked(EVEN_S // 0.4 * 0.4 + INDEX * 1e-4))  # four at once, as a network may hand them on
    assert not any(asked(EVEN_S + 5.0 * (INDEX > 30) + 300.0 * (INDEX > 80)))
    assert not any(asked(EVEN_S + 2.0 * (INDEX // 8)))  # eight at a time, and a rest
    some = np.sort(rng.choice(FRAMES * 9, FRAMES, replace=False))
    assert not any(asked(some * PERIOD_S, index=some))
    assert not any(asked(EVEN_S * 0))  # a clock that stands still is refused elsewhere


@pytest.mark.parametrize("said_s", [0.05, 0.09, 0.11, 0.2, 1.0])
def test_another_period_is_noticed_within_73_frames(said_s: float) -> None:
    said = asked(EVEN_S + np.random.default_rng(2).normal(0, 0.01, FRAMES) + 7.0 * (INDEX > 20), said_s)
    assert not any(said[:72])
    assert said[72] == pytest.approx(PERIOD_S, rel=0.02)


def test_a_period_that_changes_is_noticed_and_never_taken_for_one_between() -> None:
    for at in range(40, 76):
        said = asked(np.cumsum(np.where(at > INDEX, 0.1, 0.2)))
        assert not any(said[:at])
        other = [period_s for period_s in said[: at + 108] if period_s]
        assert other
        assert other == pytest.approx([0.2] * len(other))


def test_a_recording_is_timed_by_its_frames() -> None:
    assert recorded_period(Path("a"), INDEX, None, 1.0) is None
    assert recorded_period(Path("a"), INDEX, np.full(FRAMES, -1), 1.0) is None
    assert recorded_period(Path("a"), INDEX[:1], INDEX[:1], 1.0) is None
    t_ns = np.where(INDEX % 5 == 0, -1, (EVEN_S * 1e9).astype(np.int64))
    assert recorded_period(Path("a"), INDEX, t_ns, 1.0) == pytest.approx(PERIOD_S)
    assert recorded_period(Path("a"), INDEX[:3], t_ns[2:5], 1.0) == pytest.approx(PERIOD_S)
    with pytest.raises(
        CalibrationError, match=r"movie\.h5: the frame period changes.*0\.1 s .*median of all"
    ):
        recorded_period(Path("movie.h5"), INDEX, (SLOWER_S * 1e9).astype(np.int64), 0.1)


def movie(path: Path, time_s: np.ndarray, period_s: float | None) -> Path:
    with h5py.File(path, "w") as file:
        stack = file.create_dataset("frames", data=np.stack([picture(k) for k in INDEX]))
        stack.attrs["pixel_size_nm"] = 0.02
        if period_s is not None:
            stack.attrs["frame_period_s"] = period_s
        file["t_ns"] = (time_s * 1e9).astype(np.int64)
    return path


def settings_for(folder: Path, **camera: Any) -> Settings:
    engine = make_tiny_engine(folder).with_suffix(".onnx")
    return Settings.model_validate({"camera": camera, "engine": {"name": str(engine), "threads": 1}})


@pytest.mark.parametrize(("in_file_s", "told_s"), [(0.2, None), (0.07, None), (None, 0.04), (0.1, None)])
def test_a_replay_goes_by_the_stamps_and_says_so(
    tmp_path: Path, in_file_s: float | None, told_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    recording = movie(tmp_path / "m.h5", EVEN_S, in_file_s)
    summary = analyse_recording(recording, tmp_path / "r.h5", settings_for(tmp_path, frame_period_s=told_s))
    sites = read_table(tmp_path / "r.h5", "sites")
    assert sites["observed_s"].max() == pytest.approx(FRAMES * PERIOD_S, abs=1.0)
    # fifteen switches in sixteen seconds
    assert sites["event_rate_hz"].max() == pytest.approx(15 / (FRAMES * PERIOD_S), rel=0.15)
    if in_file_s == PERIOD_S:
        assert "warnings" not in summary
    else:
        assert "got 0.1 s by the frames' own time stamps" in summary["warnings"][0]
        assert summary["warnings"][0] in caplog.text


def test_a_replay_of_two_periods_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    recording = movie(tmp_path / "m.h5", SLOWER_S, 0.1)
    with pytest.raises(CalibrationError, match="replay the parts apart"):
        analyse_recording(recording, tmp_path / "r.h5", settings_for(tmp_path))
    assert not (tmp_path / "r.h5").exists()


class Heard:
    """The least a publisher can be."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)


def test_live_the_series_is_begun_anew_by_the_clock_and_the_operator_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, publisher = settings_for(tmp_path), Heard()
    with open_engine(settings.engine.name, threads=1) as engine, caplog.at_level(logging.WARNING):
        analysis = Analysis(settings, OnCpu(engine, "a test"))
        live = LiveAnalysis(settings, analysis, publisher, tmp_path / "checkpoint.npz")  # type: ignore[arg-type]
        header = SeriesHeader(3, SHAPE, np.dtype("<u2"), frame_period_s=0.25, pixel_size_nm=0.02)
        live.take([header])
        for k in range(FRAMES):
            counts = picture(k)
            payload = memoryview(counts.tobytes()).toreadonly()
            t_ns = 1_700_000_000_000_000_000 + round(EVEN_S[k] * 1e9)
            live.take([Frame(3, k, t_ns, 0, payload, Encoding(SHAPE, counts.dtype))])
            live.take([])
            if k == 90:
                live.take([SeriesEnd(3), header])  # it fell silent for a while
            if k == 110:
                state = analysis.state()
        told = [message["frame_period_s"] for message in publisher.messages if message["type"] == "series"]
        assert told[0] == 0.25
        assert told[1:] == pytest.approx([PERIOD_S, PERIOD_S])  # as noticed, and after the silence
        assert analysis.tracker is not None
        assert analysis.tracker.occupancy.frame_period_s == pytest.approx(PERIOD_S)

        again = Analysis(settings, OnCpu(engine, "a test"))
        again.restore(state)
        again.begin(header)
        assert again.tracker is not None
        assert len(again.tracker.sites) > 0
        assert again.tracker.occupancy.frame_period_s == pytest.approx(PERIOD_S)
    assert "by the frames' own time stamps" in caplog.text
    session = Session()
    session.hear("analyse", {**analysis.report(), "warnings": analysis.warnings})
    (alarm,) = session.alarms()
    assert alarm["severity"] == "warning"
    assert "got 0.1 s by the frames' own time stamps" in alarm["text"]
    assert "got 0.1 s" in session.summary()["alarms"][0]
