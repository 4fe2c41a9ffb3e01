"""hopscope detect: the columns of single images, of movies and of focal series, as a table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from engines.manifest import EngineMismatch, Manifest
from stream.calibrate import measure_scale
from stream.config import EngineSettings
from stream.files import open_recording
from stream.files.source import FileSource
from stream.find import Where, find_all, open_where
from stream.frame import CalibrationError, Frame, Gap, WireError
from stream.infer import own_pixel_size_nm
from stream.scale import Scale
from stream.spacing import Spacing

FIELDS = ("file", "frame", "y", "x", "score", "kind")


def detect_images(
    images: list[Path],
    out_csv: Path,
    engine: EngineSettings,
    pixel_size_nm: float | Literal["auto"] | None,
    spacing_px: float | None,
    on_image: Callable[[Path], object] = lambda _: None,
) -> dict[str, Any]:
    """Find the columns in every frame of every file and write them to `out_csv`.

    An engine for stacks of c images takes each file's frames c by c, in their order: the columns that they show
    together are written as those of the first.

    Parameters
    ----------
    images : files of any format that `open_recording` reads, of one frame or many.
    out_csv : table with FIELDS; y and x in pixels of the input image, (0, 0) the first pixel's centre.
    engine : which, its threshold, and where it runs.
    pixel_size_nm : at the specimen, in nm; overrides what a file says. "auto" estimates it for every file from its
        lattice, says so in the log, and adds a column pixel_size_nm to the table.
    spacing_px : from a column to its nearest, for an engine that is scaled by that; None measures it in every file,
        says so in the log, and adds a column spacing_px to the table.

    Raises
    ------
    CalibrationError
        If neither `pixel_size_nm` nor the file says how large a pixel is, or it cannot be estimated.
    EngineMismatch, DeviceError
        If the engine cannot read that sampling, is not scaled by what was given, or cannot run where it shall; or if
        it is for stacks, and a file has no whole number of them or lacks a frame.
    WireError
        If a frame cannot be decoded.
    """
    frames = columns = 0
    scales: dict[str, Scale | Spacing] = {}
    partial = out_csv.with_name(out_csv.name + ".partial")
    with (
        closing(open_where(engine, pictures=False, stacks=True)) as where,
        _unless_done(partial),
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        measured = _measured(where.manifest, pixel_size_nm, spacing_px)
        table.writerow((*FIELDS, measured) if measured else FIELDS)
        for image in images:
            known: dict[str, Any] = {"pixel_size_nm": pixel_size_nm, "spacing_px": spacing_px}
            if measured:
                scales[str(image)] = scale = measure_scale(image, where.manifest)
                known[measured] = getattr(scale, measured)
            for row in _rows(image, where, **known, threshold=engine.threshold):
                if row is None:
                    frames += where.manifest.input_channels
                else:
                    columns += 1
                    table.writerow((*row, f"{known[measured]:.6g}") if measured else row)
            on_image(image)
        file.close()
        partial.replace(out_csv)  # a failed run never leaves a table that looks whole
    summary: dict[str, Any] = {
        "file": str(out_csv), "images": len(images), "frames": frames, "columns": columns, "device": where.runs_on
    }  # fmt: skip
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
    image: Path, where: Where, pixel_size_nm: float | None, spacing_px: float | None, threshold: float | None
) -> Iterator[tuple[Any, ...] | None]:
    """The rows of one file; None once per frame, or stack."""
    with open_recording(image) as recording:
        header = recording.header
        size_nm = header.pixel_size_nm if pixel_size_nm is None else pixel_size_nm
        size_nm = own_pixel_size_nm(where.manifest, size_nm, spacing_px)
        if size_nm is None:
            raise CalibrationError(
                f"the pixel size of {image} is not known: expected it in the file, found none there; "
                "give --pixel-size-nm"
            )
        where.begin(header, size_nm, threshold)
        names = where.manifest.classes
        for frame, found in find_all(where, _frames(recording, where.manifest)):
            if found is None:
                raise WireError(f"frame {frame.index} of {image} cannot be decoded; the log says why")
            columns = found.columns
            for (y, x), score, kind in zip(columns.yx_px, columns.score, columns.kind, strict=True):
                yield (str(image), frame.index, f"{y:.3f}", f"{x:.3f}", f"{score:.4f}", names[kind])
            yield None


def _frames(recording: FileSource, manifest: Manifest) -> Iterator[Frame]:
    """The frames of a file; for an engine for stacks a whole number of stacks, each of which is whole."""
    channels = manifest.input_channels
    reads = f"engine {manifest.name} reads stacks of {channels} images"
    if len(recording) % channels:
        raise EngineMismatch(
            f"{reads}: expected a multiple of that in {recording.path}, got {len(recording)}; write one whole focal "
            "series after the other to the file, or choose an engine for single images"
        )
    for item in recording:
        if isinstance(item, Frame):
            yield item
        elif isinstance(item, Gap) and channels > 1:
            raise EngineMismatch(
                f"{reads}: expected whole ones in {recording.path}, got none of frames {item.first} to "
                f"{item.first + item.count - 1} ({item.reason}); write whole focal series to a file of their own"
            )
