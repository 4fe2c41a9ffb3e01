"""Writes small DM3 and DM4 files, so that their reader meets every pixel type, byte order and kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

# our numbers of the types: the value's type, and ImageData.DataType of pixels
VALUE_TYPES = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "i1": 9, "u1": 10, "i8": 11, "u8": 12}
PIXEL_TYPES = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "i1": 9, "u2": 10, "u4": 11, "f8": 12, "i8": 39, "u8": 40}


class DmWriter:
    """Encodes trees of dicts (groups), lists (unnamed tags), numbers, texts and arrays."""

    def __init__(self, version: int = 4, order: str = "<") -> None:
        self.version = version
        self.order = order

    def file(self, tree: dict[str, Any]) -> bytes:
        root = self._group(tree)
        size = struct.pack(">i", len(root)) if self.version == 3 else struct.pack(">q", len(root))
        return struct.pack(">i", self.version) + size + struct.pack(">i", self.order == "<") + root + bytes(8)

    def word(self, *values: int) -> bytes:
        return struct.pack(f">{len(values)}{'i' if self.version == 3 else 'q'}", *values)

    def _group(self, tree: dict[str, Any] | list[Any]) -> bytes:
        named = tree.items() if isinstance(tree, dict) else [("", item) for item in tree]
        return b"\x01\x00" + self.word(len(tree)) + b"".join(self._tag(n, value) for n, value in named)

    def _tag(self, name: str, value: Any) -> bytes:
        group = isinstance(value, dict | list)
        content = self._group(value) if group else b"%%%%" + self._value(value)
        length = struct.pack(">q", len(content)) if self.version == 4 else b""
        return struct.pack(">BH", 20 if group else 21, len(name)) + name.encode("latin-1") + length + content

    def _value(self, value: Any) -> bytes:
        if isinstance(value, str):
            value = np.frombuffer(value.encode("utf-16-le"), "<u2")
        if isinstance(value, tuple):  # a record of i4
            fields = [word for _ in value for word in (0, 3)]
            described = self.word(3 + len(fields), 15, 0, len(value), *fields)
            return described + struct.pack(f"{self.order}{len(value)}i", *value)
        if isinstance(value, float):
            return self.word(1, 7) + struct.pack(f"{self.order}d", value)
        if isinstance(value, int):
            return self.word(1, 5) + struct.pack(f"{self.order}I", value)
        code = VALUE_TYPES[value.dtype.str[1:]]
        return (
            self.word(3, 20, code, value.size) + value.astype(value.dtype.newbyteorder(self.order)).tobytes()
        )


def image(
    pixels: np.ndarray,
    units: tuple[str, ...] = ("nm", "nm", "s"),
    scales: tuple[float, ...] = (0.02, 0.02, 0.5),
    data_type: int | None = None,
    tags: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An entry of the list of images; units and scales in DigitalMicrograph's order (x, y, frame)."""
    calibrations = [{"Origin": 0.0, "Scale": s, "Units": u} for s, u in zip(scales, units, strict=True)]
    return {
        "ImageData": {
            "Calibrations": {
                "Brightness": {"Origin": 0.0, "Scale": 1.0, "Units": ""},
                "Dimension": calibrations[: pixels.ndim],
                "DisplayCalibratedUnits": 1,
            },
            "Data": pixels.ravel(),
            "DataType": PIXEL_TYPES[pixels.dtype.str[1:]] if data_type is None else data_type,
            "Dimensions": list(reversed(pixels.shape)),
            "PixelDepth": pixels.itemsize,
        },
        "ImageTags": tags or {},
        "Name": "written for a test",
    }


def write_dm(
    path: Path, images: list[dict[str, Any]], *, version: int = 4, order: str = "<", thumbnail: bool = True
) -> Path:
    """A file with these images, behind a thumbnail as DigitalMicrograph makes it."""
    small = image(np.zeros((4, 4), "u4"), data_type=23, units=("", ""), scales=(1.0, 1.0))
    listed = [small, *images] if thumbnail else images
    tree: dict[str, Any] = {
        "DocumentObjectList": [],
        "ImageList": listed,
        "ImageSourceList": [{"ClassName": "ImageSource:Simple", "Id": [0], "ImageRef": len(listed) - 1}],
        "WindowPosition": (1, 2, 300, 400),
    }
    if thumbnail:
        tree["Thumbnails"] = [{"ImageIndex": 0, "SourceSize_Pixels": (4, 4)}]
    path.write_bytes(DmWriter(version, order).file(tree))
    return path
