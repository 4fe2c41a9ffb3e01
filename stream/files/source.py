"""A file of frames as a frame source: in detector order, one frame in memory at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from stream.codecs import decode
from stream.frame import Algorithm, Encoding, Frame, Gap, Item, RecordingError, SeriesEnd, SeriesHeader

log = logging.getLogger(__name__)

_MAX_FRAME_BYTES = 1 << 30  # the largest cameras make a tenth of it

Payload = tuple[bytes | np.ndarray, Algorithm]


class FileSource:
    """The frames of one file, by position or, iterated, as a series with its gaps.

    Iterating yields the header, frames and gaps in index order, and the end; each iteration starts
    anew. A frame that cannot be read becomes a Gap("decode") and a warning, as on the wire.

    Parameters
    ----------
    path : the file, for messages.
    header : of the series.
    fetch : gives the frame at a position 0..n-1 as it is stored: an (ny, nx) array ("none") or a
        compressed payload with its algorithm. May raise OSError, ValueError, RuntimeError or LookupError.
    indices : (n,) i8, the detector's own frame numbers, increasing.
    t_ns : (n,) i8, the detector's clock in ns, -1 where the file has none; None: nowhere.
    gaps : the frames known to be missing, with their reasons, in index order. None: every index that
        is missing between the first and the last is a Gap("wire").
    on_close : gives the file back.
    """

    def __init__(
        self,
        path: Path,
        header: SeriesHeader,
        fetch: Callable[[int], Payload],
        *,
        indices: np.ndarray,
        t_ns: np.ndarray | None = None,
        gaps: Sequence[Gap] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.header = header
        self.indices = indices
        self.t_ns = t_ns
        self.gaps = _missing(self.indices, header.series_id) if gaps is None else list(gaps)
        self._fetch: Callable[[int], Payload] | None = fetch
        self._on_close = on_close

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, position: int) -> np.ndarray:
        """The counts (ny, nx) of the frame at `position` 0..len-1 (not the detector's index).

        Raises
        ------
        RecordingError
            If the file is damaged there, or closed.
        WireError
            If a compressed payload does not decode to one frame.
        """
        frame = self.frame(position)
        return decode(frame.payload, frame.encoding)

    def frame(self, position: int) -> Frame:
        """The frame at `position` 0..len-1, its payload as it lies in the file."""
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path} has frames 0 to {len(self) - 1}, no frame {position}")
        if self._fetch is None:
            raise RecordingError(f"{self.path} was closed; frame {position} cannot be read: open it again")
        index = int(self.indices[position])
        try:
            stored, algorithm = self._fetch(position)
        except (OSError, ValueError, RuntimeError, LookupError) as error:
            raise RecordingError(
                f"frame {index} of {self.path} cannot be read: {error}; the file is damaged or cut short"
            ) from error
        header = self.header
        if isinstance(stored, np.ndarray):
            if stored.shape != header.shape_yx:
                raise RecordingError(
                    f"frame {index} of {self.path} is {stored.shape}, the others are {header.shape_yx}; "
                    "write frames of different sizes to different files"
                )
            payload = np.ascontiguousarray(stored, dtype=header.dtype).data.cast("B")
        else:
            payload = memoryview(stored)
        return Frame(
            series_id=header.series_id,
            index=index,
            t_ns=None if self.t_ns is None or self.t_ns[position] < 0 else int(self.t_ns[position]),
            recv_ns=time.monotonic_ns(),
            payload=payload,
            encoding=Encoding(header.shape_yx, header.dtype, algorithm),
        )

    def __iter__(self) -> Iterator[Item]:
        yield self.header
        gaps = iter(self.gaps)
        gap = next(gaps, None)
        unread = 0
        for position, index in enumerate(self.indices.tolist()):
            while gap is not None and gap.first < index:
                yield gap
                gap = next(gaps, None)
            try:
                item: Item = self.frame(position)
            except RecordingError as error:
                if self._fetch is None:
                    raise
                unread += 1
                if unread == 1:
                    log.warning("%s; going on without it", error)
                item = Gap(self.header.series_id, index, 1, "decode")
            yield item
        while gap is not None:
            yield gap
            gap = next(gaps, None)
        if unread:
            log.warning("%d of %d frames of %s could not be read", unread, len(self), self.path)
        yield SeriesEnd(self.header.series_id)

    def close(self) -> None:
        """Give the file back; harmless twice."""
        self._fetch = None
        if self._on_close is not None:
            give_back, self._on_close = self._on_close, None
            give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _missing(indices: np.ndarray, series_id: int) -> list[Gap]:
    """The runs of numbers that `indices` (n,) jumps over."""
    jumps = np.flatnonzero(np.diff(indices) > 1)
    return [Gap(series_id, int(indices[j]) + 1, int(indices[j + 1] - indices[j]) - 1, "wire") for j in jumps]


def plain_header(
    path: Path, shape: tuple[int, int, int], dtype: np.dtype, calibration: Mapping[str, float | None]
) -> SeriesHeader:
    """The header of a stack (n, ny, nx) stored as `dtype`, calibrated by SeriesHeader's fields."""
    if shape[1] * shape[2] * dtype.itemsize > _MAX_FRAME_BYTES:
        raise RecordingError(
            f"{path}: a frame of {shape[1]} x {shape[2]} {dtype}; expected at most {_MAX_FRAME_BYTES >> 20} MiB: "
            "is the file damaged?"
        )
    header = SeriesHeader(
        series_id=1,
        shape_yx=(int(shape[1]), int(shape[2])),
        dtype=plain_dtype(dtype, path),
        frames_expected=int(shape[0]),
        metadata={"source_file": path.name},
    )
    return replace(header, **calibration)


def plain_dtype(dtype: np.dtype, path: Path) -> np.dtype:
    """The little-endian type in which frames stored as `dtype` are handed out, without loss.

    Raises
    ------
    RecordingError
        If the pixels are no real numbers (complex, records, text, objects).
    """
    if dtype.kind == "b":
        return np.dtype("u1")
    if dtype == np.dtype("f2"):
        return np.dtype("<f4")
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise RecordingError(
            f"{path} holds pixels of type {dtype}; frames are integers or real numbers of at most "
            "8 bytes: save the modulus, or one component, instead"
        )
    return dtype.newbyteorder("<")
