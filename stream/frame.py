"""What travels down the beam: series headers, frames, gaps and series ends.

A source yields these four in detector order; a sink takes them. Gaps are data: an unseen frame
shortens the time observed, or every rate would be biased.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from stream.codecs import Algorithm, Encoding, WireError, decode

__all__ = [
    "Algorithm", "CalibrationError", "Encoding", "Frame", "FrameSource", "Gap", "GapReason", "Item",
    "RecordingError", "SeriesEnd", "SeriesHeader", "Sink", "WireError",
]  # fmt: skip

GapReason = Literal["wire", "ring-full", "decode", "skipped-live", "paused", "restart"]


class CalibrationError(Exception):
    """A calibration that is missing or impossible; the message says what to set and where."""


class RecordingError(Exception):
    """A recording cannot be written or read; what was written so far stays readable."""


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """What is known of a series before its first frame; None where the camera did not say.

    Attributes
    ----------
    series_id : the detector's own number of the series.
    shape_yx : (ny, nx) of every frame, in pixels.
    dtype : of the counts, byte order included.
    frame_period_s, exposure_s : from frame to frame, and of one frame, in seconds.
    pixel_size_nm : at the specimen (never the detector's pitch).
    beam_energy_ev : energy of the electrons.
    dose_rate_e_nm2_s : electrons per nm² and second at the specimen.
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed, or None.
    frames_expected : as announced; a continuous acquisition announces a huge number.
    metadata : what the camera sent, as plain values (numbers, strings, lists, dicts).
    """

    series_id: int
    shape_yx: tuple[int, int]
    dtype: np.dtype[Any]
    frame_period_s: float | None = None
    exposure_s: float | None = None
    pixel_size_nm: float | None = None
    beam_energy_ev: float | None = None
    dose_rate_e_nm2_s: float | None = None
    bad_pixels: np.ndarray | None = None
    frames_expected: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        return self.shape_yx[0] * self.shape_yx[1] * self.dtype.itemsize


@dataclass(slots=True)
class Frame:
    """One exposure, as received.

    Attributes
    ----------
    series_id, index : the detector's own numbers, never a local counter.
    t_ns : the detector's clock in ns (start of the exposure), or None if it sent none.
    recv_ns : `time.monotonic_ns()` at receipt; for latency only.
    payload : the bytes as received.
    encoding : how to read them.
    buffer : room for the decoded counts (frame_bytes long), where the owner has some to lend.
    """

    series_id: int
    index: int
    t_ns: int | None
    recv_ns: int
    payload: memoryview
    encoding: Encoding
    buffer: memoryview | None = None
    on_release: Callable[[], None] | None = None
    _counts: np.ndarray | None = None

    @property
    def counts(self) -> np.ndarray:
        """The counts, (ny, nx), read-only; decoded once, straight into `buffer` if there is one.

        Raises
        ------
        WireError
            If the payload does not decode to exactly one frame.
        """
        if self._counts is None:
            counts = decode(self.payload, self.encoding, out=self.buffer)
            counts.flags.writeable = False
            self._counts = counts
        return self._counts

    def release(self) -> None:
        """Give the memory back to its owner; counts and payload are gone afterwards."""
        self._counts = self.buffer = None
        self.payload = memoryview(b"")
        if self.on_release is not None:
            give_back, self.on_release = self.on_release, None
            give_back()


@dataclass(frozen=True, slots=True)
class Gap:
    """`count` frames from index `first` on that were not seen, and why."""

    series_id: int
    first: int
    count: int
    reason: GapReason


@dataclass(frozen=True, slots=True)
class SeriesEnd:
    """The series is over: the camera said so, fell silent, or began another one."""

    series_id: int


Item: TypeAlias = SeriesHeader | Frame | Gap | SeriesEnd


class FrameSource(Protocol):
    """Yields one header, then frames and gaps in index order, then an end; and so on per series.

    A live source yields None when nothing came for a while, so that its reader can look around;
    a finite one stops.
    """

    def __iter__(self) -> Iterator[Item | None]: ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Takes what a source yields, in the same order."""

    def put(self, item: Item) -> None: ...

    def close(self) -> None: ...
