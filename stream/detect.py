"""hopscope detect: the columns of single images and stacks, as a table."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from engines.manifest import Manifest
from engines.runtime import open_engine
from stream.files import open_recording
from stream.frame import CalibrationError, Frame
from stream.infer import ColumnFinder
from stream.scale import Scale, estimate_scale

FIELDS = ("file", "frame", "y", "x", "score", "kind")
SCALE_FRAMES = 8  # of a stack, that a pixel size is estimated from
log = logging.getLogger("hopscope.detect")


def detect_images(
    images: list[Path],
    out_csv: Path,
    engine_name: str,
    pixel_size_nm: float | Literal["auto"] | None,
    threshold: float | None,
    on_image: Callable[[Path], object] = lambda _: None,
) -> dict[str, Any]:
    """Find the columns in every frame of every file and write them to `out_csv`.

    Parameters
    ----------
    images : files of any format that `open_recording` reads; stacks are read frame by frame.
    out_csv : table with FIELDS; y and x in pixels of the input image, (0, 0) the first pixel's centre.
    pixel_size_nm : at the specimen, in nm; overrides what a file says. "auto" estimates it for every file from its
        lattice, says so in the log, and adds a column pixel_size_nm to the table.

    Raises
    ------
    CalibrationError
        If neither `pixel_size_nm` nor the file says how large a pixel is, or it cannot be estimated.
    EngineMismatch
        If the engine cannot read that sampling.
    """
    frames = columns = 0
    scales: dict[str, Scale] = {}
    partial = out_csv.with_name(out_csv.name + ".partial")
    with (
        open_engine(engine_name) as engine,
        _unless_done(partial),
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow((*FIELDS, "pixel_size_nm") if pixel_size_nm == "auto" else FIELDS)
        for image in images:
            size_nm, estimated = pixel_size_nm, ()
            if size_nm == "auto":
                scale = scales[str(image)] = _estimate(image, engine.manifest)
                size_nm, estimated = scale.pixel_size_nm, (f"{scale.pixel_size_nm:.6g}",)
            for row in _rows(image, engine, size_nm, threshold):
                frames += row is None
                if row is not None:
                    columns += 1
                    table.writerow((*row, *estimated))
            on_image(image)
        file.close()
        partial.replace(out_csv)  # a failed run never leaves a table that looks whole
    summary = {"file": str(out_csv), "images": len(images), "frames": frames, "columns": columns}
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
    image: Path, engine: Any, pixel_size_nm: float | None, threshold: float | None
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
        finder = ColumnFinder(engine, header.shape_yx, size_nm, threshold)
        names = engine.manifest.classes
        for item in recording:
            if not isinstance(item, Frame):
                continue
            found, _ = finder.find(item.counts, header.bad_pixels)
            for (y, x), score, kind in zip(found.yx_px, found.score, found.kind, strict=True):
                yield (str(image), item.index, f"{y:.3f}", f"{x:.3f}", f"{score:.4f}", names[kind])
            item.release()
            yield None
