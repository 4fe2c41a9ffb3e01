"""Payloads to f4 images on the card: compressed ones travel as they are and are decoded there."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream.codecs import Encoding, WireError, check, decode
from stream.gpu.blocks import block_starts

LARGEST_BLOCK = 8192  # decoded bytes that a warp's share of fast memory holds; bitshuffle's own default
TO_F4 = {"u1": "to_f4_u1", "i1": "to_f4_i1", "u2": "to_f4_u2", "i2": "to_f4_i2", "u4": "to_f4_u4",
         "i4": "to_f4_i4", "f4": "to_f4_f4"}  # fmt: skip


class Decoder:
    """Decodes frames of one shape and dtype into images on a device.

    bslz4 in blocks of up to 8 KiB is decoded there; what else there is (plain lz4 in large blocks, elements of
    8 bytes) on the host, and its counts are uploaded.

    Parameters
    ----------
    device : of `stream.device`.
    shape_yx, dtype : of every frame to come.
    bad_pixels : (ny, nx) bool, or None.
    frames : in the largest batch.
    """

    def __init__(
        self,
        device: Any,
        shape_yx: tuple[int, int],
        dtype: np.dtype[Any],
        bad_pixels: np.ndarray | None = None,
        frames: int = 1,
    ) -> None:
        self._device, self.shape_yx = device, shape_yx
        self.dtype = np.dtype(dtype)
        self._native = self.dtype.newbyteorder("=")
        self._read = self._native if self._native.str[1:] in TO_F4 else np.dtype("f4")
        self._kernel = TO_F4[self._read.str[1:]]
        pixels = shape_yx[0] * shape_yx[1]
        bytes_each = pixels * self.dtype.itemsize
        self._bad = device.put((np.zeros(1, bool) if bad_pixels is None else bad_pixels).view(np.uint8))
        self._any_bad = bad_pixels is not None
        self._counts = device.empty(-(-pixels * max(self.dtype.itemsize, 4) // 8) * 8, "u1")
        # for the frames of two batches, so that one batch travels while the other is computed
        most = -(-bytes_each // 128) + 1  # blocks, at the least that bitshuffle allows
        self._payload = [device.empty(2 * bytes_each + 4096, "u1") for _ in range(2 * frames)]
        self._table = [device.empty((2 * most, 4), "u1") for _ in range(2 * frames)]
        self._read_by: list[Any] = [None] * (2 * frames)
        self._turn = 0

    def __call__(self, payload: memoryview | bytes, encoding: Encoding, out: Any, failed: Any) -> None:
        """Decode one frame into `out` (ny, nx) f4; bad pixels become NaN. What is no frame sets `failed` (1,) i4.

        Raises
        ------
        WireError
            If the payload already looks wrong from outside.
        ValueError
            If the encoding is not the promised one.
        """
        if encoding.shape_yx != self.shape_yx or encoding.dtype != self.dtype:
            raise ValueError(
                f"another frame: expected {self.dtype} {self.shape_yx}, got {encoding.dtype} {encoding.shape_yx}; "
                "make a Decoder for it"
            )
        check(payload, encoding)
        pixels = self.shape_yx[0] * self.shape_yx[1]
        self._turn = (self._turn + 1) % len(self._payload)
        room, after = self._payload[self._turn], self._read_by[self._turn]
        swap = not self.dtype.isnative
        table = block_starts(payload, encoding) if encoding.algorithm == "bslz4" else None
        if table is not None and table.block <= LARGEST_BLOCK and self._read == self._native:
            if len(payload) > len(room):
                raise WireError(f"a payload of {len(payload)} bytes, more than twice its counts")
            counts = self._counts
            self._device.upload(payload, room, after)
            self._decode(room, table, after, failed)
        else:
            plain = decode(payload, encoding)
            if self._read != self._native:
                plain, swap = plain.astype("f4"), False
            counts = room
            self._device.upload(np.ascontiguousarray(plain).view(np.uint8).ravel(), room, after)
        values = counts[: pixels * self._read.itemsize].view(f"u{self._read.itemsize}")
        self._device.launch(
            self._kernel, (-(-pixels // 256), 1, 1), (256, 1, 1), values, self._bad, out, np.int64(pixels),
            np.int64(pixels), np.int32(swap), np.int32(self._any_bad),
        )  # fmt: skip
        self._read_by[self._turn] = self._device.mark()

    def _decode(self, room: Any, table: Any, after: Any, failed: Any) -> None:
        at = self._table[self._turn]
        blocks = len(table.start)
        self._device.upload(np.concatenate([table.start, table.length]).view(np.uint8), at.ravel(), after)
        words = at.ravel().view("u4")
        self._device.launch(
            "decode_bslz4", (max(blocks, 1), 1, 1), (32, 1, 1), room, words[:blocks],
            words[blocks : 2 * blocks], self._counts, failed, np.int32(table.block), np.int64(table.head),
            np.int64(table.tail_at), np.int32(table.tail), np.int32(self.dtype.itemsize),
        )  # fmt: skip
