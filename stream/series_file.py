"""One recording being written: payloads straight into HDF5 chunks, a ledger row for each.

A payload goes from the socket into the file as it is: an HDF5 chunk that the camera bitshuffled and
compressed needs nothing done. One of another algorithm than the file's first is re-encoded to that, since
an HDF5 dataset has one filter.
"""

from __future__ import annotations

import logging
import math
import struct
import time
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np

from stream.codecs import encode
from stream.crashsafe import HDF5_ERRORS, CrashSafeFile
from stream.frame import Encoding, Frame, Gap, RecordingError, SeriesHeader, WireError
from stream.nexus import ALGORITHMS, KINDS, REASONS, TEXT_BYTES, lay_out, read_ledger

log = logging.getLogger(__name__)

_FRAMING = struct.Struct(">QI")  # begins a compressed payload: decoded bytes, bytes of a block
_SKIP_FILTER = 1
_ROWS_AT_ONCE = 4096


class SeriesFile:
    """The open recording of one series, or a part of it; takes frames of one shape and dtype.

    Parameters
    ----------
    path : must not exist.
    header : what the file says of the series.
    encoding : of the first frame; decides the dataset's filter.
    t_ns : the detector's clock at the first frame, if it has one.
    settings_toml : copied into the file.

    Attributes
    ----------
    frames, bytes_written : frames in the file, and the bytes of their payloads.
    open : whether more can be put.

    Raises
    ------
    FileExistsError
        If the path is taken.
    OSError, RuntimeError
        If the disk does not take the file; so do all methods but `takes` and `salvage`.
    """

    def __init__(
        self, path: Path, header: SeriesHeader, encoding: Encoding, t_ns: int | None, settings_toml: str
    ) -> None:
        self.series_id = header.series_id
        self.frames = 0
        self.bytes_written = 0
        self.open = True
        self._encoding = encoding
        self._period_s = header.frame_period_s
        self._first_t_ns = t_ns
        self._first_index: int | None = None
        by_clock = self._period_s is not None or t_ns is not None

        def empty(file: h5py.File) -> None:
            lay_out(file, header, encoding.algorithm, "s" if by_clock else "frame", settings_toml)

        self._file = CrashSafeFile(path, empty)
        self._frames = self._file.dataset("entry/data/frames").id
        self._tables = (self._file.dataset("entry/ledger"), self._file.dataset("entry/data/time"))
        self._rows: list[tuple[int, ...]] = []
        self._times: list[float] = []

    @property
    def flush_is_due(self) -> bool:
        """Whether the newest frames are at risk for too long."""
        return self._file.flush_is_due or len(self._rows) >= _ROWS_AT_ONCE

    def takes(self, frame: Frame) -> bool:
        """Whether a frame belongs in this file."""
        ours, its = self._encoding, frame.encoding
        return (
            self.open
            and frame.series_id == self.series_id
            and its.shape_yx == ours.shape_yx
            and its.dtype == ours.dtype
        )

    def append(self, frame: Frame) -> bool:
        """Write a frame's payload, or only note it where it cannot be one; return which."""
        payload, algorithm = frame.payload, frame.encoding.algorithm
        ours = self._encoding.algorithm
        row, filter_mask = self.frames, 0
        whole = _is_whole(payload, frame.encoding)
        if whole and algorithm != ours:
            if algorithm == "none":
                filter_mask = _SKIP_FILTER
            else:
                try:
                    payload = frame.counts.tobytes() if ours == "none" else encode(frame.counts, ours)
                except WireError:
                    whole = False
        if whole:
            shape_yx = self._encoding.shape_yx
            self._file.claim(len(payload))
            self._frames.set_extent((row + 1, *shape_yx))
            self._frames.write_direct_chunk((row, 0, 0), payload, filter_mask)
            self.frames = row + 1
            self.bytes_written += len(payload)
            self._times.append(self._seconds(frame))
        self._rows.append(
            (
                frame.index,
                1,
                -1 if frame.t_ns is None else frame.t_ns,
                frame.recv_ns,
                row if whole else -1,
                len(frame.payload),
                ALGORITHMS[algorithm],
                KINDS["frame"],
                REASONS["ok" if whole else "decode"],
            )
        )
        return whole

    def note_gap(self, gap: Gap) -> None:
        """Write down frames that never came."""
        self._rows.append(
            (gap.first, gap.count, -1, time.monotonic_ns(), -1, 0, 0, KINDS["gap"], REASONS[gap.reason])
        )

    def _seconds(self, frame: Frame) -> float:
        if self._first_index is None:
            self._first_index = frame.index
        if self._period_s is not None:
            return (frame.index - self._first_index) * self._period_s
        if self._first_t_ns is None:
            return float(frame.index - self._first_index)
        return (frame.t_ns - self._first_t_ns) * 1e-9 if frame.t_ns is not None else math.nan

    def flush(self) -> None:
        """Make the file hold all that was put."""
        self._write_rows()
        self._file.flush()

    def close(self, stopped: str = "") -> None:
        """Write what is left, and when and why the recording ended; close."""
        self._write_end(stopped)
        self.open = False
        self._file.close()

    def _write_rows(self) -> None:
        for table, new in zip(self._tables, (self._rows, self._times), strict=True):
            if new:
                start = table.shape[0]
                table.resize((start + len(new),))
                table[start:] = np.array(new, table.dtype)
                new.clear()

    def _write_end(self, stopped: str) -> None:
        self._write_rows()
        self._file.dataset("entry/end_time")[()] = datetime.now().astimezone().isoformat()
        self._file.dataset("entry/stopped")[()] = stopped.encode()[:TEXT_BYTES].decode(errors="ignore")

    def salvage(self, stopped: str) -> int:
        """Close a file the disk no longer takes; return how many frames did not make it."""
        put = self.frames
        self.open = False
        try:
            self._frames.set_extent((put, *self._encoding.shape_yx))
            self._write_end(stopped)
        except HDF5_ERRORS as error:
            log.debug("finishing %s: %s", self._file.path, error)
        try:
            self._file.close()
        except HDF5_ERRORS as error:
            log.debug("closing %s: %s", self._file.path, error)
        self.frames = self.bytes_written = 0
        try:
            ledger = read_ledger(self._file.path)
        except (*HDF5_ERRORS, RecordingError) as error:
            log.error("%s cannot be read back: %s", self._file.path, error)
        else:
            kept = ledger[ledger["row"] >= 0]
            self.frames, self.bytes_written = len(kept), int(kept["bytes"].sum())
        return put - self.frames


def _is_whole(payload: memoryview, encoding: Encoding) -> bool:
    """Whether a payload may be a frame, as far as its length and framing tell."""
    if encoding.algorithm == "none":
        return len(payload) == encoding.frame_bytes
    return len(payload) > _FRAMING.size and _FRAMING.unpack_from(payload)[0] == encoding.frame_bytes
