"""Movies as WebM: VP8 key frames in a Matroska file, which browsers and most players show.

A lossy WebP picture is a VP8 key frame in another wrapping (RFC 9649, 2.5), so Pillow is the encoder. Frames of
a camera differ by their noise: coding them from each other would save next to nothing. The container is
written after RFC 8794 (EBML) and RFC 9559 (Matroska).
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from stream.frame import RecordingError

_QUALITY = 50  # of 100; noise is most of what there is to code
_CLUSTER_MS = 5_000  # a block's time is 16 bits, relative to its cluster
_SIZE_BYTES = 8  # of a size that is known only later

_EBML, _SEGMENT, _SEEK_HEAD, _SEEK, _SEEK_ID, _SEEK_AT = (
    0x1A45DFA3,
    0x18538067,
    0x114D9B74,
    0x4DBB,
    0x53AB,
    0x53AC,
)
_INFO, _SCALE, _DURATION, _MUXER, _WRITER = 0x1549A966, 0x2AD7B1, 0x4489, 0x4D80, 0x5741
_TRACKS, _TRACK, _NUMBER, _UID, _TYPE, _CODEC = 0x1654AE6B, 0xAE, 0xD7, 0x73C5, 0x83, 0x86
_VIDEO, _WIDTH, _HEIGHT = 0xE0, 0xB0, 0xBA
_CLUSTER, _TIME, _BLOCK = 0x1F43B675, 0xE7, 0xA3
_CUES, _CUE, _CUE_TIME, _CUE_PLACE, _CUE_TRACK, _CUE_CLUSTER = 0x1C53BB6B, 0xBB, 0xB3, 0xB7, 0xF7, 0xF1


class WebmFile:
    """Writes one movie; a context manager.

    Parameters
    ----------
    path : written anew.
    shape_yx : of every frame, px.
    """

    group = 1  # frames that are encoded together

    def __init__(self, path: Path, shape_yx: tuple[int, int]) -> None:
        self._file = path.open("wb")
        self._cluster: list[tuple[int, bytes]] = []
        self._cues: list[tuple[int, int]] = []  # time, place of a cluster
        self._last_ms = 0
        self._file.write(_head())
        self._file.write(_id(_SEGMENT) + _later())
        self._start = self._file.tell()
        self._file.write(_seek_head(0))
        info = _uint(_SCALE, 1_000_000) + _element(_DURATION, struct.pack(">d", 0.0))
        info += _element(_MUXER, b"hopscope") + _element(_WRITER, b"hopscope")
        self._duration_at = self._file.tell() + len(_id(_INFO)) + 1 + info.index(_id(_DURATION)) + 3
        self._file.write(_element(_INFO, info))
        height, width = shape_yx
        video = _element(_VIDEO, _uint(_WIDTH, width) + _uint(_HEIGHT, height))
        track = _uint(_NUMBER, 1) + _uint(_UID, 1) + _uint(_TYPE, 1) + _element(_CODEC, b"V_VP8") + video
        self._file.write(_element(_TRACKS, _element(_TRACK, track)))

    @staticmethod
    def encode(frames: np.ndarray) -> list[bytes]:
        """VP8 key frames of (k, ny, nx, 3) u1; may run in another thread."""
        return [_vp8(frame) for frame in frames]

    def write(self, frames: list[bytes], times_ms: list[int]) -> None:
        """Append encoded frames; `times_ms`, when each is shown, rises."""
        for frame, time_ms in zip(frames, times_ms, strict=True):
            if self._cluster and time_ms - self._cluster[0][0] > _CLUSTER_MS:
                self._write_cluster()
            self._cluster.append((time_ms, frame))
            self._last_ms = time_ms

    def finish(self, end_ms: int) -> None:
        """The last frame is shown until `end_ms`."""
        self._write_cluster()
        cues_at = self._file.tell() - self._start
        cues = b"".join(
            _element(
                _CUE,
                _uint(_CUE_TIME, time_ms)
                + _element(_CUE_PLACE, _uint(_CUE_TRACK, 1) + _uint(_CUE_CLUSTER, place)),
            )
            for time_ms, place in self._cues
        )
        self._file.write(_element(_CUES, cues))
        end = self._file.tell()
        self._file.seek(self._start - _SIZE_BYTES)
        self._file.write(_size(end - self._start, _SIZE_BYTES))
        self._file.write(_seek_head(cues_at))
        self._file.seek(self._duration_at)
        self._file.write(struct.pack(">d", float(end_ms)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _write_cluster(self) -> None:
        if not self._cluster:
            return
        start_ms = self._cluster[0][0]
        self._cues.append((start_ms, self._file.tell() - self._start))
        blocks = [
            _element(
                _BLOCK, b"\x81" + struct.pack(">hB", time_ms - start_ms, 0x80) + frame
            )  # track 1, key frame
            for time_ms, frame in self._cluster
        ]
        self._file.write(_element(_CLUSTER, _uint(_TIME, start_ms) + b"".join(blocks)))
        self._cluster.clear()


def _vp8(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "WEBP", quality=_QUALITY, method=1)
    webp = out.getvalue()
    at = 12  # after RIFF, length, WEBP: chunks
    while at + 8 <= len(webp):
        name, size = struct.unpack_from("<4sI", webp, at)
        if name == b"VP8 ":
            return webp[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    raise RecordingError(
        "this Pillow wrote a WebP picture without VP8 frame: expected lossy WebP; update Pillow"
    )


def _head() -> bytes:
    fields = (
        (0x4286, 1),
        (0x42F7, 1),
        (0x42F2, 4),
        (0x42F3, 8),
    )  # EBML's versions and its longest id and size
    doc = _element(0x4282, b"webm") + _uint(0x4287, 4) + _uint(0x4285, 2)
    return _element(_EBML, b"".join(_uint(name, value) for name, value in fields) + doc)


def _seek_head(cues_at: int) -> bytes:
    """Where the cues are, in a fixed number of bytes."""
    place = _element(_SEEK_ID, _id(_CUES)) + _element(_SEEK_AT, struct.pack(">Q", cues_at))
    return _element(_SEEK_HEAD, _element(_SEEK, place))


def _element(name: int, content: bytes) -> bytes:
    return _id(name) + _size(len(content)) + content


def _uint(name: int, value: int) -> bytes:
    return _element(name, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def _id(name: int) -> bytes:
    return name.to_bytes((name.bit_length() + 7) // 8, "big")


def _size(value: int, length: int | None = None) -> bytes:
    """A size as EBML writes it: as many leading zero bits as bytes follow, then a one."""
    if length is None:
        length = next(n for n in range(1, 9) if value < (1 << 7 * n) - 1)
    return (value | 1 << 7 * length).to_bytes(length, "big")


def _later() -> bytes:
    return _size(0, _SIZE_BYTES)
