"""hopscope detect: the columns of single images and stacks, as a table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.runtime import open_engine
from stream.files import open_recording
from stream.frame import CalibrationError, Frame
from stream.infer import ColumnFinder

FIELDS = ("file", "frame", "y", "x", "score", "kind")


def detect_images(
    images: list[Path],
    out_csv: Path,
    engine_name: str,
    pixel_size_nm: float | None,
    threshold: float | None,
    on_image: Callable[[Path], object] = lambda _: None,
) -> dict[str, Any]:
    """Find the columns in every frame of every file and write them to `out_csv`.

    Parameters
    ----------
    images : files of any format that `open_recording` reads; stacks are read frame by frame.
    out_csv : table with FIELDS; y and x in pixels of the input image, (0, 0) the first pixel's centre.
    pixel_size_nm : at the specimen, in nm; overrides what a file says.

    Raises
    ------
    CalibrationError
        If neither `pixel_size_nm` nor the file says how large a pixel is.
    EngineMismatch
        If the engine cannot read that sampling.
    """
    frames = columns = 0
    partial = out_csv.with_name(out_csv.name + ".partial")
    with (
        open_engine(engine_name) as engine,
        _unless_done(partial),
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(FIELDS)
        for image in images:
            for row in _rows(image, engine, pixel_size_nm, threshold):
                frames += row is None
                if row is not None:
                    columns += 1
                    table.writerow(row)
            on_image(image)
        file.close()
        partial.replace(out_csv)  # a failed run never leaves a table that looks whole
    return {"file": str(out_csv), "images": len(images), "frames": frames, "columns": columns}


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
        size_nm = pixel_size_nm or header.pixel_size_nm
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
