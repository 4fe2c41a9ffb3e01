"""Counts in and out of the payloads cameras send: plain, lz4, or bslz4 (bitshuffle, then lz4).

Both compressed forms are framed as the HDF5 filters 32004 and 32008 frame a chunk:
``>QI`` (bytes of the decoded frame, bytes of a decoded block), then per block ``>I`` (its compressed bytes)
and the block. A bslz4 block is bitshuffled by itself; the last ``n % 8`` elements follow as they are.
[K. Masui et al., A compression scheme for radio data in high performance computing,
Astronomy and Computing 12 (2015) 181]

imagecodecs brings lz4 and the bit transposition apart; they are joined here group by group of blocks, so that
what lies between them never leaves the cache. Sizes come from the encoding, never from the payload: a payload
that lies about itself costs an exception, not memory.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np

Algorithm = Literal["none", "lz4", "bslz4"]

_codecs: Any = imagecodecs  # its type stubs know no memoryview
FRAMING = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")
_BLOCK_BYTES = 8192  # bitshuffle's own default
_LEAST_BLOCK_BYTES = 128  # bitshuffle's smallest; with crumbs a payload could keep its reader busy for ever
_GROUP_BYTES = 1 << 18  # decoded bytes handled at once: fits the second-level cache
_LZ4_BEST_RATIO = 255  # lz4 cannot shrink further: one byte of match length stands for at most 255


class WireError(Exception):
    """A message or payload that does not say what its format promises."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a payload holds its counts: C-ordered (ny, nx) `dtype`, plain or compressed."""

    shape_yx: tuple[int, int]
    dtype: np.dtype[Any]
    algorithm: Algorithm = "none"

    @property
    def frame_bytes(self) -> int:
        """Bytes of the decoded frame."""
        return self.shape_yx[0] * self.shape_yx[1] * self.dtype.itemsize


def decode(payload: memoryview | bytes, encoding: Encoding, out: memoryview | None = None) -> np.ndarray:
    """Decode one frame.

    Parameters
    ----------
    payload : the bytes as received.
    encoding : their shape, dtype and algorithm.
    out : writable memory of at least `encoding.frame_bytes` that takes the counts; new memory if None.

    Returns
    -------
    (ny, nx) of `encoding.dtype`: a view of `out` if given. Without it, plain counts are a view of `payload`
    (a copy only where its address does not suit the dtype).

    Raises
    ------
    WireError
        Unless the payload holds exactly one frame.
    ValueError
        If `out` is too small.
    """
    check(payload, encoding)
    source = memoryview(payload).cast("B")
    size = encoding.frame_bytes
    if encoding.algorithm == "none" and out is None:
        plain = np.frombuffer(source, encoding.dtype).reshape(encoding.shape_yx)
        return np.require(plain, requirements="A")
    target = np.empty(size, "u1").data if out is None else memoryview(out).cast("B")
    if len(target) < size:
        raise ValueError(f"room for {len(target)} bytes; {_said(encoding)} needs {size}")
    target = target[:size]
    if encoding.algorithm == "none":
        target[:] = source
    else:
        _decode_blocks(source, target, block_bytes(source, encoding), encoding)
    return np.frombuffer(target, encoding.dtype).reshape(encoding.shape_yx)


def check(payload: memoryview | bytes, encoding: Encoding) -> None:
    """Compare what the payload says of its size with the encoding, without decoding it.

    Raises
    ------
    WireError
        If they disagree, or if no frame of that size can be in so few bytes.
    """
    source = memoryview(payload).cast("B")
    size = encoding.frame_bytes
    if size == 0 or encoding.dtype.itemsize not in (1, 2, 4, 8):
        raise WireError(f"{_said(encoding)}; expected at least one pixel of 1, 2, 4 or 8 bytes")
    if encoding.algorithm == "none":
        if len(source) != size:
            raise WireError(f"plain counts of {len(source)} bytes; {_said(encoding)} needs {size}")
    elif size > _LZ4_BEST_RATIO * len(source):
        raise WireError(f"{len(source)} bytes of {encoding.algorithm}, too few for {_said(encoding)}")
    else:
        block_bytes(source, encoding)


def encode(counts: np.ndarray, algorithm: Algorithm) -> bytes:
    """Encode one frame as a camera would; a bslz4 payload is an HDF5 bitshuffle chunk as well.

    Parameters
    ----------
    counts : (ny, nx), elements of 1, 2, 4 or 8 bytes; their byte order is kept.
    algorithm : "none", "lz4" or "bslz4".
    """
    counts = np.ascontiguousarray(counts)
    plain = counts.reshape(-1).view("u1").data
    if algorithm == "none":
        return plain.tobytes()
    if algorithm == "lz4":
        return bytes(_codecs.lz4h5_encode(plain, blocksize=min(len(plain), 1 << 30)))
    itemsize = counts.itemsize
    head = len(plain) - len(plain) % (8 * itemsize)
    parts: list[bytes | memoryview] = [FRAMING.pack(len(plain), _BLOCK_BYTES)]
    for start in range(0, head, _GROUP_BYTES):
        group = plain[start : min(start + _GROUP_BYTES, head)]
        shuffled = _codecs.bitshuffle_encode(group, itemsize=itemsize, blocksize=_BLOCK_BYTES // itemsize)
        parts += _lz4_blocks(shuffled)
    parts.append(plain[head:])
    return b"".join(parts)


def block_bytes(source: memoryview, encoding: Encoding) -> int:
    """Decoded bytes of a block, from the framing."""
    size = encoding.frame_bytes
    if len(source) < FRAMING.size:
        raise WireError(f"a payload of {len(source)} bytes; its framing alone needs {FRAMING.size}")
    said, block = FRAMING.unpack_from(source)
    if said == 0 and block == 0:  # some senders leave the framing blank
        return _BLOCK_BYTES
    if said != size:
        raise WireError(f"a payload for {said} bytes; {_said(encoding)} needs {size}")
    step = 8 * encoding.dtype.itemsize if encoding.algorithm == "bslz4" else 1
    if block % step or block < min(_LEAST_BLOCK_BYTES, size):
        raise WireError(
            f"blocks of {block} bytes; expected a multiple of {step}, from {_LEAST_BLOCK_BYTES} on"
        )
    return block


def _decode_blocks(source: memoryview, target: memoryview, block: int, encoding: Encoding) -> None:
    """Undo lz4 and, for bslz4, the bitshuffle."""
    size, itemsize = len(target), encoding.dtype.itemsize
    shuffled = encoding.algorithm == "bslz4"
    tail = size % (8 * itemsize) if shuffled else 0  # these follow as they are
    head = size - tail
    block = min(block, head) or 1

    group = max(1, _GROUP_BYTES // block) * block
    scratch = memoryview(bytearray(min(group, head))) if shuffled else target
    at = FRAMING.size
    for start in range(0, head, group):
        stop = min(start + group, head)
        lengths, end = _block_lengths(source, at, -(-(stop - start) // block))
        decoded = scratch[: stop - start] if shuffled else target[start:stop]
        last = stop - start - (len(lengths) - 1) * block
        if shuffled and (block in lengths[:-1] or lengths[-1] == last):
            _lz4_singly(source, at, lengths, decoded, block)
        else:
            _lz4_group(source[at:end], decoded, block)
        if shuffled:
            _codecs.bitshuffle_decode(
                decoded, itemsize=itemsize, blocksize=block // itemsize, out=target[start:stop]
            )
        at = end
    if len(source) - at != tail:
        raise WireError(f"{len(source) - at} bytes after the last block; expected {tail}")
    target[head:] = source[at:]


def _block_lengths(source: memoryview, at: int, blocks: int) -> tuple[list[int], int]:
    """The compressed bytes of the next `blocks` blocks, and where the last one ends."""
    lengths, length_at = [], _LENGTH.unpack_from
    try:
        for _ in range(blocks):
            (length,) = length_at(source, at)
            lengths.append(length)
            at += 4 + length
    except struct.error as error:
        raise WireError(f"the payload ends at byte {len(source)}, before its last block") from error
    if at > len(source):
        raise WireError(f"the payload ends at byte {len(source)}; its blocks end at {at}")
    return lengths, at


def _lz4_group(blocks: memoryview, decoded: memoryview, block: int) -> None:
    framed = b"".join((FRAMING.pack(len(decoded), block), blocks))
    try:
        got = len(_codecs.lz4h5_decode(framed, out=decoded))
    except imagecodecs.Lz4h5Error as error:
        raise WireError(f"the payload is no lz4: {error}") from error
    if got != len(decoded):
        raise WireError(f"blocks of {got} bytes; expected {len(decoded)}")


def _lz4_singly(source: memoryview, at: int, lengths: list[int], decoded: memoryview, block: int) -> None:
    """As `_lz4_group`, where a compressed block is as long as a plain one.

    The lz4 filter would take it for a plain one; bitshuffle has no plain blocks.
    """
    for i, length in enumerate(lengths):
        at += _LENGTH.size
        room = decoded[i * block : (i + 1) * block]
        try:
            got = len(_codecs.lz4_decode(source[at : at + length], out=room))
        except imagecodecs.Lz4Error as error:
            raise WireError(f"the payload is no lz4: {error}") from error
        if got != len(room):
            raise WireError(f"a block of {got} bytes; expected {len(room)}")
        at += length


def _lz4_blocks(shuffled: bytes) -> list[bytes | memoryview]:
    """The blocks of a group, compressed, each behind its length."""
    framed = memoryview(_codecs.lz4h5_encode(shuffled, blocksize=_BLOCK_BYTES))
    blocks = -(-len(shuffled) // _BLOCK_BYTES)
    lengths, _ = _block_lengths(framed, FRAMING.size, blocks)
    last = len(shuffled) - (blocks - 1) * _BLOCK_BYTES
    if _BLOCK_BYTES not in lengths[:-1] and lengths[-1] != last:
        return [framed[FRAMING.size :]]
    parts: list[bytes | memoryview] = []  # some are stored plain, which only the lz4 filter allows
    for start in range(0, len(shuffled), _BLOCK_BYTES):
        block = _codecs.lz4_encode(shuffled[start : start + _BLOCK_BYTES])
        parts += _LENGTH.pack(len(block)), block
    return parts


def _said(encoding: Encoding) -> str:
    ny, nx = encoding.shape_yx
    return f"a frame of {ny} x {nx} {encoding.dtype.str}"
