"""HDF5 files that any program can open, whatever happened to the one that wrote them.

HDF5 keeps its metadata in memory and writes it in any order: a file whose writer is killed is usually
lost. Single-writer-multiple-reader mode (SWMR) writes what is pointed to before what points to it, so that
the file on disk is whole at every moment, and a flush each half second bounds what is lost. Three things
are added to that:

- SWMR marks the superblock as "open for writing", and a plain `h5py.File(path, "r")` refuses the file. So
  the mark is taken off after every flush (stream/superblock.py). What it was for, keeping other writers
  out, a shared `flock` on the file does, which HDF5 itself honours and which vanishes with its holder.
  A kill in the some 50 µs in which the mark stands leaves it: `repair` takes it off, and hopscope calls
  that whenever it opens a file of its own.
- The system may cut a killed process's write short where a page of memory ends. File space is handed out
  in pages, so that no small piece of metadata straddles two. (The chunk index of a recording of more than
  some 8,000 frames has pieces larger than a page; one write of one of them in each flush is at risk, for
  microseconds.)
- When a disk is full, a write fails inside HDF5, which then can often not close the file, and crashes
  later. So `claim` takes the room from the file system before HDF5 asks for it, where the system promises
  room (not on Windows and macOS), and the refusal comes while all is well.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py

from stream.filelock import lock
from stream.frame import RecordingError
from stream.superblock import Superblock, mend

FLUSH_S = 0.5
"""Data are on disk, and readable, this long after they were put."""

HDF5_ERRORS = (OSError, RuntimeError)
"""What h5py raises when HDF5 cannot write: a full disk comes as either."""

_CLAIM = 16 << 20  # bytes taken from the disk at once
_SLACK = 2 << 20  # always left over for what HDF5 adds by itself at a flush: chunk indices, headers

_PAGE_BYTES = 4096
_BINARY = getattr(os, "O_BINARY", 0)


class CrashSafeFile:
    """An HDF5 file whose datasets only grow, and which survives its writer.

    Parameters
    ----------
    path : must not exist.
    lay_out : makes all groups, datasets and attributes; afterwards only data can change.

    Raises
    ------
    FileExistsError
        If the path is taken.
    OSError
        If the file cannot be made.
    """

    def __init__(self, path: Path, lay_out: Callable[[h5py.File], None]) -> None:
        # Laid out elsewhere: under its own name a file is never seen half made.
        in_memory = {"driver": "core", "backing_store": False}
        pages = {"fs_strategy": "page", "fs_page_size": _PAGE_BYTES}
        with h5py.File(path.name, "w", libver=("v110", "v110"), **in_memory, **pages) as image:
            lay_out(image)
            image.flush()
            content = image.id.get_file_image()
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_bytes(content)
            _rename(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        self.path = path
        self.flushed_at = time.monotonic()
        self._claimed = 0
        # No chunk cache: what cannot be written must fail when it is put, not when the file is closed.
        self._h5 = h5py.File(path, "r+", libver=("v110", "v110"), rdcc_nbytes=0)
        self._h5.swmr_mode = True
        self._fd = os.open(path, os.O_RDWR | _BINARY)
        try:
            if not lock(self._fd, shared=True):
                raise OSError(
                    errno.EWOULDBLOCK, f"{path} was locked by another program as soon as it was made"
                )
            self.flush()
        except HDF5_ERRORS:
            self.close()
            path.unlink()
            raise

    def dataset(self, name: str) -> h5py.Dataset:
        """The dataset of that name, open for as long as the file is."""
        item = self._h5[name]
        if not isinstance(item, h5py.Dataset):
            raise KeyError(f"{name} in {self.path} is not a dataset")
        return item

    def claim(self, size: int) -> None:
        """Make sure that `size` more bytes can be written, and the flush after them.

        Raises
        ------
        OSError
            If the disk, a quota or a limit does not allow it; the file is as good as before.
        """
        self._claimed -= size
        if self._claimed < 0:
            end = self._h5.id.get_filesize()
            try:
                _allocate(self._fd, end, size + _SLACK + _CLAIM)
                self._claimed = _CLAIM
            except OSError:
                _allocate(self._fd, end, size + _SLACK)
                self._claimed = 0
            mend(self._fd)

    def flush(self) -> None:
        """Put everything on disk (in the system's cache: safe from a kill, not from a power cut)."""
        self._h5.flush()
        mend(self._fd)
        self.flushed_at = time.monotonic()
        self._claimed = -1  # HDF5 may have cut the file to what it uses
        self.claim(0)

    @property
    def flush_is_due(self) -> bool:
        """Whether the newest data are at risk for too long."""
        return time.monotonic() - self.flushed_at >= FLUSH_S

    def close(self) -> None:
        """Flush and close.

        Raises
        ------
        OSError, RuntimeError
            If not everything could be written; the file is closed, and as it was at some moment since
            the last flush.
        """
        try:
            self._h5.flush()
        except HDF5_ERRORS:
            # HDF5 would try again, fail again and leave dangling memory: let it write elsewhere.
            with tempfile.TemporaryFile() as elsewhere:
                os.dup2(elsewhere.fileno(), self._h5.id.get_vfd_handle(), inheritable=False)
            raise
        finally:
            try:
                self._h5.close()
            finally:
                mend(self._fd)
                os.close(self._fd)


def _allocate(fd: int, start: int, length: int) -> None:
    """Have a file reach from `start` over `length` bytes, on disk where the system can promise that."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, length)
    else:
        os.truncate(fd, start + length)


def _rename(old: Path, new: Path) -> None:
    """Rename, and never overwrite."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if new.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        os.rename(old, new)


def repair(path: Path) -> bool:
    """Make a file openable whose writer was killed at a bad moment; return whether it needed that.

    A file that is being written, or is no HDF5 file, is left as it is.

    Raises
    ------
    RecordingError
        If the file needs repair and cannot be written.
    """
    deadline = time.monotonic() + 1.0
    while True:
        with open(path, "rb") as file:
            superblock = Superblock.read(file.fileno())
            if superblock is None or superblock.lets_in(os.fstat(file.fileno()).st_size):
                return False
        try:
            fd = os.open(path, os.O_RDWR | _BINARY)
        except OSError as error:
            raise RecordingError(
                f"{path} was left marked as open by a program that was killed, and cannot be repaired where "
                f"it is: {error.strerror}. Make it writable, or copy it to where it can be written"
            ) from error
        try:
            if lock(fd, shared=False):
                mend(fd)
                return True
        finally:
            os.close(fd)
        # Its writer is alive, and takes the mark off itself within a moment.
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
