"""FrameRing: frames from acquire to analyse through slots in shared memory.

One writer, one reader, two policies and no third:

- ``keep-all``: a full ring makes the writer wait (replay, tests);
- ``keep-newest``: the writer never waits; a full ring evicts the oldest frame nobody has leased, and the
  reader skips to the newest. What is dropped on the way comes out as a `Gap`, so that every index put in is
  delivered or in a gap, exactly once.

Each series gets a segment of its own, with slots of its own size; a small root segment says which one is
newest. Slot states change under a file lock, which the kernel takes back from a killed process: neither
side can leave the other waiting. The semaphores only wake sleepers, they guard nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Literal, Protocol

import numpy as np

from stream.frame import Encoding, Frame, Gap, Item, SeriesEnd, SeriesHeader
from stream.ring_root import generation, lock_path, segment_name, set_generation
from stream.segment import (
    ALGORITHMS,
    FREE,
    LEASED,
    READY,
    REASONS,
    WRITING,
    RingLock,
    Segment,
    unlink,
)

Policy = Literal["keep-all", "keep-newest"]
Choose = Callable[[np.ndarray], tuple[int, int]]


def only_newest(recv_ns: np.ndarray) -> tuple[int, int]:
    """Of the frames that wait, oldest first: skip all but the newest, take that."""
    return len(recv_ns) - 1, 1


def only_oldest(recv_ns: np.ndarray) -> tuple[int, int]:
    """Skip none, take the oldest; the others wait."""
    return 0, 1


class Semaphore(Protocol):
    """What wakes a sleeper: `multiprocessing`'s or `threading`'s will do."""

    def acquire(self, block: bool = ..., timeout: float | None = ..., /) -> bool: ...
    def release(self) -> None: ...


class RingWriter:
    """The acquire side: a Sink that puts each series into a segment of its own."""

    def __init__(
        self,
        base: str,
        ready: Semaphore,
        freed: Semaphore,
        *,
        budget_bytes: int = 256 << 20,
        policy: Policy = "keep-newest",
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._base, self._ready, self._freed = base, ready, freed
        self._budget_bytes, self._policy, self._stopped = budget_bytes, policy, stopped
        self._lock = RingLock(lock_path(base))
        self._root = SharedMemory(base)
        self._segment: Segment | None = None
        self.evicted = 0
        self.oversized = 0

    def put(self, item: Item) -> None:
        """Hand on one item; waits for a free slot under ``keep-all`` only."""
        if isinstance(item, SeriesHeader):
            self._open(item)
            return
        segment = self._segment
        if segment is None:
            raise ValueError(f"got {type(item).__name__} before any SeriesHeader: put the header first")
        if isinstance(item, SeriesEnd):
            with self._lock:
                segment.shape["ended"][0] = 1
            self._ready.release()
        else:
            if segment.shape["first"][0] < 0:
                segment.shape["first"][0] = item.first if isinstance(item, Gap) else item.index
            if isinstance(item, Gap):
                self._put_gap(segment, item)
            else:
                self._put_frame(segment, item)

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        self._root.close()
        self._lock.close()

    def _open(self, header: SeriesHeader) -> None:
        if self._segment is not None:
            while self._policy == "keep-all" and len(self._segment.ready()) and not self._stopped():
                self._freed.acquire(True, 0.1)
            self._segment.close()
        with self._lock:
            number = generation(self._root) + 1
            unlink(segment_name(self._base, number - 2))  # the last but one has no reader any more
            self._segment = Segment.create(segment_name(self._base, number), header, self._budget_bytes)
            set_generation(self._root, number)
        self._ready.release()

    def _put_frame(self, segment: Segment, frame: Frame) -> None:
        count = len(frame.payload)
        if count > len(segment.payload(0)) or frame.encoding.frame_bytes != segment.shape["frame_bytes"][0]:
            self.oversized += 1  # a lying size: never written beyond the slot
            self._put_gap(segment, Gap(frame.series_id, frame.index, 1, "decode"))
            return
        slot = self._claim(segment, frame.index, 1, REASONS.index("ring-full"))
        if slot is None:
            return
        segment.payload(slot, count)[:] = frame.payload
        row = segment.table[slot]
        row["is_gap"], row["has_time"] = 0, frame.t_ns is not None
        row["index"], row["t_ns"], row["recv_ns"] = frame.index, frame.t_ns or 0, frame.recv_ns
        row["payload_bytes"], row["algorithm"] = count, ALGORITHMS.index(frame.encoding.algorithm)
        row["ny"], row["nx"] = frame.encoding.shape_yx
        row["dtype"] = frame.encoding.dtype.str.encode()
        self._publish(segment, slot)

    def _put_gap(self, segment: Segment, gap: Gap) -> None:
        reason = REASONS.index(gap.reason)
        slot = self._claim(segment, gap.first, gap.count, reason)
        if slot is None:
            return
        row = segment.table[slot]
        row["is_gap"] = 1
        row["gap"] = (gap.first, gap.count, reason)
        self._publish(segment, slot)

    def _claim(self, segment: Segment, first: int, count: int, reason: int) -> int | None:
        """A slot to write in; None if all are leased, and the item is noted as lost."""
        while True:
            with self._lock:
                free = np.flatnonzero(segment.table["state"] == FREE)
                if len(free):
                    slot = int(free[0])
                    segment.table["state"][slot] = WRITING
                    return slot
                if self._policy == "keep-newest":
                    ready = segment.ready()
                    if not len(ready):
                        segment.add_lost(first, count, reason)
                        self.evicted += 1
                        return None
                    slot = int(ready[0])
                    self._evict(segment, slot)
                    segment.table["state"][slot] = WRITING
                    return slot
            if self._stopped():
                with self._lock:
                    segment.add_lost(first, count, reason)
                return None
            self._freed.acquire(True, 0.1)

    def _evict(self, segment: Segment, slot: int) -> None:
        row = segment.table[slot]
        if row["is_gap"]:
            segment.add_lost(int(row["gap"]["first"]), int(row["gap"]["count"]), int(row["gap"]["reason"]))
        else:
            segment.add_lost(int(row["index"]), 1, REASONS.index("ring-full"))
            self.evicted += 1

    def _publish(self, segment: Segment, slot: int) -> None:
        with self._lock:
            segment.table["order"][slot] = segment.shape["order"][0]
            segment.shape["order"][0] += 1
            segment.table["state"][slot] = READY
        self._ready.release()


class RingReader:
    """The analyse side. Opening one takes over from a reader that died: its leases are void, and what it was
    given comes as a gap, for its heir to compare with what it remembers.
    """

    def __init__(
        self, base: str, ready: Semaphore, freed: Semaphore, *, policy: Policy = "keep-newest"
    ) -> None:
        self._base, self._ready, self._freed, self._policy = base, ready, freed, policy
        self._lock = RingLock(lock_path(base))
        self._root = SharedMemory(base)
        self._segment: Segment | None = None
        self._number = 0
        self._series_id = 0
        self._end_told = True
        self._closing: list[Segment] = []

    def take(self, timeout_s: float, choose: Choose | None = None) -> list[Item]:
        """What there is to see now, in order, with frames leased (release them); [] after the timeout.

        Parameters
        ----------
        choose : told when each waiting frame was received (n,) i8, monotonic ns, oldest first: how many to skip,
            which come as gaps, and how many to take after them. Without it one frame is taken: under ``keep-all``
            the oldest, under ``keep-newest`` the newest.
        """
        choose = choose or (only_oldest if self._policy == "keep-all" else only_newest)
        items = self._take_now(choose)
        if not items and self._ready.acquire(True, timeout_s):
            while self._ready.acquire(False):
                pass  # several wake-ups, one look
            items = self._take_now(choose)
        return items

    def close(self) -> None:
        for segment in [*self._closing, *([self._segment] if self._segment else [])]:
            segment.close()
        self._segment = None
        self._root.close()
        self._lock.close()

    def _take_now(self, choose: Choose) -> list[Item]:
        self._closing = [s for s in self._closing if s.leased or not s.close()]
        items: list[Item] = []
        with self._lock:
            newest = generation(self._root)
            if self._segment is not None:
                items += self._drain(self._segment, choose)
                if not items and self._segment.shape["ended"][0] and not self._end_told:
                    self._end_told = True
                    items.append(SeriesEnd(self._series_id))
            if not items and newest > self._number:
                items += self._attach(newest)
        return items

    def _attach(self, number: int) -> Iterator[Item]:
        if self._segment is not None:
            self._closing.append(self._segment)
        self._segment = segment = Segment(SharedMemory(segment_name(self._base, number)))
        self._number = number
        leased = np.flatnonzero(segment.table["state"] == LEASED)
        segment.table["state"][leased] = FREE
        header = segment.header()
        if not self._end_told and header.series_id != self._series_id:
            yield SeriesEnd(self._series_id)
        self._series_id, self._end_told = header.series_id, False
        yield header
        first, delivered = int(segment.shape["first"][0]), int(segment.shape["delivered"][0])
        if delivered > first >= 0:
            yield Gap(header.series_id, first, delivered - first, "restart")

    def _drain(self, segment: Segment, choose: Choose) -> Iterator[Item]:
        for i in range(int(segment.shape["lost"][0])):
            yield self._gap(segment, segment.lost[i])
        segment.shape["lost"][0] = 0
        slots = [int(s) for s in segment.ready()]
        frames = [s for s in slots if not segment.table["is_gap"][s]]
        skip, count = choose(segment.table["recv_ns"][frames]) if frames else (0, 0)
        left = skip + count
        for slot in slots:
            if frames and not left:
                return  # the rest waits
            row = segment.table[slot]
            is_gap = bool(row["is_gap"])
            left -= not is_gap
            if not is_gap and left < count:
                yield self._lease(segment, slot)
                continue
            segment.table["state"][slot] = FREE
            self._freed.release()
            if is_gap:
                yield self._gap(segment, row["gap"])
            else:
                segment.shape["delivered"][0] = row["index"] + 1
                yield Gap(self._series_id, int(row["index"]), 1, "skipped-live")

    def _gap(self, segment: Segment, row: np.void) -> Gap:
        segment.shape["delivered"][0] = row["first"] + row["count"]
        return Gap(self._series_id, int(row["first"]), int(row["count"]), REASONS[int(row["reason"])])

    def _lease(self, segment: Segment, slot: int) -> Frame:
        row = segment.table[slot]
        row["state"] = LEASED
        segment.leased += 1
        segment.shape["delivered"][0] = row["index"] + 1

        def give_back() -> None:
            with self._lock:
                segment.table["state"][slot] = FREE
                segment.leased -= 1
            self._freed.release()

        encoding = Encoding(
            (int(row["ny"]), int(row["nx"])),
            np.dtype(row["dtype"].decode()),
            ALGORITHMS[int(row["algorithm"])],  # type: ignore[arg-type]
        )
        return Frame(
            series_id=self._series_id,
            index=int(row["index"]),
            t_ns=int(row["t_ns"]) if row["has_time"] else None,
            recv_ns=int(row["recv_ns"]),
            payload=segment.payload(slot, int(row["payload_bytes"])).toreadonly(),
            encoding=encoding,
            buffer=segment.counts(slot, encoding.frame_bytes),
            on_release=give_back,
        )
