"""Any HDF5 file that holds a stack of frames (frame, y, x), with what lies beside it."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers bitshuffle, lz4, blosc and the other filters)
import numpy as np

from stream.files.calibration import own_names
from stream.files.chunks import fetch_chunk, frame_chunks
from stream.files.recording import is_own, open_own
from stream.files.source import FileSource, Payload, plain_dtype
from stream.frame import RecordingError, SeriesHeader

# room for one chunk that spans several frames, or each would be decompressed again for every frame
_CHUNK_CACHE_BYTES = 64 << 20


def open_h5_stack(path: Path, dataset: str | None = None) -> FileSource:
    """The stack in `path`: the file's only 3-D dataset of numbers (else its only image), or the one named.

    Beside the stack, ``frame_index`` (n,) gives the detector's numbers, ``t_ns`` (n,) its clock and
    ``bad_pixels`` (ny, nx) is True where a pixel must not be believed. Attributes of the stack, else of the file,
    named like SeriesHeader's fields (pixel_size_nm, ...) calibrate it.

    Raises
    ------
    RecordingError
        If there is no such stack or more than one; the message lists them.
    CalibrationError
        If a calibration is no positive number.
    """
    file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    try:
        stack = _find_stack(file, path, dataset)
        if 0 in stack.shape:
            raise RecordingError(f"{path}: {stack.name} has shape {stack.shape}: there is no frame in it")
        count = stack.shape[0] if stack.ndim == 3 else 1
        indices = _beside(stack, "frame_index", count, path)
        if indices is not None and (indices[0] < 0 or np.any(np.diff(indices) <= 0)):
            raise RecordingError(
                f"{path}: frame_index beside {stack.name} must increase from 0 on, one number per frame; "
                "sort the frames, or remove it to number them 0, 1, 2..."
            )
        if indices is None:
            indices = np.arange(count)
        dtype = plain_dtype(stack.dtype, path)
        algorithm = frame_chunks(stack) if dtype.itemsize == stack.dtype.itemsize else None
        if algorithm not in (None, "none"):
            dtype = stack.dtype  # compressed frames are handed out as they are, byte order included
        calibration = own_names(file.attrs, str(path)) | own_names(stack.attrs, f"{path} {stack.name}")
        header = SeriesHeader(
            series_id=1,
            shape_yx=(int(stack.shape[-2]), int(stack.shape[-1])),
            dtype=dtype,
            frames_expected=int(indices[-1] - indices[0]) + 1,
            bad_pixels=_bad_pixels(stack, path),
            metadata={"source_file": path.name, "dataset": str(stack.name)},
            **calibration,
        )
        t_ns = _beside(stack, "t_ns", count, path)
    except BaseException:
        file.close()
        raise

    def fetch(position: int) -> Payload:
        if algorithm not in (None, "none"):
            return fetch_chunk(stack, algorithm, position)
        return np.asarray(stack[position] if stack.ndim == 3 else stack[...]), "none"

    return FileSource(path, header, fetch, indices=indices, t_ns=t_ns, on_close=file.close)


def open_h5(path: Path, dataset: str | None = None) -> FileSource:
    """A recording of ours with all its ledger knows, or the stack in any other HDF5 file."""
    try:
        if dataset is None and is_own(path):
            return open_own(path)
        return open_h5_stack(path, dataset)
    except (OSError, RuntimeError) as error:  # either, when HDF5 cannot read
        raise RecordingError(f"{path} cannot be read as HDF5: {error}; is it complete?") from error


def _find_stack(file: h5py.File, path: Path, name: str | None) -> h5py.Dataset:
    if name is not None:
        found = file.get(name)
        if not isinstance(found, h5py.Dataset) or found.ndim not in (2, 3):
            listed = _listed(_arrays(file, 3) + _arrays(file, 2))
            raise RecordingError(f"{path} has no stack of frames {name!r}; it has {listed}")
        return found
    for ndim in (3, 2):
        candidates = _arrays(file, ndim)
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise RecordingError(
                f"{path} holds {len(candidates)} datasets that could be frames, one was expected: "
                f"{_listed(candidates)}; name the one to read"
            )
    raise RecordingError(f"{path} holds no dataset (frame, y, x) of numbers, nor one image (y, x)")


def _arrays(file: h5py.File, ndim: int) -> list[h5py.Dataset]:
    """The datasets of numbers with `ndim` axes, in the file's order."""
    found: list[h5py.Dataset] = []

    def look(_name: str, thing: h5py.HLObject) -> None:
        if isinstance(thing, h5py.Dataset) and thing.ndim == ndim and thing.dtype.kind in "uifb":
            found.append(thing)

    file.visititems(look)
    return found


def _listed(datasets: list[h5py.Dataset]) -> str:
    return ", ".join(f"{d.name} {d.shape} {d.dtype}" for d in datasets) or "none"


def _beside(stack: h5py.Dataset, name: str, count: int, path: Path) -> np.ndarray | None:
    """The integers (count,) called `name` in the stack's group, as i8, or None."""
    thing = stack.file.get(f"{stack.parent.name}/{name}")
    if thing is None:
        return None
    if not isinstance(thing, h5py.Dataset) or thing.shape != (count,) or thing.dtype.kind not in "ui":
        raise RecordingError(
            f"{path}: {name} beside {stack.name} must be {count} integers, one per frame, got "
            f"{getattr(thing, 'shape', 'a group')} {getattr(thing, 'dtype', '')}; correct or remove it"
        )
    return thing[...].astype(np.int64)


def _bad_pixels(stack: h5py.Dataset, path: Path) -> np.ndarray | None:
    thing = stack.file.get(f"{stack.parent.name}/bad_pixels")
    if thing is None:
        return None
    if (
        not isinstance(thing, h5py.Dataset)
        or thing.shape != stack.shape[-2:]
        or thing.dtype.kind not in "uib"
    ):
        raise RecordingError(
            f"{path}: bad_pixels beside {stack.name} must be {stack.shape[-2:]}, True where a pixel is bad, got "
            f"{getattr(thing, 'shape', 'a group')}; correct or remove it"
        )
    return thing[...] != 0
