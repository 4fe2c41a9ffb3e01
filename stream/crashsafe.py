"""HDF5 files that any program can open, whatever happened to the one that wrote them.

HDF5 keeps its metadata in memory and writes it in any order: a file whose writer is killed is usually
lost. Single-writer-multiple-reader mode (SWMR) writes children before parents, so that the file on disk
is whole at every moment, and a flush each half second bounds what is lost. But SWMR also marks the
superblock as "open for writing", and nothing but `h5clear`, which no wheel carries, takes that mark off:
a plain `h5py.File(path, "r")` refuses the file. So the mark is taken off here after every flush: flags
and end of file are put right in the 48 bytes of the superblock, and its checksum (lookup3) made anew.
What the mark was for, keeping other writers out, is done by a shared `flock` on the file, which HDF5
itself honours and which vanishes with its holder.

A full disk is as bad as a kill: when a write fails inside HDF5, its file can often not be closed, and the
process crashes later. So `claim` takes the room from the file system before HDF5 asks for it, where the
system can (not on Windows and macOS), and the refusal comes while all is well.

HDF5 writes the marked superblock last in a flush; a kill in the some 30 µs from there to our own write
leaves the mark. `repair` removes it; hopscope calls it whenever it opens a file of its own.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py

from stream.frame import RecordingError

FLUSH_S = 0.5
"""Data are on disk, and readable, this long after they were put."""

HDF5_ERRORS = (OSError, RuntimeError)
"""What h5py raises when HDF5 cannot write: a full disk comes as either."""

_CLAIM = 16 << 20  # bytes taken from the disk at once
_SLACK = 2 << 20  # always left over for what HDF5 adds by itself at a flush: chunk indices, headers

_LAYOUT = struct.Struct("<8sBBBB4Q")
_BEYOND_ANY_FILE = 1 << 62
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
        with h5py.File(path.name, "w", driver="core", backing_store=False, libver=("v110", "v110"), fs_strategy="page", fs_page_size=4096) as image:
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
