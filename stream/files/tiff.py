"""TIFF and BigTIFF stacks, page by page."""

from __future__ import annotations

import logging
import math
import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from stream.files.calibration import in_nm, in_s, own_names, square_pixel_nm
from stream.files.picture import luminance
from stream.files.raw import open_raw
from stream.files.source import FileSource, Payload, plain_header
from stream.frame import RecordingError

log = logging.getLogger(__name__)

# what tifffile raises on a damaged file (seen by damaging many); its own TiffFileError is a ValueError
_DAMAGE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError,
    struct.error,
)  # fmt: skip


def open_tiff(path: Path, dataset: str | None = None) -> FileSource:
    """The stack in a TIFF: its only series of pages of one size, or the one whose number is `dataset`.

    Pixel size and frame period come from ImageJ's or OME's description, or from one that names SeriesHeader's
    fields. The resolution in inches or centimetres says how large to print; it is not read. Colour pages
    of 8 bits become luminance, and the log says so.

    Raises
    ------
    RecordingError
        If it is damaged, holds several stacks, more than one axis besides (y, x), or other colours.
    """
    _check_chain(path)
    try:
        tiff = tifffile.TiffFile(path)
    except _DAMAGE as error:
        raise RecordingError(f"{path} cannot be read as TIFF: {error}; is it complete?") from error
    try:
        series = _choose(tiff, path, dataset)
        count, shape_yx, colour = _frames(series, path)
        calibration = _calibration(tiff, series, count, path)
        header = plain_header(path, (count, *shape_yx), series.dtype, calibration)
        if series.dataoffset is not None and not colour:
            # uncompressed and in one piece; ImageJ writes only the first page of more than 4 GB
            dtype = series.dtype.newbyteorder(">" if tiff.byteorder == ">" else "<")
            tiff.close()
            return open_raw(path, series.dataoffset, (count, *shape_yx), dtype, calibration)
        last = _page(series, count - 1)
        ends = [at + size for at, size in zip(last.dataoffsets, last.databytecounts, strict=True)]
        if not ends or max(ends) > path.stat().st_size:
            raise RecordingError(f"{path} ends before the last of its {count} frames; it is cut short")
    except _DAMAGE as error:
        tiff.close()
        raise RecordingError(f"{path} cannot be read as TIFF: {error}; is it damaged?") from error
    except BaseException:
        tiff.close()
        raise

    def fetch(position: int) -> Payload:
        try:
            counts = _page(series, position).asarray().reshape(*shape_yx, *([3] if colour else []))
        except _DAMAGE as error:
            raise ValueError(str(error)) from error
        return (luminance(counts) if colour else counts), "none"

    if colour:
        log.info("%s is in colour; its luminance is taken", path)
    return FileSource(path, header, fetch, indices=np.arange(count), on_close=tiff.close)


def _check_chain(path: Path) -> None:
    """Follow the pages to the last; tifffile would take those it finds in a damaged file for all."""
    with path.open("rb") as file:
        mark, size = file.read(16), path.stat().st_size
        order = "<" if mark[:2] == b"II" else ">"
        big = mark[2:4] in (b"\x2b\0", b"\0\x2b")
        number = struct.Struct(order + ("Q" if big else "H"))
        offset = struct.Struct(order + ("Q" if big else "I"))
        try:
            (at,) = offset.unpack_from(mark, 8 if big else 4)
            seen: set[int] = set()
            while at:
                if at in seen:
                    raise RecordingError(
                        f"{path}: page {len(seen)} lies at byte {at} as one before; it is damaged"
                    )
                seen.add(at)
                file.seek(at)
                (tags,) = number.unpack(file.read(number.size))
                if tags > size // 12:
                    raise RecordingError(f"{path}: page {len(seen) - 1} announces {tags} tags; it is damaged")
                file.seek(tags * (20 if big else 12), 1)
                (at,) = offset.unpack(file.read(offset.size))
        except struct.error:
            raise RecordingError(
                f"{path} ends at byte {size}, before its last page; it is cut short"
            ) from None


def _choose(tiff: tifffile.TiffFile, path: Path, dataset: str | None) -> tifffile.TiffPageSeries:
    all_series = tiff.series
    listed = ", ".join(f"{i}: {s.axes} {s.shape} {s.dtype}" for i, s in enumerate(all_series)) or "none"
    if dataset is not None:
        if not dataset.isdecimal() or int(dataset) >= len(all_series):
            raise RecordingError(f"{path} has no series {dataset!r}; it has {listed}")
        return all_series[int(dataset)]
    if len(all_series) != 1:
        raise RecordingError(
            f"{path} holds {len(all_series)} series of pages, one was expected; {listed}; name one"
        )
    return all_series[0]


def _page(series: tifffile.TiffPageSeries, position: int) -> tifffile.TiffPage | tifffile.TiffFrame:
    page = series.pages[position]
    if page is None:
        raise ValueError(f"page {position} is missing")
    return page


def _frames(series: tifffile.TiffPageSeries, path: Path) -> tuple[int, tuple[int, int], bool]:
    """How many frames, their (ny, nx), and whether they are in colour."""
    axes, shape = series.axes, series.shape
    colour = axes.endswith("YXS")
    if colour:
        if shape[-1] != 3 or series.dtype != np.uint8:
            raise RecordingError(
                f"{path} has {shape[-1]} samples of {series.dtype} per pixel; grey, or three colours of 8 bits, "
                "were expected: save it as grey"
            )
        axes, shape = axes[:-1], shape[:-1]
    if series.keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE:
        raise RecordingError(f"{path} stores numbers of a palette, not counts; save it as grey")
    counts = [n for n in shape[:-2] if n != 1]
    if not axes.endswith("YX") or len(counts) > 1 or 0 in shape:
        raise RecordingError(
            f"{path} has axes {series.axes} of {series.shape}; frames (y, x) or a stack (frame, y, x) were expected: "
            "split it into one file per channel or plane"
        )
    return math.prod(counts), (int(shape[-2]), int(shape[-1])), colour


def _calibration(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, count: int, path: Path
) -> dict[str, float]:
    number = next(i for i, other in enumerate(tiff.series) if other is series)
    if tiff.is_imagej:
        found = _from_imagej(tiff, count, path)
    elif tiff.is_ome and tiff.ome_metadata:
        found = _from_ome(tiff.ome_metadata, number, path)
    else:
        found = {}
    for described in tiff.shaped_metadata or ():
        found |= own_names(described, str(path))
    return found


def _from_imagej(tiff: tifffile.TiffFile, count: int, path: Path) -> dict[str, float]:
    """ImageJ says the unit in its description, and pixels per unit as the resolution."""
    said = tiff.imagej_metadata or {}
    if isinstance(said.get("images"), int) and said["images"] > count:
        raise RecordingError(f"{path} announces {said['images']} images and holds {count}; it is cut short")
    found: dict[str, float | None] = {"frame_period_s": None}
    period, unit_s = said.get("finterval"), str(said.get("tunit", "s"))
    if isinstance(period, int | float) and 0 < period < math.inf:
        found["frame_period_s"] = in_s(period, unit_s)
    sides = []
    for tag in ("YResolution", "XResolution"):
        value = tiff.pages.first.tags.valueof(tag)
        numerator, denominator = value if isinstance(value, tuple) and len(value) == 2 else (0, 1)
        sides.append(in_nm(denominator / numerator, str(said.get("unit", ""))) if numerator else None)
    found["pixel_size_nm"] = square_pixel_nm(sides[0], sides[1], path)
    return {name: value for name, value in found.items() if value is not None}


def _from_ome(xml: str, number: int, path: Path) -> dict[str, float]:
    try:
        images = ElementTree.fromstring(xml).findall(".//{*}Image/{*}Pixels")
        said = images[number].attrib
        y, x = (
            in_nm(float(said[f"PhysicalSize{axis}"]), said.get(f"PhysicalSize{axis}Unit", "µm"))
            if f"PhysicalSize{axis}" in said
            else None
            for axis in "YX"
        )
        period = float(said["TimeIncrement"]) if "TimeIncrement" in said else math.nan
    except (ElementTree.ParseError, IndexError, ValueError) as error:
        raise RecordingError(
            f"{path}: its OME description cannot be read: {error}; correct or remove it"
        ) from error
    found = {"pixel_size_nm": square_pixel_nm(y, x, path), "frame_period_s": None}
    if 0 < period < math.inf:
        found["frame_period_s"] = in_s(period, said.get("TimeIncrementUnit", "s"))
    return {name: value for name, value in found.items() if value is not None}
