"""What every sink takes, whoever feeds it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from stream.frame import Encoding, Frame, Gap, Item, SeriesEnd, SeriesHeader, Sink
from stream.nexus import read_ledger
from stream.record import Recorder
from stream.ring import RingReader, RingWriter
from stream.ring_root import create_root, remove

SHAPE = (16, 16)
U2 = np.dtype("<u2")

Seen = list[tuple[str, int, int]]
"""What came through: ("frame", index, value of its pixels) or ("gap", first, count)."""


class Recording:
    """Recorder, and what its files say afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sink: Sink = Recorder(folder, min_free_mib=0)

    def seen(self) -> Seen:
        import h5py

        seen: Seen = []
        for path in sorted(self.folder.glob("*.nxs")):
            with h5py.File(path, "r") as file:
                frames = file["entry/data/frames"]
                for row in read_ledger(path):
                    if row["row"] >= 0:
                        seen.append(("frame", int(row["index"]), int(frames[row["row"]].max())))  # pyright: ignore
                    else:
                        seen.append(("gap", int(row["index"]), int(row["count"])))
        return seen


class Ring:
    """RingWriter that waits, and a reader that empties it."""

    def __init__(self) -> None:
        base = f"hs{uuid.uuid4().hex[:8]}"
        self.root = create_root(base)
        ready, freed = threading.Semaphore(0), threading.Semaphore(0)
        self.sink: Sink = RingWriter(base, ready, freed, policy="keep-all")
        self.reader = RingReader(base, ready, freed, policy="keep-all")
        self.taken: Seen = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self) -> None:
        while not self.done.is_set() or self.take():
            self.take(0.02)

    def take(self, timeout_s: float = 0.0) -> bool:
        items = self.reader.take(timeout_s)
        for item in items:
            if isinstance(item, Frame):
                self.taken.append(("frame", item.index, int(item.counts.max())))
                item.release()
            elif isinstance(item, Gap):
                self.taken.append(("gap", item.first, item.count))
        return bool(items)

    def seen(self) -> Seen:
        self.stop()
        return self.taken

    def stop(self) -> None:
        self.done.set()
        self.thread.join()


@pytest.fixture(params=["recorder", "ring"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recording | Ring]:
    if request.param == "recorder":
        recording = Recording(tmp_path)
        yield recording
        recording.sink.close()
    else:
        ring = Ring()
        yield ring
        ring.stop()
        ring.reader.close()
        ring.sink.close()
        remove(ring.root)


def header(series_id: int) -> SeriesHeader:
    return SeriesHeader(series_id, SHAPE, U2, frame_period_s=0.01)


def frame(series_id: int, index: int, released: Callable[[], None] | None = None) -> Frame:
    payload = bytearray(np.full(SHAPE, index, U2).tobytes())
    encoding = Encoding(SHAPE, U2)
    return Frame(series_id, index, index, time.monotonic_ns(), memoryview(payload), encoding, None, released)


def send(sink: Sink, items: list[Item]) -> None:
    for item in items:
        sink.put(item)
        if isinstance(item, Frame):
            item.payload[:] = bytes(len(item.payload))  # its owner uses the memory again at once


def test_every_index_comes_through_in_order(place: Recording | Ring) -> None:
    items = [header(1), Gap(1, 0, 3, "wire"), frame(1, 3), frame(1, 4), Gap(1, 5, 1, "decode"), frame(1, 6)]
    send(place.sink, [*items, SeriesEnd(1)])
    place.sink.put(SeriesEnd(1))  # cameras have been seen to say it twice
    expected = [("gap", 0, 3), ("frame", 3, 3), ("frame", 4, 4), ("gap", 5, 1), ("frame", 6, 6)]
    assert place.seen() == expected


def test_a_header_ends_the_series_before_it(place: Recording | Ring) -> None:
    send(place.sink, [header(1), frame(1, 8), frame(1, 9), header(2), frame(2, 5), SeriesEnd(2)])
    assert place.seen() == [("frame", 8, 8), ("frame", 9, 9), ("frame", 5, 5)]


def test_a_series_may_be_empty(place: Recording | Ring) -> None:
    send(place.sink, [header(1), SeriesEnd(1), header(2), frame(2, 1), SeriesEnd(2)])
    assert place.seen() == [("frame", 1, 1)]


def test_the_frame_stays_its_owners(place: Recording | Ring) -> None:
    released: list[bool] = []
    item = frame(1, 1, lambda: released.append(True))
    send(place.sink, [header(1), item, SeriesEnd(1)])
    assert released == [], "a sink must not release what others may still read"
