"""Single pictures (PNG, BMP) and numpy arrays."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from stream.files.raw import in_memory, open_raw
from stream.files.source import FileSource
from stream.frame import RecordingError

log = logging.getLogger(__name__)

_GREY_MODES = {"1", "L", "I", "I;16", "I;16B", "I;16L", "F"}


def open_picture(path: Path) -> FileSource:
    """One picture, grey as it is; colour becomes luminance, and the log says so.

    The print resolution that such files carry says nothing of the specimen and is not read.

    Raises
    ------
    RecordingError
        If it is no picture, is cut short, or is partly transparent.
    """
    try:
        with Image.open(path, formats=("PNG", "BMP")) as picture:  # Pillow's other readers are none of ours
            picture.load()
            if picture.mode in _GREY_MODES:
                counts = np.asarray(picture)
            else:
                alpha = picture.convert("RGBA").getchannel("A")
                if np.asarray(alpha).min() < 255:
                    raise RecordingError(
                        f"{path} is partly transparent, a frame has no holes; save it without transparency"
                    )
                counts = luminance(np.asarray(picture.convert("RGB")))
                log.info("%s is in colour; its luminance is taken", path)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        # a PNG with a broken chunk is a SyntaxError to Pillow
        raise RecordingError(f"{path} cannot be read as a picture: {error}; is it complete?") from error
    return in_memory(path, counts[None])


def open_npy(path: Path) -> FileSource:
    """A numpy array (y, x) or (frame, y, x), mapped, never unpickled.

    Raises
    ------
    RecordingError
        If it has another number of axes, holds objects, or is cut short.
    """
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise RecordingError(f"{path} cannot be read as a numpy array of numbers: {error}") from error
    if not isinstance(stack, np.ndarray) or stack.ndim not in (2, 3) or 0 in stack.shape:
        raise RecordingError(
            f"{path} has shape {getattr(stack, 'shape', 'of an archive')}; expected (y, x) or (frame, y, x)"
        )
    shape = stack.shape if stack.ndim == 3 else (1, *stack.shape)
    if isinstance(stack, np.memmap) and stack.flags.c_contiguous:
        return open_raw(path, stack.offset, shape, stack.dtype)
    return in_memory(path, stack.reshape(shape))  # in Fortran's order, so no frame is in one piece


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Grey (ny, nx) u1 of 8-bit colours (ny, nx, 3): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).

    Where the three colours are equal, their value is kept exactly.
    """
    weights = np.array([19595, 38470, 7471], dtype=np.uint32)  # sum 65536
    return ((rgb.astype(np.uint32) @ weights + 32768) >> 16).astype(np.uint8)
