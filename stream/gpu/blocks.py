"""Where the compressed blocks of a bslz4 payload lie; apart from `stream.codecs`, which the receiving process loads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from stream.codecs import FRAMING, Encoding, WireError, block_bytes, check


@dataclass(frozen=True, slots=True)
class BlockTable:
    """Where the blocks of a bslz4 payload lie.

    Attributes
    ----------
    start, length : (blocks,) u4, bytes of each compressed block in the payload.
    block : decoded bytes of every block but the last.
    head : decoded bytes in blocks; `tail` more follow in the payload as they are, from `tail_at` on.
    """

    start: np.ndarray
    length: np.ndarray
    block: int
    head: int
    tail: int
    tail_at: int


def block_starts(payload: memoryview | bytes, encoding: Encoding) -> BlockTable:
    """The blocks of a bslz4 payload, every one of them inside it.

    Raises
    ------
    WireError
        If there are not exactly enough of them.
    """
    check(payload, encoding)
    source = np.frombuffer(payload, np.uint8)
    size, block = encoding.frame_bytes, block_bytes(memoryview(payload).cast("B"), encoding)
    tail = size % (8 * encoding.dtype.itemsize)
    head = size - tail
    block = min(block, head) or 1
    start = np.empty(-(-head // block), np.uint32)
    length = np.empty_like(start)
    end = _find_blocks(source, FRAMING.size, start, length)
    if end < 0:
        raise WireError(f"the payload ends at byte {len(source)}, before its last block")
    if len(source) - end != tail:
        raise WireError(f"{len(source) - end} bytes after the last block; expected {tail}")
    return BlockTable(start, length, block, head, tail, end)


@njit(cache=True, nogil=True)
def _find_blocks(source, at, start, length):
    """Walk from length to length; where the last block ends, or -1 if it is not all there."""
    for i in range(len(start)):
        if at + 4 > len(source):
            return -1
        size = np.int64(0)
        for k in range(4):
            size = (size << 8) | np.int64(source[at + k])
        start[i], length[i] = at + 4, size
        at += 4 + size
    return at if at <= len(source) else -1
