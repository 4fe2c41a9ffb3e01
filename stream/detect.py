"""hopscope detect: the columns of single images and stacks, as a table."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from engines.manifest import Manifest
from stream.config import EngineSettings
from stream.files import open_recording
from stream.find import Where, find_all, open_where
from stream.frame import CalibrationError, Frame, WireError
from stream.scale import Scale, estimate_scale

FIELDS = ("file", "frame", "y", "x", "score", "kind")
SCALE_FRAMES = 8  # of a stack, that a pixel size is estimated from
log = logging.getLogger("hopscope.detect")


def detect_images(
    images: list[Path],
    out_csv: Path,
    engine: EngineSettings,
    pixel_size_nm: float | Literal["auto"] | None,
    on_image: Callable[[Path], object] = lambda _: None,
) -> dict[str, Any]:
    """Find the columns in every frame of every file and write them to `out_csv`.

    Parameters
    ----------
    images : files of any format that `open_recording` reads; stacks are read frame by frame.
    out_csv : table with FIELDS; y and x in pixels of the input image, (0, 0) the first pixel's centre.
    engine : which, its threshold, and where it runs.
    pixel_size_nm : at the specimen, in nm; overrides what a file says. "auto" estimates it for every file from its
        lattice, says so in the log, and adds a column pixel_size_nm to the table.

    Raises
    ------
    CalibrationError
        If neither `pixel_size_nm` nor the file says how large a pixel is, or it cannot be estimated.
    EngineMismatch, DeviceError
        If the engine cannot read that sampling, or not run where it shall.
    WireError
        If a frame cannot be decoded.
    """
    frames = columns = 0
    scales: dict[str, Scale] = {}
    partial = out_csv.with_name(out_csv.name + ".partial")
    with (
        closing(open_where(engine, pictures=False)) as where,
        _unless_done(partial),
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow((*FIELDS, "pixel_size_nm") if pixel_size_nm == "auto" else FIELDS)
        for image in images:
            size_nm, estimated = pixel_size_nm, ()
            if size_nm == "auto":
                scale = scales[str(image)] = _estimate(image, where.manifest)
                size_nm, estimated = scale.pixel_size_nm, (f"{scale.pixel_size_nm:.6g}",)
            for row in _rows(image, where, size_nm, engine.threshold):
                frames += row is None
                if row is not None:
                    columns += 1
                    table.writerow((*row, *estimated))
            on_image(image)
        file.close()
        partial.replace(out_csv)  # a failed run never leaves a table that looks whole
    summary: dict[str, Any] = {
        "file": str(out_csv), "images": len(images), "frames": frames, "columns": columns, "device": where.runs_on
    }  # fmt: skip
    if scales:
        summary["scales"] = {file: asdict(scale) for file, scale in scales.items()}
    return summary


def _estimate(image: Path, manifest: Manifest) -> Scale:
    """The pixel size of a file from its first frames; the log says what it is and how sure."""
    with open_recording(image) as recording:
        header = recording.header
        frames = []
        for item in islice((item for item in recording if isinstance(item, Frame)), SCALE_FRAMES):
            frames.append(item.counts.copy())
            item.release()
    try:
        scale = estimate_scale(frames, manifest, header.bad_pixels)
    except CalibrationError as error:
        raise CalibrationError(f"{image}: {error}") from None
    says = "" if header.pixel_size_nm is None else f" (the file says {header.pixel_size_nm:.4g})"
    log.info("%s: estimated %s%s", image, scale, says)
    return scale


@contextmanager
def _unless_done(partial: Path) -> Iterator[None]:
    """Take the unfinished table away, whatever happens."""
    try:
        yield
    finally:
        partial.unlink(missing_ok=True)


def _rows(
    image: Path, where: Where, pixel_size_nm: float | None, threshold: float | None
) -> Iterator[tuple[Any, ...] | None]:
    """The rows of one file; None once per frame."""
    with open_recording(image) as recording:
        header = recording.header
        size_nm = header.pixel_size_nm if pixel_size_nm is None else pixel_size_nm
        if size_nm is None:
            raise CalibrationError(
                f"the pixel size of {image} is not known: expected it in the file, found none there; "
                "give --pixel-size-nm"
            )
        where.begin(header, size_nm, threshold)
        names = where.manifest.classes
        for frame, found in find_all(where, (item for item in recording if isinstance(item, Frame))):
            if found is None:
                raise WireError(f"frame {frame.index} of {image} cannot be decoded; the log says why")
            columns = found.columns
            for (y, x), score, kind in zip(columns.yx_px, columns.score, columns.kind, strict=True):
                yield (str(image), frame.index, f"{y:.3f}", f"{x:.3f}", f"{score:.4f}", names[kind])
            yield None
