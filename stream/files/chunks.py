"""Frames out of HDF5 as they lie there: a chunk of one frame is a payload, as a camera sends it."""

from __future__ import annotations

import h5py
import numpy as np

from stream.files.source import Payload
from stream.frame import Algorithm

_LZ4, _BITSHUFFLE = 32004, 32008
_BITSHUFFLE_WITH_LZ4 = 2  # the fifth of that filter's parameters
_SKIPPED = 1  # bit of the first filter in a chunk's mask


def fetch_chunk(frames: h5py.Dataset, algorithm: Algorithm, position: int) -> Payload:
    """The frame at `position` of a stack whose chunks are single frames, compressed as it is."""
    mask, payload = frames.id.read_direct_chunk((position, 0, 0))
    if algorithm == "none" or mask & _SKIPPED:
        counts = np.frombuffer(payload, frames.dtype)
        return counts.reshape(frames.shape[1:]), "none"
    return bytes(payload), algorithm


def frame_chunks(frames: h5py.Dataset) -> Algorithm | None:
    """The algorithm of the chunks of `frames` (n, ny, nx), or None where they are not payloads."""
    if frames.ndim != 3 or frames.chunks != (1, *frames.shape[1:]):
        return None
    properties = frames.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    if not filters:
        return "none"
    if len(filters) > 1:
        return None
    code, _, parameters, _ = filters[0]
    if code == _LZ4:
        return "lz4"
    if code == _BITSHUFFLE and parameters[4:5] == (_BITSHUFFLE_WITH_LZ4,):
        return "bslz4"
    return None
