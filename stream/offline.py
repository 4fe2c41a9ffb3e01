"""A recording down the same pipeline as live frames, every frame of it, into result tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from stream.config import Settings
from stream.files import open_recording
from stream.files.source import FileSource
from stream.find import open_where
from stream.frame import Frame, Gap, Item, SeriesEnd
from stream.histories import Histories
from stream.pipeline import Analysis, Seen
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
    with closing(open_where(settings.engine)) as where, open_recording(path) as recording:
        analysis = Analysis(settings, where)
        analysis.begin(recording.header)
        header = analysis.header or recording.header
        began_s = time.perf_counter()
        with ResultFile(
            out, header=header, settings_toml=settings.to_toml(), engine_toml=where.manifest.to_toml()
        ) as result:
            done = 0

            def keep() -> None:
                nonlocal done
                for seen in analysis.fetch():
                    if isinstance(seen, Seen):
                        result.add_frame(seen)
                    else:
                        result.add_gap(seen)
                    done += 1
                    on_frame(done, len(recording))

            for batch in _batches(recording, analysis.most, stopped):
                if not analysis.room:
                    keep()
                analysis.start(batch)
            while analysis.under_way:
                keep()
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
        "device": where.runs_on,
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


def _batches(
    items: Iterable[Item | None], most: int, stopped: Callable[[], bool]
) -> Iterator[list[Frame | Gap]]:
    """The frames of the first series, `most` at once, with the gaps between them."""
    batch: list[Frame | Gap] = []
    frames = 0
    for item in items:
        if stopped() or isinstance(item, SeriesEnd):
            break
        if isinstance(item, Frame | Gap):
            batch.append(item)
            frames += isinstance(item, Frame)
        if frames == most:
            yield batch
            batch, frames = [], 0
    if batch:
        yield batch
