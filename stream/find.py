"""Frames to columns, on the CPU or on cards: one object for all that lies between payload and columns.

An engine for stacks finds one set of columns in as many frames as it has input channels; everybody else gives it
frames one by one.

`OnCpu` and `OnCards` have the same verbs and give the same columns and pictures; who follows the columns does not know
which it is. Batches come back in the order in which they were started, so while a card computes one the next is
uploaded and the last is followed; the CPU computes when it is asked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.build import most_batched
from engines.gpu import is_full
from engines.manifest import EngineMismatch, Manifest
from engines.runtime import Engine, open_engine
from stream.batching import Cards
from stream.config import EngineSettings
from stream.device import Choice, Device, DeviceError, open_device
from stream.frame import Frame, SeriesHeader, WireError
from stream.gpu.finder import DeviceFinder
from stream.infer import ColumnFinder, Found, Sampling

log = logging.getLogger("hopscope.device")


class OnCpu:
    """Columns found on the CPU, frame by frame, or stack by stack.

    Attributes
    ----------
    manifest : of the engine.
    device : "cpu", as `open_device` takes it.
    runs_on : what runs the network, for people.
    reason : why it is the CPU.
    most : frames in a batch.
    """

    device, on_cards = "cpu", False

    def __init__(self, engine: Engine, reason: str) -> None:
        self.manifest: Manifest = engine.manifest
        self.runs_on, self.reason = f"CPU, {engine.backend}", reason
        self.most = engine.manifest.input_channels
        self._engine = engine
        self._finder: ColumnFinder | None = None
        self._header: SeriesHeader | None = None
        self._waiting: list[Frame] = []

    def begin(self, header: SeriesHeader, pixel_size_nm: float, threshold: float | None = None) -> None:
        """Make ready for the frames of a series.

        Raises
        ------
        CalibrationError, EngineMismatch, ValueError
            As `ColumnFinder` does.
        """
        self._header = header
        self._finder = ColumnFinder(self._engine, header.shape_yx, pixel_size_nm, threshold)

    @property
    def zoom_yx(self) -> tuple[float, float]:
        """Frame pixels per pixel of the normalized picture."""
        return self._ready().zoom_yx

    @property
    def room(self) -> int:
        """Batches that may be started before one must be fetched."""
        return int(not self._waiting)

    def start(self, frames: Sequence[Frame]) -> None:
        """Take a frame, or a stack of them; they must not be released before they are fetched."""
        if len(frames) != self.most or not self.room:
            raise ValueError(
                f"cannot start a batch of {len(frames)}: expected {self.most}, and none under way"
            )
        self._waiting = list(frames)

    def fetch(self) -> list[Found | None]:
        """What was found; None for frames that cannot be decoded. The picture is valid until the next call."""
        frames, self._waiting = self._waiting, []
        finder, header = self._ready(), self._header
        if not frames or header is None:
            raise ValueError("no batch is under way: start one before fetching")
        began_ns = time.perf_counter_ns()
        counts = []
        for frame in frames:
            try:
                counts.append(frame.counts)
            except WireError as error:
                log.warning("frame %d cannot be decoded: %s", frame.index, error)
                return [None]
        stage_ms = {"decode": (time.perf_counter_ns() - began_ns) / 1e6}
        columns, image = finder.find(counts[0] if self.most == 1 else np.stack(counts), header.bad_pixels)
        stage_ms |= {name: ns / 1e6 for name, ns in finder.stage_ns.items()}
        return [Found(columns, image, finder.background, stage_ms)]

    def picture(self, frame: Frame) -> np.ndarray:
        """The normalized picture of one frame, (ny', nx') f4, when nothing is under way; valid until the next call.

        Raises
        ------
        WireError
            If its payload cannot be decoded.
        """
        bad_pixels = None if self._header is None else self._header.bad_pixels
        return self._ready().normalize(frame.counts, bad_pixels)

    def _ready(self) -> ColumnFinder:
        if self._finder is None:
            raise ValueError("no series has begun: expected begin before")
        return self._finder

    def close(self) -> None:
        self._engine.close()


@dataclass(slots=True)
class OpenCard:
    """A card with an engine on it."""

    device: Any
    engine: Engine

    def close(self) -> None:
        self.engine.close()


class OnCards:
    """Columns found on one card or more, which take batches of frames in turn.

    Parameters
    ----------
    openers : one for each card, as `Cards` takes them.
    device, reason : as `open_device` chose.
    pictures : whether the normalized pictures come back too.

    Attributes are those of `OnCpu`; `most` is known once a series has begun.
    """

    on_cards = True

    def __init__(
        self, openers: Sequence[Callable[[], OpenCard]], device: str, reason: str, pictures: bool = True
    ) -> None:
        self._cards = Cards(openers)
        first: OpenCard = self._cards.opened[0]  # type: ignore[assignment]
        self.manifest: Manifest = first.engine.manifest
        self.device, self.reason, self._pictures = device, reason, pictures
        self.runs_on = f"{device} {first.device.name}, {first.engine.backend} {first.engine.precision}"
        self.most = 1
        self.zoom_yx = (1.0, 1.0)

    def begin(self, header: SeriesHeader, pixel_size_nm: float, threshold: float | None = None) -> None:
        """Make ready for the frames of a series, on every card.

        Raises
        ------
        CalibrationError, EngineMismatch, ValueError
            As `ColumnFinder` does; EngineMismatch also if a card has too little memory.
        DeviceError
            If a card failed, as in `fetch`.
        """
        first: OpenCard = self._cards.opened[0]  # type: ignore[assignment]
        sampling = Sampling(first.engine, header.shape_yx, pixel_size_nm)
        self.zoom_yx = sampling.resampler.scale_yx
        inputs = inputs_at_once(first.engine, header.shape_yx, sampling.padded_yx)
        self.most = self.manifest.input_channels * inputs

        def make(card: OpenCard) -> DeviceFinder:
            return DeviceFinder(
                card.engine, card.device, header.shape_yx, header.dtype, pixel_size_nm, threshold,
                header.bad_pixels, inputs, self._pictures,
            )  # fmt: skip

        try:
            self._cards.begin(make)
        except (MemoryError, RuntimeError) as error:  # CuPy's, and CUDA's as the libraries hand it on
            if not is_full(error):
                raise self._failed(error) from error
            raise EngineMismatch(
                f"frames of {header.shape_yx} do not fit on {self.runs_on}: {error}; end other programs that use it "
                "(nvidia-smi lists them), or choose device cpu"
            ) from error

    @property
    def room(self) -> int:
        """Batches that may be started before one must be fetched."""
        return self._cards.room

    def start(self, frames: Sequence[Frame]) -> None:
        """Begin a batch on the next card; its frames must not be released before it is fetched."""
        self._cards.start([(frame.payload, frame.encoding) for frame in frames])

    def fetch(self) -> list[Found | None]:
        """What was found in the oldest batch; None for a frame, or a stack, that cannot be decoded.

        Raises
        ------
        DeviceError
            If a card failed, or has no memory left: nothing else takes its work over.
        """
        try:
            return self._cards.fetch()
        except (MemoryError, RuntimeError) as error:
            raise self._failed(error) from error

    def picture(self, frame: Frame) -> np.ndarray:
        """The normalized picture of one frame, (ny', nx') f4, when nothing is under way.

        Raises
        ------
        WireError
            If its payload cannot be decoded.
        DeviceError
            As `fetch` does.
        """
        self.start([frame])
        (found,) = self.fetch()
        if found is None or found.image is None:
            raise WireError(f"frame {frame.index} cannot be decoded: expected a picture of it")
        return found.image

    def close(self) -> None:
        self._cards.close()

    def _failed(self, error: Exception) -> DeviceError:
        return DeviceError(
            f"{self.runs_on} failed: {type(error).__name__}: {error}; end other programs that use it (nvidia-smi lists "
            "them), look for Xid in the system's log (dmesg), or choose device cpu"
        )


def inputs_at_once(engine: Engine, shape_yx: tuple[int, int], padded_yx: tuple[int, int]) -> int:
    """Frames of a shape, or stacks of them, that go to a card at once: a power of two.

    Parameters
    ----------
    padded_yx : of their images, as the network sees them.
    """
    pixels = max(shape_yx[0] * shape_yx[1], padded_yx[0] * padded_yx[1])
    fit = most_batched(engine.manifest.input_channels * pixels)
    return max(1, min(fit, engine.largest_batch(padded_yx)))


Where = OnCpu | OnCards


def open_where(settings: EngineSettings, pictures: bool = True, stacks: bool = False) -> Where:
    """Open the engine where `settings.device` says, and say in the log what was chosen and why.

    "auto" takes a card only if the engine opens there too. This is asked once: what runs goes on where it began.

    Parameters
    ----------
    pictures : whether the normalized pictures come back too.
    stacks : whether it may be an engine for stacks of frames; who follows columns frame by frame cannot use one.

    Raises
    ------
    DeviceError
        If a card that was asked for cannot be used.
    EngineMismatch
        If the engine does not open there, or reads stacks where single frames come.
    """
    choice = open_device(settings.device)
    if choice.cards:
        try:
            where: Where = _on_cards(settings, choice, pictures)
        except (EngineMismatch, DeviceError) as error:
            if settings.device != "auto":
                raise
            choice = Choice((), f"the GPU cannot be used: {error}")
    if not choice.cards:
        where = OnCpu(open_engine(settings.name, settings.backend, settings.threads), choice.reason)
    if not stacks:
        try:
            where.manifest.require_single_images()
        except EngineMismatch:
            where.close()
            raise
    log.info("columns are found on %s, because %s", where.runs_on, where.reason)
    return where


def _on_cards(settings: EngineSettings, choice: Choice, pictures: bool) -> OnCards:
    precision = None if settings.precision == "auto" else settings.precision

    def opener(index: int) -> Callable[[], OpenCard]:
        def opened() -> OpenCard:
            device = Device(index)
            engine = open_engine(settings.name, settings.backend, settings.threads, index, precision)
            return OpenCard(device, engine)

        return opened

    name = ",".join(f"cuda:{index}" for index in choice.cards)
    return OnCards([opener(index) for index in choice.cards], name, choice.reason, pictures)


def find_all(where: Where, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Found | None]]:
    """Every frame with what was found in it, in order, as fast as it goes; frames are released when read.

    For an engine for stacks, of which the frames are a whole number: the first frame of each with what was found in it.
    """
    channels = where.manifest.input_channels
    under_way: list[list[Frame]] = []
    batch: list[Frame] = []

    def fetched() -> Iterator[tuple[Frame, Found | None]]:
        read = under_way.pop(0)
        for first, found in zip(range(0, len(read), channels), where.fetch(), strict=True):
            yield read[first], found
            for frame in read[first : first + channels]:
                frame.release()

    def start() -> Iterator[tuple[Frame, Found | None]]:
        if not where.room:
            yield from fetched()
        where.start(batch)
        under_way.append(batch.copy())
        batch.clear()

    for frame in frames:
        batch.append(frame)
        if len(batch) == where.most:
            yield from start()
    if batch:
        yield from start()
    while under_way:
        yield from fetched()
