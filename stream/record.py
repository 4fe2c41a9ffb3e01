"""Every frame to disk, as received, whatever happens: one file per series, never overwritten.

What is in a file: stream/nexus.py. How it is written: stream/series_file.py; how it survives its writer:
stream/crashsafe.py. Here: which file, who may write, and what to do when the disk will not take more.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import socket
import time
from datetime import datetime
from pathlib import Path

from stream.crashsafe import HDF5_ERRORS
from stream.filelock import lock
from stream.frame import Encoding, Frame, Gap, Item, RecordingError, SeriesHeader
from stream.series_file import SeriesFile

log = logging.getLogger(__name__)

_LOCK_NAME = ".hopscope-recording.lock"


class Recorder:
    """A Sink that writes all it is given. Once made, it never raises: what goes wrong is in `alarm`.

    Parameters
    ----------
    directory : where the files go; made if missing. One recorder at a time may write there.
    settings_toml : the settings in force, copied into every file.
    min_free_mib : recording stops before the disk has less room than this.
    name : of the files, in place of date and series number; the part number stays.

    Attributes
    ----------
    path : the file being written, or the last one; None before the first frame.
    frames, bytes_written : in that file.
    frames_total : in all files.
    alarm : why recording stopped, or None. It does not start again by itself.
    lag_s : from the receipt of the newest frame to its being written.

    Raises
    ------
    RecordingError
        If the directory cannot be written, or another recorder writes there.
    """

    def __init__(
        self, directory: Path, *, settings_toml: str = "", min_free_mib: int = 1024, name: str | None = None
    ) -> None:
        self.directory = Path(directory)
        self.path: Path | None = None
        self.frames_total = 0
        self.alarm: str | None = None
        self.lag_s = 0.0
        self._settings_toml = settings_toml
        self._min_free = min_free_mib << 20
        self._name = name
        self._header: SeriesHeader | None = None
        self._early_gaps: list[Gap] = []
        self._part: SeriesFile | None = None
        self._room = 0
        self._put_frames = 0
        self._lock_fd: int | None = _claim(self.directory)

    @property
    def frames(self) -> int:
        """Frames in the current file."""
        return self._part.frames if self._part is not None else 0

    @property
    def bytes_written(self) -> int:
        """Bytes of the payloads in the current file."""
        return self._part.bytes_written if self._part is not None else 0

    @property
    def unrecorded(self) -> int:
        """Frames put that are in no file: recording had stopped, or their payload was no frame."""
        return self._put_frames - self.frames_total

    def put(self, item: Item) -> None:
        """Write a frame or note a gap; begin a file with a series and finish it at its end."""
        if isinstance(item, Frame):
            self._put_frames += 1
        if self.alarm is None:
            try:
                self._put(item)
                self._tick()
            except HDF5_ERRORS as error:
                self._give_up(error)

    def tick(self) -> None:
        """Flush if it is time to; to be called while no item comes."""
        if self.alarm is None:
            try:
                self._tick()
            except HDF5_ERRORS as error:
                self._give_up(error)

    def close(self) -> None:
        """Finish the file and let others record here."""
        if self.alarm is None:
            try:
                self._finish()
            except HDF5_ERRORS as error:
                self._give_up(error)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _put(self, item: Item) -> None:
        if isinstance(item, Frame):
            part = self._part
            if part is None or not part.takes(item):
                part = self._begin(item.series_id, item.encoding, item.t_ns)
            if len(item.payload) > self._room and not self._has_room(len(item.payload)):
                return
            self._room -= len(item.payload)
            if part.append(item):
                self.frames_total += 1
            self.lag_s = (time.monotonic_ns() - item.recv_ns) * 1e-9
        elif isinstance(item, Gap):
            if self._part is not None and self._part.open:
                self._part.note_gap(item)
            else:
                self._early_gaps.append(item)
        elif isinstance(item, SeriesHeader):
            self._finish()
            self._header = item
        else:
            self._finish()

    def _begin(self, series_id: int, encoding: Encoding, t_ns: int | None) -> SeriesFile:
        """Open the next file, for frames like this one."""
        self._close_part()
        header = self._header
        if header is None or header.series_id != series_id:
            header = SeriesHeader(series_id, encoding.shape_yx, encoding.dtype)
        header = dataclasses.replace(header, shape_yx=encoding.shape_yx, dtype=encoding.dtype)
        stem = self._name or f"{datetime.now():%Y-%m-%d}_series-{series_id}"
        number = 1
        while (path := self.directory / f"{stem}_part-{number}.nxs").exists():
            number += 1
        self._part = part = SeriesFile(path, header, encoding, t_ns, self._settings_toml)
        self.path = path
        self._room = 0
        log.info("recording to %s", path)
        for gap in self._early_gaps:
            part.note_gap(gap)
        self._early_gaps.clear()
        return part

    def _finish(self) -> None:
        """The series is over; one that had nothing but gaps is worth a file as well."""
        if self._early_gaps and self._header is not None:
            self._begin(self._header.series_id, Encoding(self._header.shape_yx, self._header.dtype), None)
        self._early_gaps.clear()
        self._header = None
        self._close_part()

    def _close_part(self, stopped: str = "") -> None:
        if self._part is not None and self._part.open:
            self._part.close(stopped)

    def _tick(self) -> None:
        if self._part is not None and self._part.open and self._part.flush_is_due:
            self._part.flush()
            self._room = self._free() - self._min_free

    def _has_room(self, size: int) -> bool:
        """Whether the disk takes `size` bytes and keeps its reserve; if not, recording is over."""
        free = self._free()
        self._room = free - self._min_free
        if size <= self._room:
            return True
        self.alarm = (
            f"recording stopped: the disk of {self.directory.absolute()} is full; expected at least "
            f"{self._min_free >> 20} MiB to stay free, got {free >> 20} MiB; make room or set record.directory "
            "to another disk, then start again"
        )
        log.error("%s", self.alarm)
        self._close_part(self.alarm)
        return False

    def _free(self) -> int:
        return shutil.disk_usage(self.directory).free

    def _give_up(self, error: Exception) -> None:
        """The disk refused: close what there is, and count what did not make it."""
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        if self.alarm is None:
            where = self.path if self.path is not None else self.directory
            self.alarm = (
                f"recording stopped: writing to {where} failed; expected the disk to take every frame, got "
                f"“{reason}”; see to the disk or set record.directory to another one, then start again"
            )
            log.error("%s", self.alarm)
        part = self._part
        if part is not None and part.open:
            self.frames_total -= part.salvage(self.alarm)


def _claim(directory: Path) -> int:
    """Lock a directory for one recorder, for as long as its process lives."""
    path = directory / _LOCK_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o664)
    except OSError as error:
        raise RecordingError(
            f"cannot record to {directory.absolute()}: expected a folder that can be written, got "
            f"“{error.strerror}”; set record.directory to another one"
        ) from error
    if not lock(fd, shared=False):
        os.lseek(fd, 0, os.SEEK_SET)
        holder = os.read(fd, 200).decode(errors="replace").strip() or "a program that did not say its name"
        os.close(fd)
        raise RecordingError(
            f"cannot record to {directory.absolute()}: expected to be its only writer, but {holder} records "
            "there; stop that one, or set record.directory to another folder"
        )
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(
        fd,
        f"process {os.getpid()} on {socket.gethostname()} (since {datetime.now():%Y-%m-%d %H:%M:%S})".encode(),
    )
    return fd
