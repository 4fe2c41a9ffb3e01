"""A recording down the same pipeline as live frames, every frame of it, into result tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines.manifest import Manifest
from engines.runtime import open_engine
from stream.calibrate import measure_scale
from stream.config import Settings
from stream.files import open_recording
from stream.frame import CalibrationError, Frame, Gap, SeriesEnd, WireError
from stream.pipeline import Analysis
from stream.scale import Scale
from stream.spacing import Spacing
from stream.tables import ResultFile


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
    A summary: frames, gaps, columns, sites, events, hops, seconds, and the scale where it was measured.

    Raises
    ------
    CalibrationError, EngineMismatch
        As `Analysis.begin` and `measure_scale`.
    """
    engine_settings = settings.engine
    with (
        open_engine(engine_settings.name, engine_settings.backend, engine_settings.threads) as engine,
        open_recording(path) as recording,
    ):
        settings, scale = _self_scaled(path, settings, engine.manifest)
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
            result.add_events(analysis.finish())
            if tracker is not None:
                result.finish(tracker)
        seconds = time.perf_counter() - began_s
    report = analysis.report()
    analysed = report["counters"]["analysed"]
    return {
        "file": str(out),
        "frames": analysed,
        **report["counters"],
        "gaps": report["gaps"],
        **({} if scale is None else {"scale": asdict(scale)}),
        "seconds": round(seconds, 3),
        "frames_per_s": round(analysed / seconds, 2) if seconds else 0.0,
    }


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
