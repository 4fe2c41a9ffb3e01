"""One small reader per recording format, frame by frame."""

from __future__ import annotations

from pathlib import Path

from stream.files.dm import open_dm
from stream.files.h5stack import open_h5
from stream.files.picture import open_npy, open_picture
from stream.files.source import FileSource
from stream.files.tiff import open_tiff
from stream.frame import RecordingError

_HDF5 = (".nxs", ".h5", ".hdf5")
_TIFF = (".tif", ".tiff", ".btf")
_DM = (".dm3", ".dm4")
_PICTURES = (".png", ".bmp")
READABLE = (*_HDF5, *_TIFF, *_DM, *_PICTURES, ".npy")
"""The suffixes of the files that can be read."""


def open_recording(path: str | Path, dataset: str | None = None) -> FileSource:
    """Open a file of frames; a context manager, a finite FrameSource, and readable by position.

    Parameters
    ----------
    path : its suffix says the format, see READABLE.
    dataset : which stack, where the file holds several: the dataset's path (HDF5), or the number of the
        series (TIFF) or image (DM).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RecordingError
        If its format is not readable, or the file is damaged or ambiguous.
    CalibrationError
        If the file's own calibration is impossible.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix in _HDF5:
        return open_h5(path, dataset)
    if suffix in _TIFF:
        return open_tiff(path, dataset)
    if suffix in _DM:
        return open_dm(path, dataset)
    if dataset is not None:
        raise RecordingError(f"{path} holds one stack, there is no {dataset!r} to choose in it")
    if suffix in _PICTURES:
        return open_picture(path)
    if suffix == ".npy":
        return open_npy(path)
    raise RecordingError(
        f"{path}: {suffix or 'a name without suffix'} is none of the readable formats, {' '.join(READABLE)}; "
        "convert it to one of them"
    )
