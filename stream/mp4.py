"""Movies as MP4: AV1 in groups of frames, which current browsers and players show.

imagecodecs is the encoder (libaom, by way of AVIF): a group of frames is an AVIF image sequence, whose samples
are those of an AV1 track (AVIF 1.1, 3; AV1 codec ISO media file format binding, 2). They are taken out, and
written into one file after ISO/IEC 14496-12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import imagecodecs
import numpy as np

from stream.frame import RecordingError

_LEVEL, _SPEED = 45, 10  # quality, of 100; speed, 10 the fastest
_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


class Mp4File:
    """Writes one movie; a context manager.

    Parameters
    ----------
    path : written anew.
    shape_yx : of every frame, px; even.
    """

    group = 15  # frames that are encoded together; the first of each stands alone

    def __init__(self, path: Path, shape_yx: tuple[int, int]) -> None:
        self._file = path.open("wb")
        self._shape_yx = shape_yx
        self._sizes: list[int] = []
        self._times_ms: list[int] = []
        self._chunks: list[tuple[int, int]] = []  # place, frames
        self._settings = b""
        self._file.write(_box(b"ftyp", b"iso6" + struct.pack(">I", 0) + b"iso6av01mp41"))
        self._data_at = self._file.tell()
        self._file.write(struct.pack(">I4sQ", 1, b"mdat", 16))

    @staticmethod
    def encode(frames: np.ndarray) -> list[bytes]:
        """AV1's settings, then the samples, of (k, ny, nx, 3) u1; may run in another thread."""
        sequence = (
            frames if len(frames) > 1 else np.concatenate([frames, frames])
        )  # one alone is a still image
        avif = bytes(
            imagecodecs.avif_encode(sequence, level=_LEVEL, speed=_SPEED, pixelformat="420", numthreads=1)
        )
        settings, samples = _samples(avif)
        return [settings, *samples[: len(frames)]]

    def write(self, frames: list[bytes], times_ms: list[int]) -> None:
        """Append what `encode` gave; `times_ms`, when each frame is shown, rises."""
        settings, *samples = frames
        if self._settings and settings != self._settings:
            raise RecordingError(
                "the encoder changed its settings within a movie; expected frames of one shape"
            )
        self._settings = settings
        self._chunks.append((self._file.tell(), len(samples)))
        self._sizes += [len(sample) for sample in samples]
        self._times_ms += times_ms
        self._file.write(b"".join(samples))

    def finish(self, end_ms: int) -> None:
        """The last frame is shown until `end_ms`."""
        end = self._file.tell()
        self._file.write(self._movie(end_ms))
        self._file.seek(self._data_at + 8)
        self._file.write(struct.pack(">Q", end - self._data_at))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _movie(self, end_ms: int) -> bytes:
        height, width = self._shape_yx
        start_ms = self._times_ms[0] if self._times_ms else 0
        length = end_ms - start_ms
        movie = struct.pack(">4I", 0, 0, 1000, length) + struct.pack(">IH10x", 0x10000, 0x100) + _MATRIX
        track = struct.pack(">5I8x4H", 0, 0, 1, 0, length, 0, 0, 0, 0) + _MATRIX
        track += struct.pack(">2I", width << 16, height << 16)
        media = struct.pack(">4I2H", 0, 0, 1000, length, 0x55C4, 0)  # no language
        data = _box(b"dinf", _full(b"dref", struct.pack(">I", 1) + _full(b"url ", b"", 1)))
        table = _box(b"minf", _full(b"vmhd", bytes(8), 1) + data + self._table(end_ms))
        kind = _full(b"hdlr", bytes(4) + b"vide" + bytes(12) + b"hopscope\0")
        mdia = _box(b"mdia", _full(b"mdhd", media) + kind + table)
        return _box(
            b"moov",
            _full(b"mvhd", movie + bytes(24) + struct.pack(">I", 2))
            + _box(b"trak", _full(b"tkhd", track, 3) + mdia),
        )

    def _table(self, end_ms: int) -> bytes:
        """Where each sample is, how long it is shown, and which stand alone."""
        height, width = self._shape_yx
        entry = bytes(6) + struct.pack(">H16x2H2II", 1, width, height, 0x480000, 0x480000, 0)
        entry += struct.pack(">H32xHh", 1, 24, -1) + self._settings
        lasts, run = np.diff([*self._times_ms, end_ms]), []
        for ms in lasts.tolist():
            if run and run[-1][1] == ms:
                run[-1][0] += 1
            else:
                run.append([1, ms])
        chunks = [
            (number, frames)
            for number, (_, frames) in enumerate(self._chunks, 1)
            if number == 1 or frames != self._chunks[number - 2][1]
        ]
        keys = np.cumsum([1] + [frames for _, frames in self._chunks])[:-1]
        parts = (
            _full(b"stsd", struct.pack(">I", 1) + _box(b"av01", entry)),
            _full(b"stts", _list([value for pair in run for value in pair], len(run))),
            _full(b"stss", _list(keys.tolist(), len(keys))),
            _full(b"stsc", _list([v for number, frames in chunks for v in (number, frames, 1)], len(chunks))),
            _full(b"stsz", struct.pack(">I", 0) + _list(self._sizes, len(self._sizes))),
            _full(
                b"co64",
                struct.pack(f">I{len(self._chunks)}Q", len(self._chunks), *(at for at, _ in self._chunks)),
            ),
        )
        return _box(b"stbl", b"".join(parts))


def _samples(avif: bytes) -> tuple[bytes, list[bytes]]:
    """The box av1C, and the samples of the track, of an AVIF image sequence in one chunk."""
    found = dict(_boxes(avif, 0, len(avif)))
    try:
        (count,) = struct.unpack_from(">I", found[b"stsz"], 8)
        sizes = struct.unpack_from(f">{count}I", found[b"stsz"], 12)
        (at,) = struct.unpack_from(">I", found[b"stco"], 8)
    except (KeyError, struct.error) as error:
        raise RecordingError(f"this imagecodecs wrote no AVIF image sequence ({error}); use webm") from error
    ends = at + np.cumsum((0, *sizes))
    settings = found[b"av1C"]
    samples = [avif[first:stop] for first, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    return _box(b"av1C", settings), samples


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the boxes, those of the track's description included."""
    while at + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        if name in _CONTAINERS:
            yield from _boxes(data, at + 8, at + size)
        elif name == b"stsd":
            yield from _boxes(data, at + 16 + 8 + 78, at + size)  # within the one sample entry
        else:
            yield name, data[at + 8 : at + size]
        at += size


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def _full(name: bytes, content: bytes, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", flags) + content)


def _list(values: list[int], count: int) -> bytes:
    return struct.pack(f">I{len(values)}I", count, *values)
