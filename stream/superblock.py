"""The first 48 bytes of an HDF5 file, where a writer leaves its mark, and which nobody's wheel can mend.

A file being written in SWMR mode says so in the flags of its superblock, and HDF5 refuses to open it for
plain reading, for ever after if its writer was killed. The superblock: signature, version, sizes, flags,
four addresses (base, extension, end of file, root group), and the checksum of all that.
[HDF5 File Format Specification 3.0, section II.A]
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

_LAYOUT = struct.Struct("<8sBBBB4Q")
_OURS = (b"\x89HDF\r\n\x1a\n", 3, 8, 8)  # signature, version, bytes of an offset and of a length


def mend(fd: int) -> None:
    """Make the superblock say that nobody writes, and that all of the file may be read.

    The end must be the true one: after a kill in the middle of a flush, there are chunks beyond the end
    that the superblock knew, and HDF5 would refuse to read them.
    """
    superblock = Superblock.read(fd)
    size = os.fstat(fd).st_size
    if superblock is not None and (superblock.flags, superblock.end) != (0, size):
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, superblock._replace(flags=0, end=size).pack())


class Superblock(NamedTuple):
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
    def read(cls, fd: int) -> Superblock | None:
        """The superblock of an open file, or None if it is not of the kind that needs mending."""
        os.lseek(fd, 0, os.SEEK_SET)
        found = os.read(fd, _LAYOUT.size)
        if len(found) != _LAYOUT.size:
            return None
        block = cls(*_LAYOUT.unpack(found))
        return block if block[:4] == _OURS else None

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
