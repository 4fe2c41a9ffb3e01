"""A phantom session as a file: the movie as a plain HDF5 stack, and beside it what really happened.

Layout
------
/frames (frames, ny, nx) u2, one bitshuffle-LZ4 chunk per frame (HDF5 filter 32008: import hdf5plugin),
    attributes pixel_size_nm, frame_period_s, dose_rate_e_nm2_s, beam_energy_ev
/frame_index (frames,) i8
/bad_pixels (ny, nx) bool, where the phantom has some
/truth/yx_nm (sites, 2), /truth/height (sites,), /truth/hops
/truth/drift_yx_px (frames, 2), /truth/turn_rad (frames,)
/truth/occupancy (frames, sites) u1
/truth/columns_yx_px (all columns, 2) f4 and /truth/columns_offset (frames + 1,): frame k shows rows
    columns_offset[k] to columns_offset[k + 1] - 1
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import h5py
import hdf5plugin
import numpy as np

from stream.frame import RecordingError
from stream.phantom import Phantom
from stream.phantom_truth import Truth

_ROWS = 256  # frames of truth written at once


def write_movie(
    path: str | Path, phantom: Phantom, on_frame: Callable[[int, int], None] | None = None
) -> None:
    """Render a whole session into a new HDF5 file.

    Parameters
    ----------
    path : the file; until it is whole it is called `<path>.part`.
    phantom : a finite one.
    on_frame : called after each frame with the number of frames done and of all.

    Raises
    ------
    RecordingError
        If `path` exists.
    ValueError
        If the phantom never ends.
    """
    path = Path(path)
    if path.exists():
        raise RecordingError(f"{path} exists already and is not overwritten: give another name or remove it")
    truth = phantom.truth
    part = path.with_name(path.name + ".part")
    with h5py.File(part, "w") as file:
        _write_frames(file, phantom, len(truth), on_frame)
        _write_truth(file.create_group("truth"), truth)
    part.replace(path)


def _write_frames(
    file: h5py.File, phantom: Phantom, frames: int, on_frame: Callable[[int, int], None] | None
) -> None:
    header = phantom.header
    ny, nx = header.shape_yx
    stack = file.create_dataset(
        "frames", (frames, ny, nx), header.dtype, chunks=(1, ny, nx), **hdf5plugin.Bitshuffle(cname="lz4")
    )
    for name in ("pixel_size_nm", "frame_period_s", "dose_rate_e_nm2_s", "beam_energy_ev"):
        stack.attrs[name] = getattr(header, name)
    file["frame_index"] = np.arange(frames)
    if header.bad_pixels is not None:
        file["bad_pixels"] = header.bad_pixels
    for index in range(frames):
        stack[index] = phantom.render(index)
        if on_frame is not None:
            on_frame(index + 1, frames)


def _write_truth(group: h5py.Group, truth: Truth) -> None:
    frames, sites = len(truth), len(truth.height)
    group.attrs["pixel_size_nm"] = truth.pixel_size_nm
    group.attrs["shape_yx"] = truth.shape_yx
    for name in ("yx_nm", "height", "drift_yx_px", "turn_rad", "hops"):
        group[name] = getattr(truth, name)
    rows = min(_ROWS, frames)
    occupancy = group.create_dataset(
        "occupancy", (frames, sites), "u1", chunks=(rows, sites), compression="gzip", shuffle=True
    )
    columns = group.create_dataset(
        "columns_yx_px", (0, 2), "f4", maxshape=(None, 2), chunks=(8192, 2), compression="gzip", shuffle=True
    )
    offsets = np.zeros(frames + 1, np.int64)
    for first in range(0, frames, _ROWS):
        stop = min(first + _ROWS, frames)
        occupancy[first:stop] = truth.occupancy_between(first, stop)
        shown = [truth.columns(index) for index in range(first, stop)]
        offsets[first + 1 : stop + 1] = offsets[first] + np.cumsum([len(yx) for yx in shown])
        columns.resize(offsets[stop], axis=0)
        columns[offsets[first] :] = np.concatenate(shown)
    group["columns_offset"] = offsets


def read_truth(path: str | Path) -> Truth:
    """The truth of a movie that `write_movie` wrote.

    Raises
    ------
    RecordingError
        If the file holds no truth.
    """
    with h5py.File(path, "r") as file:
        group = file.get("truth")
        if not isinstance(group, h5py.Group):
            raise RecordingError(
                f"{path} holds no /truth, expected a movie written by hopscope simulate: simulate one"
            )
        ny, nx = np.asarray(group.attrs["shape_yx"]).tolist()
        return Truth(
            yx_nm=_rows(group, "yx_nm"),
            height=_rows(group, "height"),
            initial=_rows(group, "occupancy", slice(1))[0] == 1,
            hops=_rows(group, "hops"),
            drift_yx_px=_rows(group, "drift_yx_px"),
            turn_rad=_rows(group, "turn_rad"),
            pixel_size_nm=float(np.asarray(group.attrs["pixel_size_nm"])),
            shape_yx=(ny, nx),
        )


def _rows(group: h5py.Group, name: str, rows: slice = slice(None)) -> np.ndarray:
    return cast(h5py.Dataset, group[name])[rows]
