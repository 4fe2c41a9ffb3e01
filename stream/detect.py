"""hopscope detect: the columns of single images and stacks, as a table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from engines.manifest import EngineMismatch, Manifest
from engines.runtime import open_engine
from stream.calibrate import measure_scale
from stream.files import open_recording
from stream.frame import CalibrationError, Frame
from stream.infer import ColumnFinder, own_pixel_size_nm
from stream.scale import Scale
from stream.spacing import Spacing

FIELDS = ("file", "frame", "y", "x", "score", "kind")


def detect_images(
    images: list[Path],
    out_csv: Path,
    engine_name: str,
    pixel_size_nm: float | Literal["auto"] | None,
    spacing_px: float | None,
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
    spacing_px : from a column to its nearest, for an engine that is scaled by that; None measures it in every file,
        says so in the log, and adds a column spacing_px to the table.

    Raises
    ------
    CalibrationError
        If neither `pixel_size_nm` nor the file says how large a pixel is, or it cannot be estimated.
    EngineMismatch
        If the engine cannot read that sampling, or is not scaled by what was given.
    """
    frames = columns = 0
    scales: dict[str, Scale | Spacing] = {}
    partial = out_csv.with_name(out_csv.name + ".partial")
    with (
        open_engine(engine_name) as engine,
        _unless_done(partial),
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        measured = _measured(engine.manifest, pixel_size_nm, spacing_px)
        table.writerow((*FIELDS, measured) if measured else FIELDS)
        for image in images:
            known: dict[str, Any] = {"pixel_size_nm": pixel_size_nm, "spacing_px": spacing_px}
            if measured:
                scales[str(image)] = scale = measure_scale(image, engine.manifest)
                known[measured] = getattr(scale, measured)
            for row in _rows(image, engine, **known, threshold=threshold):
                frames += row is None
                if row is not None:
                    columns += 1
                    table.writerow((*row, f"{known[measured]:.6g}") if measured else row)
            on_image(image)
        file.close()
        partial.replace(out_csv)  # a failed run never leaves a table that looks whole
    summary = {"file": str(out_csv), "images": len(images), "frames": frames, "columns": columns}
    if scales:
        summary["scales"] = {file: asdict(scale) for file, scale in scales.items()}
    return summary


def _measured(
    manifest: Manifest, pixel_size_nm: float | Literal["auto"] | None, spacing_px: float | None
) -> Literal["pixel_size_nm", "spacing_px"] | None:
    """What must be measured in every file; None if it is given, or shall be read there."""
    if manifest.nominal_spacing_px is None:
        return "pixel_size_nm" if pixel_size_nm == "auto" else None
    if pixel_size_nm is not None and pixel_size_nm != "auto":
        raise EngineMismatch(
            f"engine {manifest.name} is scaled by the spacing of columns: expected that or nothing, got a pixel size "
            f"of {pixel_size_nm:g} nm; leave it out, or give --spacing-px"
        )
    return "spacing_px" if spacing_px is None else None


@contextmanager
def _unless_done(partial: Path) -> Iterator[None]:
    """Take the unfinished table away, whatever happens."""
    try:
        yield
    finally:
        partial.unlink(missing_ok=True)


def _rows(
    image: Path, engine: Any, pixel_size_nm: float | None, spacing_px: float | None, threshold: float | None
) -> Iterator[tuple[Any, ...] | None]:
    """The rows of one file; None once per frame."""
    with open_recording(image) as recording:
        header = recording.header
        size_nm = header.pixel_size_nm if pixel_size_nm is None else pixel_size_nm
        size_nm = own_pixel_size_nm(engine.manifest, size_nm, spacing_px)
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
