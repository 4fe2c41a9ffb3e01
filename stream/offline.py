"""A recording down the same pipeline as live frames, every frame of it, into result tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engines.runtime import open_engine
from stream.config import Settings
from stream.files import open_recording
from stream.files.source import FileSource
from stream.frame import Frame, Gap, SeriesEnd, WireError
from stream.histories import Histories
from stream.pipeline import Analysis
from stream.tables import ResultFile

_ROWS = 256  # frames looked at again before they are written


def analyse_recording(
    path: Path,
    out: Path,
    settings: Settings,
    stopped: Callable[[], bool] = lambda: False,
    on_frame: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Send a recording down the pipeline, every frame of it, and write the tables.

    Returns
    -------
    A summary: frames, gaps, columns, sites, events, hops, seconds.

    Raises
    ------
    CalibrationError, EngineMismatch
        As `Analysis.begin`.
    """
    engine_settings = settings.engine
    with (
        open_engine(engine_settings.name, engine_settings.backend, engine_settings.threads) as engine,
        open_recording(path) as recording,
    ):
        analysis = Analysis(settings, engine)
        analysis.begin(recording.header)
        header = analysis.header or recording.header
        began_s = time.perf_counter()
        with ResultFile(
            out, header=header, settings_toml=settings.to_toml(), engine_toml=engine.manifest.to_toml()
        ) as result:
            for done, item in enumerate(recording):
                if stopped():
                    break
                if isinstance(item, Gap):
                    analysis.miss(item)
                    result.add_gap(item)
                elif isinstance(item, Frame):
                    _see_and_keep(analysis, item, result)
                    on_frame(done, len(recording))
                elif isinstance(item, SeriesEnd):
                    break
            tracker = analysis.tracker
            _look_again(analysis, recording, result.histories, stopped)
            analysis.finish()
            events = result.finish(tracker) if tracker is not None else []
        seconds = time.perf_counter() - began_s
    report = analysis.report()
    analysed = report["counters"]["analysed"]
    return {
        "file": str(out),
        "frames": analysed,
        **report["counters"],
        "events": len(events),
        "hops": sum(event.kind == "hop" for event in events),
        "gaps": report["gaps"],
        "seconds": round(seconds, 3),
        "frames_per_s": round(analysed / seconds, 2) if seconds else 0.0,
    }


def _look_again(
    analysis: Analysis, recording: FileSource, histories: Histories, stopped: Callable[[], bool]
) -> None:
    """Read the evidence of every frame once more: when it came in, the looks of the sites were not known so well."""
    frames, done = histories.frame, 0
    rows: list[np.ndarray] = []
    for item in recording:
        if done + len(rows) == len(frames) or stopped():
            break
        if not isinstance(item, Frame):
            continue
        row = done + len(rows)
        if item.index == frames[row]:
            rows.append(analysis.look_again(item, histories.shift(row)))
        item.release()
        if len(rows) == _ROWS:
            histories.correct(done, np.stack(rows))
            done, rows = done + len(rows), []
    if rows:
        histories.correct(done, np.stack(rows))
    histories.corrected(done + len(rows))


def _see_and_keep(analysis: Analysis, frame: Frame, result: ResultFile) -> None:
    try:
        seen = analysis.see(frame)
    except WireError:
        gap = Gap(frame.series_id, frame.index, 1, "decode")
        analysis.miss(gap)
        result.add_gap(gap)
        return
    finally:
        frame.release()
    if seen is not None:
        result.add_frame(seen)
