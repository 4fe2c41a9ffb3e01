"""Our own recordings (stream/nexus.py says what is in them), payload for payload as the camera sent them."""

from __future__ import annotations

import json
from pathlib import Path

import h5py

from stream.files.chunks import fetch_chunk, frame_chunks
from stream.files.source import FileSource
from stream.frame import Gap, GapReason, RecordingError
from stream.nexus import REASONS, read_header, read_ledger

FRAMES = "entry/data/frames"
_REASON_NAMES: dict[int, GapReason] = {code: name for name, code in REASONS.items()}  # pyright: ignore


def open_own(path: Path) -> FileSource:
    """A recording: what `stream.record` wrote, with the indices, times and gaps of its ledger.

    Raises
    ------
    RecordingError
        If it was killed while written and cannot be repaired, or is damaged.
    """
    try:
        ledger = read_ledger(path)
        header = read_header(path)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise RecordingError(f"{path} is a recording whose header cannot be read: {error}") from error
    written = ledger[ledger["row"] >= 0]
    gaps = [
        Gap(header.series_id, int(row["index"]), int(row["count"]), _REASON_NAMES[int(row["reason"])])
        for row in ledger[ledger["row"] < 0]
    ]
    file = h5py.File(path, "r")
    try:
        frames = file[FRAMES]
        algorithm = frame_chunks(frames) if isinstance(frames, h5py.Dataset) else None
        if algorithm is None or not isinstance(frames, h5py.Dataset) or frames.shape[1:] != header.shape_yx:
            raise RecordingError(
                f"{path}: /{FRAMES} is not laid out as hopscope writes it; is the file damaged?"
            )
        if frames.dtype != header.dtype:
            raise RecordingError(f"{path}: /{FRAMES} holds {frames.dtype}, its header says {header.dtype}")
    except BaseException:
        file.close()
        raise
    rows = written["row"]
    return FileSource(
        path,
        header,
        lambda position: fetch_chunk(frames, algorithm, int(rows[position])),
        indices=written["index"],
        t_ns=written["t_ns"],
        gaps=gaps,
        on_close=file.close,
    )


def is_own(path: Path) -> bool:
    """Whether an HDF5 file is a recording of ours, whole or not.

    Raises
    ------
    OSError
        If it is no HDF5 file.
    """
    # as a reader beside a writer: this opens a file too whose writer was killed
    with h5py.File(path, "r", swmr=True) as file:
        return file.attrs.get("creator") == "hopscope" and "entry/ledger" in file
