"""From messages, as they happen to arrive, to whole series: header, frames and gaps in index order, end.

Pure: no socket and no clock. What is at fault is told to the `fault` callable and left out; whatever comes,
every index of a series is in at most one frame or gap, and the order of indices never turns back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from stream.frame import Frame, Gap, Item, SeriesEnd, SeriesHeader, WireError
from stream.wire.messages import (
    BadImage,
    Channel,
    ImageMessage,
    Message,
    Series,
    StartMessage,
    calibration_of,
    facts_of,
)

FAR = 1 << 24  # frames: a larger jump of the index must be said twice before it is believed
MAX_SPOILED = 1 << 16  # spoiled images kept in mind at once
# relative: what a sender measures anew for every image, as a beam's current, wanders without being another calibration
CHANGED = {"pixel_size_nm": 0.01, "frame_period_s": 0.05, "dose_rate_e_nm2_s": 0.1}


@dataclass(slots=True)
class _Open:
    """A series that is not over."""

    key: Series
    number: int
    start: StartMessage | None
    next_index: int | None  # None: joined under way, whichever image comes first is the first
    header: SeriesHeader | None = None
    channel: str = ""
    said: dict[str, float] = field(default_factory=dict)  # its calibration, once an image said another
    spoiled: set[int] = field(default_factory=set)  # from next_index on: came, but no good; may come again


class SeriesOrder:
    """Takes messages and gives items.

    The header waits for the first image, which alone tells the byte order of the counts, and often the dtype.
    A series without a start begins at its first image. An image of a series that was ended by the camera, or
    by a later series, is a leftover; one that merely fell silent goes on, under a second header. So does one whose
    images say another calibration (pixel size, frame period, dose rate) than before, which is a fault.
    In a dialect without series numbers, an index that turns back or a new shape begins a new series;
    they are numbered from 1.

    Parameters
    ----------
    fault : takes the kind of a fault and a sentence on it.
    """

    def __init__(self, fault: Callable[[str, str], None]) -> None:
        self._fault = fault
        self._open: _Open | None = None
        self._silent: _Open | None = None
        self._over: deque[Series] = deque(maxlen=64)
        self._unnumbered = 0
        self._far_index = -1

    @property
    def header(self) -> SeriesHeader | None:
        """Of the series under way, once it had an image."""
        return self._open.header if self._open else None

    def take(self, message: Message | BadImage, recv_ns: int = 0) -> Iterator[Item]:
        """What follows from a message received at `recv_ns`.

        An image that is no good neither begins nor ends a series. Where its place in the series at hand is
        passed without a good one, it is a Gap of reason "decode".
        """
        if isinstance(message, StartMessage):
            yield from self._end()
            self._over = deque(
                (over for over in self._over if not _same(over, message.series)), self._over.maxlen
            )
            self._open = self._begin(message.series, message)
        elif isinstance(message, ImageMessage):
            series = yield from self._enter(message)
            if series:
                yield from self._image(series, message, recv_ns)
            else:
                self._fault("leftover", f"image {message.index} of series {message.series[0]}, which is over")
        elif isinstance(message, BadImage):
            self._fault("bad-image", str(message))
            if self._open and _same(self._open.key, message.series):
                yield from self._spoil(self._open, message.index)
        elif self._open and _same(self._open.key, message.series):
            yield from self._end()
        elif self._silent and _same(self._silent.key, message.series):
            self._end_silent()

    def silence(self) -> Iterator[Item]:
        """What follows when nothing came for long. A series that was announced may still begin."""
        if self._open and self._open.header:
            series, self._open = self._open, None
            yield from self._close(series)
            series.header = None
            self._silent = series

    def _enter(self, image: ImageMessage) -> Generator[Item, None, _Open | None]:
        """Come to the image's series, whose _Open is the generator's value; None if it is over."""
        if self._open and _continues(self._open, image):
            return self._open
        if self._silent and _continues(self._silent, image):
            silent, self._silent = self._silent, None
            yield from self._end()
            self._open = silent
        elif image.series[0] is not None and any(_same(image.series, over) for over in self._over):
            return None
        else:
            yield from self._end()
            self._open = self._begin(image.series)
        return self._open

    def _begin(self, series: Series, start: StartMessage | None = None) -> _Open:
        number = series[0]
        if number is None:
            self._unnumbered += 1
            number = self._unnumbered
        return _Open(series, number, start, next_index=0 if start else None)

    def _image(self, series: _Open, image: ImageMessage, recv_ns: int) -> Iterator[Item]:
        if not self._follows(series, image.index):
            return
        channel = self._channel(series, image)
        if channel is None:
            yield from self._spoil(series, image.index)
            return
        header = series.header or self._make_header(series, channel, image)
        known = series.header or series.start or series.said  # by more than this image
        if known and self._says_otherwise(series, header, image):
            if series.header:
                yield from self._close(series)
            series.header, header = None, self._make_header(series, channel, image)
        if series.header is None:
            series.header = header
            yield header
        yield from _missing(series, image.index)
        series.next_index = image.index + 1
        series.spoiled.discard(image.index)
        yield Frame(series.number, image.index, image.t_ns, recv_ns, channel.payload, channel.encoding)

    def _follows(self, series: _Open, index: int) -> bool:
        """Whether an index comes after all before it, and not implausibly far."""
        expected = series.next_index
        if expected is None or expected <= index <= expected + FAR:
            return True
        kind = "far-index"
        if index < expected:
            kind = "repeated" if index == expected - 1 else "out-of-order"
        elif index == self._far_index + 1:
            return True
        else:
            self._far_index = index
        self._fault(kind, f"image {index} of series {series.number} where {expected} was expected")
        return False

    def _spoil(self, series: _Open, index: int) -> Iterator[Item]:
        """Remember that an image came which is no good."""
        expected = series.next_index
        if expected is None or not expected <= index <= expected + FAR:
            return
        if len(series.spoiled) < MAX_SPOILED:
            series.spoiled.add(index)
        elif series.header:
            yield from _missing(series, max(series.spoiled) + 1)
            yield from self._spoil(series, index)

    def _channel(self, series: _Open, image: ImageMessage) -> Channel | None:
        """The first channel announced, or else the first there is; the same in all images of a series."""
        if not series.channel:
            announced = series.start.channels[:1] if series.start else ()
            series.channel = next((name for name in announced if name in image.channels), "")
            series.channel = series.channel or next(iter(image.channels))
        channel = image.channels.get(series.channel)
        if channel is None:
            self._fault(
                "no-channel", f"image {image.index} without the channel {series.channel!r} of its series"
            )
        elif series.header and not _fits(channel, series.header):
            expected = f"{series.header.shape_yx} {series.header.dtype.str}"
            got = f"{channel.encoding.shape_yx} {channel.encoding.dtype.str}"
            self._fault("other-shape", f"image {image.index}: expected {expected} as before, got {got}")
            return None
        return channel

    def _says_otherwise(self, series: _Open, header: SeriesHeader, image: ImageMessage) -> bool:
        """Whether an image is calibrated otherwise than the series so far; what it does not say stays as it was."""
        try:
            said = calibration_of(image.about)
        except WireError as error:
            self._fault("bad-facts", f"image {image.index}: {error}")
            return False
        before = {name: getattr(header, name) for name in said}
        other = {
            name: value
            for name, value in said.items()
            if value is not None and not _alike(value, before[name], CHANGED[name])
        }
        if not other:
            return False
        series.said = {name: value for name, value in (before | other).items() if value is not None}
        told = ", ".join(f"{name} {before[name]} before, now {value}" for name, value in other.items())
        self._fault(
            "other-calibration",
            f"image {image.index} of series {series.number}: {told}; it goes on under another header",
        )
        return True

    def _make_header(self, series: _Open, channel: Channel, image: ImageMessage) -> SeriesHeader:
        encoding, start = channel.encoding, series.start
        facts: dict[str, Any] = {}
        if start:
            facts = dict(start.facts)
            shape_yx, dtype = start.shape_yx or encoding.shape_yx, start.dtype or encoding.dtype
            if shape_yx != encoding.shape_yx or dtype.newbyteorder("=") != encoding.dtype.newbyteorder("="):
                expected, got = f"{shape_yx} {dtype.name}", f"{encoding.shape_yx} {encoding.dtype.name}"
                self._fault("start-disagrees", f"images of {got}, announced as {expected}")
            if facts.get("bad_pixels") is not None and facts["bad_pixels"].shape != encoding.shape_yx:
                facts["bad_pixels"] = None
        else:
            try:
                facts = facts_of(image.about)
            except WireError as error:
                self._fault("bad-facts", str(error))
        facts |= series.said
        return SeriesHeader(series.number, encoding.shape_yx, encoding.dtype, **facts)

    def _end(self) -> Iterator[Item]:
        """End what is not over yet, for good."""
        self._end_silent()
        if self._open is None:
            return
        series, self._open = self._open, None
        self._over.append(series.key)
        start = series.start
        if series.header is None and start and start.shape_yx and start.dtype:
            series.header = SeriesHeader(series.number, start.shape_yx, start.dtype, **start.facts)
            yield series.header
        if series.header:
            yield from self._close(series)
        else:
            self._fault("empty-series", f"series {series.number} ended before a good image came")

    def _end_silent(self) -> None:
        if self._silent:
            self._over.append(self._silent.key)
            self._silent = None

    @staticmethod
    def _close(series: _Open) -> Iterator[Item]:
        if series.spoiled:
            yield from _missing(series, max(series.spoiled) + 1)
        yield SeriesEnd(series.number)


def _missing(series: _Open, stop: int) -> Iterator[Gap]:
    """Gaps for all indices before `stop` that were not delivered; `stop` is the next one then."""
    at = stop if series.next_index is None else series.next_index
    for index in sorted(series.spoiled):
        if at <= index < stop:
            if index > at:
                yield Gap(series.number, at, index - at, "wire")
            yield Gap(series.number, index, 1, "decode")
            at = index + 1
    if at < stop:
        yield Gap(series.number, at, stop - at, "wire")
    series.spoiled = {index for index in series.spoiled if index >= stop}
    series.next_index = stop


def _alike(value: float, before: float | None, within: float) -> bool:
    return before is not None and abs(value - before) <= within * before


def _continues(series: _Open, image: ImageMessage) -> bool:
    """Whether an image belongs to a series; in a dialect that does not say so, by its index and shape."""
    if not _same(series.key, image.series):
        return False
    if image.series[0] is not None:
        return True
    turned_back = series.next_index is not None and image.index < series.next_index - 1
    return not turned_back and (
        series.header is None or _fits(next(iter(image.channels.values())), series.header)
    )


def _same(one: Series, other: Series) -> bool:
    """Whether two messages are of one series; some senders leave the unique name out."""
    return one[0] == other[0] and (one[1] == other[1] or not one[1] or not other[1])


def _fits(channel: Channel, header: SeriesHeader) -> bool:
    return channel.encoding.shape_yx == header.shape_yx and channel.encoding.dtype == header.dtype
