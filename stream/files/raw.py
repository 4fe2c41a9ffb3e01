"""Frames that lie uncompressed, one behind the other, in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stream.files.source import FileSource, Payload, plain_header
from stream.frame import RecordingError


def open_raw(
    path: Path,
    offset: int,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    calibration: Mapping[str, float | None] | None = None,
) -> FileSource:
    """The frames (n, ny, nx) of `dtype` from byte `offset` on, read when they are asked for.

    They are read rather than mapped: a file that shrinks, or a drive that goes away, is then an error, and the
    memory of the process stays what one frame needs.

    Raises
    ------
    RecordingError
        If the file is too short for them, or `dtype` is none of a frame.
    """
    count, ny, nx = shape
    needed, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if needed == 0 or needed > there:
        raise RecordingError(
            f"{path} should hold frames {shape} of {dtype}, {needed} bytes from byte {offset} on, and has "
            f"{max(there, 0)}; it is cut short or empty"
        )
    header = plain_header(path, shape, dtype, calibration or {})
    file = path.open("rb")

    def fetch(position: int) -> Payload:
        file.seek(offset + position * ny * nx * dtype.itemsize)
        counts = np.fromfile(file, dtype, ny * nx)
        return counts.reshape(ny, nx), "none"

    return FileSource(path, header, fetch, indices=np.arange(count), on_close=file.close)


def in_memory(path: Path, stack: np.ndarray) -> FileSource:
    """The frames of an array (n, ny, nx), one that is small or mapped; each is copied when it is asked for."""
    header = plain_header(path, stack.shape, stack.dtype, {})

    def fetch(position: int) -> Payload:
        return np.array(stack[position], order="C"), "none"

    return FileSource(path, header, fetch, indices=np.arange(len(stack)))
