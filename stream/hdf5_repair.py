"""Take the marks of a killed writer off an HDF5 file, as `h5clear` would, which no wheel carries.

A file being written in SWMR mode says so in the flags of its superblock, and HDF5 refuses to open it for
plain reading, for ever after if its writer was killed. The superblock is 48 bytes: signature, version,
sizes, flags, four addresses (base, extension, end of file, root group) and the checksum of all that.
[HDF5 File Format Specification 3.0, section II.A]
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

from stream.filelock import lock
from stream.frame import RecordingError

_LAYOUT = struct.Struct("<8sBBBB4Q")
_BINARY = getattr(os, "O_BINARY", 0)


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
            superblock = _Superblock.read(file.fileno())
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


def mend(fd: int) -> None:
    """Make the superblock say that nobody writes, and that all of the file may be read.

    The end must be the true one: after a kill in the middle of a flush, there are chunks beyond the end
    that the superblock knew, and HDF5 would refuse to read them.
    """
    superblock = _Superblock.read(fd)
    size = os.fstat(fd).st_size
    if superblock is not None and (superblock.flags, superblock.end) != (0, size):
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, superblock._replace(flags=0, end=size).pack())


class _Superblock(NamedTuple):
    """The first 44 bytes of an HDF5 file of version 1.10 and later; their checksum follows."""

    signature: bytes
    version: int
    offset_bytes: int
    length_bytes: int
    flags: int
    base: int
    extension: int
    end: int
    root: int

    @classmethod
    def read(cls, fd: int) -> _Superblock | None:
        """The superblock of an open file, or None if it is not of the kind that needs mending."""
        os.lseek(fd, 0, os.SEEK_SET)
        found = os.read(fd, _LAYOUT.size)
        if len(found) != _LAYOUT.size:
            return None
        block = cls(*_LAYOUT.unpack(found))
        return block if block[:4] == (b"\x89HDF\r\n\x1a\n", 3, 8, 8) else None

    def lets_in(self, size: int) -> bool:
        """Whether HDF5 opens a file of that size for reading."""
        return self.flags == 0 and self.end <= size

    def pack(self) -> bytes:
        """The superblock and its checksum."""
        fields = _LAYOUT.pack(*self)
        return fields + struct.pack("<I", lookup3(fields))


def lookup3(data: bytes) -> int:
    """Bob Jenkins's lookup3 hash (public domain, 2006), which HDF5 uses as its checksum."""
    mask = 0xFFFFFFFF

    def rotate(x: int, k: int) -> int:
        return ((x << k) | (x >> (32 - k))) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    padded = data + bytes(-len(data) % 12)
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    last = len(words) - 3
    for i in range(0, last, 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        a = ((a - c) & mask) ^ rotate(c, 4)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ rotate(a, 6)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ rotate(b, 8)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ rotate(c, 16)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ rotate(a, 19)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ rotate(b, 4)
        b = (b + a) & mask
    if last < 0:
        return c
    a, b, c = (a + words[last]) & mask, (b + words[last + 1]) & mask, (c + words[last + 2]) & mask
    c = ((c ^ b) - rotate(b, 14)) & mask
    a = ((a ^ c) - rotate(c, 11)) & mask
    b = ((b ^ a) - rotate(a, 25)) & mask
    c = ((c ^ b) - rotate(b, 16)) & mask
    a = ((a ^ c) - rotate(c, 4)) & mask
    b = ((b ^ a) - rotate(a, 14)) & mask
    c = ((c ^ b) - rotate(b, 24)) & mask
    return c
