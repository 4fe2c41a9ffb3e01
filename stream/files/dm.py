"""DigitalMicrograph images and stacks (DM3, DM4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stream.files.calibration import in_nm, in_s, square_pixel_nm
from stream.files.dm_tags import Located, Tree, find, number, read_tags, text
from stream.files.raw import open_raw
from stream.files.source import FileSource
from stream.frame import RecordingError

# ImageData.DataType of real pixels; complex ones, packed ones and colours have other numbers
_PIXELS = {
    1: "i2",
    2: "f4",
    6: "u1",
    7: "i4",
    9: "i1",
    10: "u2",
    11: "u4",
    12: "f8",
    14: "u1",
    39: "i8",
    40: "u8",
}
_ENERGY_UNITS = {"ev", "kev"}


@dataclass(frozen=True, slots=True)
class _Image:
    """One image of the file: shape in numpy's order, (y, x) or (frame, y, x)."""

    number: str
    shape: tuple[int, ...]
    pixels: int | None
    data: Located | None
    units: list[str]
    scales: list[float | None]
    tags: Tree

    def __str__(self) -> str:
        return f"{self.number}: {self.shape} {_PIXELS.get(self.pixels or 0, f'data type {self.pixels}')}"


def open_dm(path: Path, dataset: str | None = None) -> FileSource:
    """The image or stack in a DM3 or DM4 file: its only one (thumbnails apart), or the one whose number is `dataset`.

    Calibrated from its own dimensions: lengths give the pixel size, a third axis in seconds the frame period.
    Energy and exposure come from the microscope's and camera's tags.

    Raises
    ------
    RecordingError
        If the file is damaged, holds several images, or one that is no stack of frames.
    """
    tags = read_tags(path)
    image = _choose(tags, path, dataset)
    if len(image.shape) not in (2, 3) or image.pixels not in _PIXELS:
        raise RecordingError(
            f"{path}: image {image} is no frame (y, x) or stack (frame, y, x) of real numbers"
        )
    if len(image.shape) == 3 and image.units[0].lower() in _ENERGY_UNITS:
        raise RecordingError(
            f"{path}: image {image} is a spectrum image (third axis in {image.units[0]}), no movie"
        )
    data, dtype = _pixels(image, path)
    y_nm, x_nm = (
        None if scale is None else in_nm(scale, unit)
        for scale, unit in zip(image.scales[-2:], image.units[-2:], strict=True)
    )
    calibration = {
        "pixel_size_nm": square_pixel_nm(y_nm, x_nm, path),
        "frame_period_s": _period_s(image),
        "exposure_s": _positive(
            find(image.tags, "Acquisition", "Parameters", "High Level", "Exposure (s)"),
            find(image.tags, "DataBar", "Exposure Time (s)"),
        ),
        "beam_energy_ev": _positive(find(image.tags, "Microscope Info", "Voltage")),  # of one electron charge
    }
    frames, ny, nx = (1, *image.shape)[-3:]
    return open_raw(path, data.offset, (frames, ny, nx), dtype, calibration)


def _choose(tags: Tree, path: Path, dataset: str | None) -> _Image:
    listed = find(tags, "ImageList")
    found = {name: _image(name, entry) for name, entry in listed.items()} if isinstance(listed, dict) else {}
    images = {name: image for name, image in found.items() if image is not None}
    if dataset is None:
        thumbnails = find(tags, "Thumbnails")
        entries = thumbnails.values() if isinstance(thumbnails, dict) else ()
        small = {str(find(entry, "ImageIndex")) for entry in entries}
        if len(images) > len(small & images.keys()):
            images = {name: image for name, image in images.items() if name not in small}
        if len(images) == 1:
            return next(iter(images.values()))
    elif dataset in images:
        return images[dataset]
    said = "; ".join(str(image) for image in images.values()) or "none"
    asked = "one image was expected" if dataset is None else f"no image {dataset!r}"
    raise RecordingError(f"{path}: {asked}, it holds {said}" + ("; name one" if images else ""))


def _image(name: str, entry: Any) -> _Image | None:
    dimensions = find(entry, "ImageData", "Dimensions")
    if not isinstance(dimensions, dict):
        return None
    axes = find(entry, "ImageData", "Calibrations", "Dimension")
    calibrations = (
        [find(axes, key) for key in dimensions] if isinstance(axes, dict) else [None] * len(dimensions)
    )
    data = find(entry, "ImageData", "Data")
    # DigitalMicrograph counts x, y, frame; numpy frame, y, x
    return _Image(
        number=name,
        shape=tuple(n if isinstance(n, int) else 0 for n in reversed(dimensions.values())),
        pixels=find(entry, "ImageData", "DataType"),
        data=data if isinstance(data, Located) else None,
        units=[text(find(c, "Units")) for c in reversed(calibrations)],
        scales=[number(find(c, "Scale")) for c in reversed(calibrations)],
        tags=find(entry, "ImageTags") or {},
    )


def _pixels(image: _Image, path: Path) -> tuple[Located, np.dtype[Any]]:
    """Where the pixels are, and their type."""
    data = image.data
    if data is None:
        raise RecordingError(f"{path}: image {image} has no pixels; was the file written to its end?")
    dtype = np.dtype(_PIXELS[image.pixels or 0]).newbyteorder(data.dtype.byteorder)
    count = math.prod(image.shape)
    if data.count != count or data.dtype.itemsize != dtype.itemsize:
        raise RecordingError(
            f"{path}: image {image} needs {count} pixels of {dtype.itemsize} bytes, the file has "
            f"{data.count} of {data.dtype.itemsize}"
        )
    return data, dtype


def _period_s(image: _Image) -> float | None:
    if len(image.shape) != 3 or image.scales[0] is None or image.scales[0] <= 0:
        return None
    return in_s(image.scales[0], image.units[0])


def _positive(*values: Any) -> float | None:
    """The first that is a positive number."""
    return next((n for n in map(number, values) if n is not None and n > 0), None)
