"""A recording down the same pipeline as live frames, every frame of it, into result tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engines.manifest import Manifest
from stream.calibrate import measure_scale
from stream.clock import changed, recorded_period
from stream.config import Settings, calibrated
from stream.files import open_recording
from stream.files.source import FileSource
from stream.find import open_where
from stream.frame import CalibrationError, Frame, Gap, Item, SeriesEnd
from stream.histories import Histories
from stream.pipeline import Analysis, Seen
from stream.scale import Scale
from stream.spacing import Spacing
from stream.tables import ResultFile

OnFrame = Callable[[str, int, int], object]
_ROWS = 256  # frames looked at again before they are written


def analyse_recording(
    path: Path,
    out: Path,
    settings: Settings,
    stopped: Callable[[], bool] = lambda: False,
    on_frame: OnFrame = lambda doing, done, total: None,
) -> dict[str, Any]:
    """Send a recording down the pipeline, every frame of it, and write the tables.

    Parameters
    ----------
    stopped : asked before every frame; what was analysed until then is written.
    on_frame : called after every frame with what is being done, how many frames it is done for, and of how many.

    Returns
    -------
    A summary: frames, gaps, columns, sites, events, hops, seconds, the scale where it was measured, and warnings
    where calibrations contradict each other.

    Raises
    ------
    CalibrationError, EngineMismatch
        As `Analysis.begin`, `measure_scale` and `recorded_period`.
    """
    with closing(open_where(settings.engine)) as where, open_recording(path) as recording:
        settings, scale = _self_scaled(path, settings, where.manifest)
        analysis = Analysis(settings, where)
        said_s = calibrated(recording.header, settings.camera).frame_period_s or 0.0
        period_s = recorded_period(path, recording.indices, recording.t_ns, said_s)
        analysis.begin(recording.header, period_s)
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
                        clock = analysis.clock
                        if clock.other_s is not None:
                            raise changed(path, seen.frame, clock.other_s, clock.period_s)
                    else:
                        result.add_gap(seen)
                    done += 1
                    on_frame("analysed", done, len(recording))

            for batch in _batches(recording, analysis.most, stopped):
                if not analysis.room:
                    keep()
                analysis.start(batch)
            while analysis.under_way:
                keep()
            tracker = analysis.tracker
            _look_again(analysis, recording, result.histories, stopped, on_frame)
            on_frame("rates and events", len(result.histories.frame), len(result.histories.frame))
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
        **({} if scale is None else {"scale": asdict(scale)}),
        **({"warnings": analysis.warnings} if analysis.warnings else {}),
        "seconds": round(seconds, 3),
        "frames_per_s": round(analysed / seconds, 2) if seconds else 0.0,
    }


def _look_again(
    analysis: Analysis,
    recording: FileSource,
    histories: Histories,
    stopped: Callable[[], bool],
    on_frame: OnFrame,
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
            rows.append(analysis.look_again(item, histories.shift(row), histories.site_yx_px(row)))
        item.release()
        on_frame("looked at again", row + 1, len(frames))
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


def _self_scaled(
    path: Path, settings: Settings, manifest: Manifest
) -> tuple[Settings, Scale | Spacing | None]:
    """The settings with what was measured in the recording where nobody says it: pixel size, or columns' spacing."""
    camera = settings.camera
    if manifest.nominal_spacing_px is None:
        if camera.pixel_size_nm != "auto":
            return settings, None
    elif camera.pixel_size_nm == "auto":
        raise CalibrationError(
            f"the pixel size cannot be measured: expected an engine that knows a lattice, got {manifest.name}, which "
            "is scaled by the spacing of columns; hops need nm: give --pixel-size-nm"
        )
    elif camera.spacing_px is not None:
        return settings, None
    scale = measure_scale(path, manifest)
    if isinstance(scale, Spacing):
        known: dict[str, float] = {"spacing_px": scale.spacing_px}
    else:
        known = {"pixel_size_nm": scale.pixel_size_nm}
    return settings.model_copy(update={"camera": camera.model_copy(update=known)}), scale
