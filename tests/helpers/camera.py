"""A camera at the other end of a ZmqSource, and the rules every stream of items keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import zmq

from stream.frame import Frame, Gap, Item, SeriesEnd, SeriesHeader
from stream.ingest import ZmqSource

PATIENCE_S = 30.0
ANY_PORT = "tcp://127.0.0.1:*"


@contextmanager
def camera(**settings) -> Iterator[tuple[ZmqSource, Callable[..., None]]]:
    """A source, and a function that sends it the parts of one message."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 0
        source = ZmqSource(ANY_PORT, bind=True, **settings)
        push.connect(source.endpoint)
        try:
            yield source, lambda *parts: push.send_multipart(parts, copy=False)
        finally:
            source.close()


def collect(source: ZmqSource, until: Callable[[list[Item]], bool]) -> list[Item]:
    """What the source yields until that says enough; fails if it never does."""
    items: list[Item] = []
    deadline_s = time.monotonic() + PATIENCE_S
    for item in source:
        if item is not None:
            items.append(item)
        if until(items):
            return items
        assert time.monotonic() < deadline_s, (
            f"still waiting after {items[-3:]}; faults {dict(source.faults)}"
        )
    raise AssertionError("the source stopped by itself")


def ends(count: int) -> Callable[[list[Item]], bool]:
    return lambda items: sum(isinstance(item, SeriesEnd) for item in items) == count


def outline(items: Iterable[Item]) -> list[str]:
    """Items in few words: header 7, frame 3, gap 4+2 wire, end 7."""
    words = []
    for item in items:
        if isinstance(item, SeriesHeader):
            words.append(f"header {item.series_id}")
        elif isinstance(item, Frame):
            words.append(f"frame {item.index}")
        elif isinstance(item, Gap):
            words.append(f"gap {item.first}+{item.count} {item.reason}")
        else:
            words.append(f"end {item.series_id}")
    return words


def check_rules(items: Iterable[Item]) -> None:
    """One header, then frames and gaps that follow each other without hole or overlap, then an end."""
    header: SeriesHeader | None = None
    following: int | None = None
    for item in items:
        if isinstance(item, SeriesHeader):
            assert header is None, "a header within a series"
            header, following = item, None
            continue
        assert header is not None, f"{item} outside a series"
        assert item.series_id == header.series_id
        if isinstance(item, SeriesEnd):
            header = None
            continue
        first, count = (item.first, item.count) if isinstance(item, Gap) else (item.index, 1)
        assert count > 0
        assert following is None or first == following, f"{first} after {following}"
        following = first + count
        if isinstance(item, Frame):
            assert item.encoding.shape_yx == header.shape_yx
            assert item.encoding.dtype == header.dtype
