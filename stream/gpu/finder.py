"""From payloads to columns on one card: one copy in, and out six numbers for each column.

Who follows the columns needs the normalized picture too: a matched filter reads it around every site, and where the
sites lie in a frame is known only when its columns are. To look on the card would be a second journey for every frame,
which nothing can overlap; so, if asked for, the picture travels back whole, beside the next batch's work, and the
network's map of the background with it, which is read at the same sites. Both are f4, the picture at the engine's
sampling, the map at half of it, by far the most that goes back: 1.25 MiB for 512 x 512 pixels, 80 MiB for 4096 x 4096.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from engines.runtime import Engine
from stream.codecs import Encoding, WireError
from stream.columns import in_image_px, lowest_height, weighed
from stream.gpu.columns import DeviceColumns
from stream.gpu.decode import Decoder
from stream.gpu.normalize import DeviceNormalizer, DeviceResampler
from stream.infer import Found, Sampling, checked_threshold

Payload = tuple[memoryview | bytes, Encoding]
Step = tuple[str, Any]
log = logging.getLogger("hopscope.device")
STAGES = ("upload and decode", "resample", "normalize", "network", "columns")


@dataclass(slots=True)
class _Batch:
    """What is under way: so many frames, or stacks."""

    inputs: int
    columns: DeviceColumns
    failed: Callable[[], np.ndarray]
    broken: set[int]
    pictures: Callable[[], np.ndarray] | None
    maps: Callable[[], np.ndarray] | None
    marks: list[tuple[str, Any]] = field(default_factory=list)


class DeviceFinder:
    """Finds columns in batches of frames, or of stacks of them, of one shape, dtype and pixel size, as
    `stream.infer.ColumnFinder` does.

    Up to two batches may be under way: `start` the next one before `fetch`ing the last, and the card uploads the
    one while it computes the other. Batches come back in the order in which they were started.

    Parameters
    ----------
    engine : open on the same card; with more than one input channel it is shown stacks of as many frames.
    device : of `stream.device`.
    shape_yx, dtype : of every frame.
    pixel_size_nm : of the frames, at the specimen.
    threshold : lowest score of a column; None for the engine's own.
    bad_pixels : (ny, nx) bool, or None.
    most : frames, or stacks, in the largest batch.
    pictures : whether the normalized pictures come back too, and the maps of the background.

    Attributes
    ----------
    zoom_yx : frame pixels per pixel of the normalized picture.

    Raises
    ------
    CalibrationError, EngineMismatch, ValueError
        As `ColumnFinder` does.
    """

    def __init__(
        self,
        engine: Engine,
        device: Any,
        shape_yx: tuple[int, int],
        dtype: np.dtype[Any],
        pixel_size_nm: float,
        threshold: float | None = None,
        bad_pixels: np.ndarray | None = None,
        most: int = 1,
        pictures: bool = False,
    ) -> None:
        self.engine, self.device, self.most = engine, device, most
        self._sampling = Sampling(engine, shape_yx, pixel_size_nm)
        self.threshold = checked_threshold(engine, threshold)
        resampler = self._sampling.resampler
        self.zoom_yx = resampler.scale_yx
        self.pixel_size_nm, self.padded_yx = self._sampling.pixel_size_nm, self._sampling.padded_yx
        self._channels = channels = engine.manifest.input_channels
        frames = most * channels
        self._decoder = Decoder(device, shape_yx, dtype, bad_pixels, frames)
        self._images = device.empty((frames, *shape_yx), "f4")
        self._resample = None if resampler.identity else DeviceResampler(device, resampler)
        self._seen = self._images if resampler.identity else device.empty((frames, *resampler.shape_yx), "f4")
        self._normalize = DeviceNormalizer(
            device, resampler.shape_yx, self._sampling.sigma_px, most, channels
        )
        stride, (ny, nx) = engine.manifest.stride, self._sampling.padded_yx
        maps_shape = (len(engine.manifest.classes), ny // stride, nx // stride)
        near = self._sampling.min_distance_px / stride
        self._usual_sigma_px = engine.manifest.usual_sigma_px
        height = lowest_height(self.threshold, self._usual_sigma_px)
        self._columns = [DeviceColumns(device, maps_shape, height, near, most) for _ in range(2)]
        self._failed = [device.zeros(frames, "i4") for _ in range(2)]
        room = (most, channels, *self.padded_yx)
        self._pictures = [device.empty(room, "f4") for _ in range(2)] if pictures else []
        self._maps = [device.empty((most, *maps_shape), "f4") for _ in range(2)] if pictures else []
        self._under_way: list[_Batch] = []
        for batch in sorted({self._room(b) for b in range(1, most + 1)}):  # so that no frame waits for it
            device.fill(self._bound(batch).input, 0)

    def start(self, frames: Sequence[Payload]) -> None:
        """Begin a batch; of stacks all their frames, one after the other.

        Raises
        ------
        ValueError
            If there are too many frames, or no whole stacks, or too many batches under way, or a frame of another kind.
        """
        marks = [("", self.device.mark())]
        for stage, step in self.steps(frames):
            step()
            marks.append((stage, self.device.mark()))
        self._under_way[-1].marks = marks

    def steps(self, frames: Sequence[Payload]) -> Iterator[Step]:
        """The stages of a batch by name, each to be called in its turn; for who wants to time them."""
        n = len(frames)
        b, left = divmod(n, self._channels)
        if not 1 <= b <= self.most or left or len(self._under_way) == 2:
            raise ValueError(
                f"cannot start a batch of {n} with {len(self._under_way)} under way: expected 1 to {self.most} "
                f"times {self._channels} frames, and one under way at most; fetch first"
            )
        bound, columns, failed = self._bound(self._room(b)), self._columns[0], self._failed[0]
        broken: set[int] = set()

        def decode() -> None:
            self.device.fill(failed, 0)
            for i, (payload, encoding) in enumerate(frames):
                try:
                    self._decoder(payload, encoding, self._images[i], failed[i : i + 1])
                except WireError as error:
                    log.warning("a frame cannot be decoded: %s", error)
                    broken.add(i)

        def find() -> None:
            columns.start(bound.output[:b])
            pictures = maps = None
            if self._pictures:  # aside, so that the next batch need not wait for the journey
                self.device.copy(bound.input[:b], self._pictures[0][:b])
                pictures = self.device.bring(self._pictures[0][:b])
                self.device.copy(bound.output[:b], self._maps[0][:b])
                maps = self.device.bring(self._maps[0][:b, 0])
            self._under_way.append(_Batch(b, columns, self.device.bring(failed), broken, pictures, maps))
            for pair in (self._columns, self._failed, self._pictures, self._maps):
                pair.reverse()

        yield "upload and decode", decode
        if self._resample is not None:
            resample = self._resample
            yield "resample", lambda: resample(self._images[:n], self._seen[:n])
        yield "normalize", lambda: self._normalize(self._seen[:n], bound.input)
        yield "network", bound.enqueue
        yield "columns", find

    def fetch(self) -> list[Found | None]:
        """Wait for the oldest batch: what was found in each of its frames or stacks, in pixels of the frame.

        None stands for a frame whose payload could not be decoded, and for the stack it is in.

        Raises
        ------
        ValueError
            If no batch is under way.
        """
        if not self._under_way:
            raise ValueError("no batch is under way: start one before fetching")
        batch = self._under_way.pop(0)
        stride = self.engine.manifest.stride
        ny, nx = self._sampling.resampler.shape_yx
        rows_of, failed = batch.columns.fetch(batch.inputs), batch.failed()
        pictures = batch.pictures() if batch.pictures else None
        maps = batch.maps() if batch.maps else None
        stage_ms = {
            stage: self.device.elapsed_ms(begun, ended) / batch.inputs
            for (_, begun), (stage, ended) in pairwise(batch.marks)
        }
        found: list[Found | None] = []
        for i, rows in enumerate(rows_of):
            stack = range(i * self._channels, (i + 1) * self._channels)
            if failed[stack.start : stack.stop].any():
                log.warning("a frame cannot be decoded: a compressed block of it is damaged")
            if failed[stack.start : stack.stop].any() or batch.broken.intersection(stack):
                found.append(None)
                continue
            at = in_image_px(rows[:, :2], rows[:, 2], rows[:, 3], rows[:, 4], stride)
            at = weighed(at, self._usual_sigma_px, self.threshold)
            image = None if pictures is None else pictures[i, :, :ny, :nx]
            if image is not None and self._channels == 1:
                image = image[0]
            background = None if maps is None else maps[i]
            found.append(Found(self._sampling.in_frame(at), image, background, stage_ms))
        return found

    def _room(self, batch: int) -> int:
        """The network runs in batches of 1, 2, 4 ...: each size holds memory, and is made ready for once."""
        return min(1 << (batch - 1).bit_length(), self.most)

    def _bound(self, batch: int) -> Any:
        return self.engine.bind((batch, self._channels, *self._sampling.padded_yx))
