"""The ring's two promises: a leased slot is never handed out, and every index is delivered or in a Gap, once."""

from __future__ import annotations

import multiprocessing
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.frame import Encoding, Frame, Gap, Item, SeriesEnd, SeriesHeader
from stream.ring import Policy, RingReader, RingWriter
from stream.ring_root import create_root, remove

SHAPE = (8, 16)
HEADER = SeriesHeader(7, SHAPE, np.dtype("<u2"), frame_period_s=0.01, metadata={"note": "µ"})
FOUR_SLOTS = 1  # the smallest budget still gives four slots


def frame(index: int, series_id: int = 7) -> Frame:
    counts = np.full(SHAPE, index, "<u2")
    payload = memoryview(counts.tobytes())
    return Frame(series_id, index, index * 1000, index + 1, payload, Encoding(SHAPE, counts.dtype))


@contextmanager
def ring(policy: Policy) -> Iterator[tuple[RingWriter, RingReader]]:
    base = f"hs{uuid.uuid4().hex[:8]}"
    root = create_root(base)
    ready, freed = threading.Semaphore(0), threading.Semaphore(0)
    writer = RingWriter(base, ready, freed, budget_bytes=FOUR_SLOTS, policy=policy)
    reader = RingReader(base, ready, freed, policy=policy)
    try:
        yield writer, reader
    finally:
        reader.close()
        writer.close()
        remove(root)


def indices(items: list[Item]) -> list[int]:
    seen: list[int] = []
    for item in items:
        if isinstance(item, Frame):
            seen.append(item.index)
        elif isinstance(item, Gap):
            seen.extend(range(item.first, item.first + item.count))
    return seen


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["put", "gap", "take", "take two", "release"]), max_size=80))
def test_every_index_is_delivered_or_in_a_gap_exactly_once(moves: list[str]) -> None:
    with ring("keep-newest") as (writer, reader):
        writer.put(HEADER)
        seen: list[int] = []
        leased: list[Frame] = []
        index = 0
        for move in moves:
            if move == "put":
                writer.put(frame(index))
                index += 1
            elif move == "gap":
                writer.put(Gap(7, index, 3, "wire"))
                index += 3
            elif move.startswith("take"):
                two = (
                    (lambda recv_ns: (max(len(recv_ns) - 3, 0), min(len(recv_ns), 2)))
                    if "two" in move
                    else None
                )
                items = reader.take(0, two)
                seen += indices(items)
                leased += [i for i in items if isinstance(i, Frame)]
            elif leased:
                leased.pop(0).release()
            for held in leased:  # whatever the writer did, a leased frame still shows its own counts
                assert (held.counts == held.index).all()
        for held in leased:
            held.release()
        writer.put(SeriesEnd(7))
        while items := reader.take(0):
            seen += indices(items)
            for item in items:
                if isinstance(item, Frame):
                    assert (item.counts == item.index).all()
                    item.release()
        assert Counter(seen) == Counter(range(index))
        assert seen == sorted(seen)


def test_many_different_losses_are_merged_and_none_forgotten() -> None:
    with ring("keep-newest") as (writer, reader):
        writer.put(HEADER)
        for index in range(0, 1000, 2):
            writer.put(frame(index))
            writer.put(Gap(7, index + 1, 1, "wire"))
        seen: list[int] = []
        while items := reader.take(0):
            seen += indices(items)
        assert seen == list(range(1000))


def test_keep_newest_skips_to_the_newest_and_says_so() -> None:
    with ring("keep-newest") as (writer, reader):
        writer.put(HEADER)
        assert [type(i) for i in reader.take(0)] == [SeriesHeader]
        for index in range(3):
            writer.put(frame(index))
        *gaps, newest = reader.take(0)
        assert gaps == [Gap(7, 0, 1, "skipped-live"), Gap(7, 1, 1, "skipped-live")]
        assert isinstance(newest, Frame)
        assert newest.index == 2
        assert newest.t_ns == 2000
        newest.release()


def test_several_are_taken_where_they_are_asked_for() -> None:
    with ring("keep-newest") as (writer, reader):
        writer.put(HEADER)
        reader.take(0)
        for item in (frame(0), frame(1), Gap(7, 2, 4, "wire"), frame(6)):
            writer.put(item)
        asked: list[list[int]] = []

        def one_then_two(recv_ns: np.ndarray) -> tuple[int, int]:
            asked.append(recv_ns.tolist())
            return 1, 1

        skipped, second = reader.take(0, one_then_two)
        assert asked == [[1, 2, 7]]
        assert skipped == Gap(7, 0, 1, "skipped-live")
        assert isinstance(second, Frame)
        writer.put(frame(7))
        gap, third, fourth = reader.take(0, lambda recv_ns: (0, 2))
        assert gap == Gap(7, 2, 4, "wire")
        assert [third.index, fourth.index] == [6, 7]
        assert reader.take(0) == []
        for held in (second, third, fourth):
            held.release()


def test_keep_all_waits_and_delivers_every_frame() -> None:
    with ring("keep-all") as (writer, reader):
        n = 200

        def send() -> None:
            writer.put(HEADER)
            for index in range(n):
                writer.put(frame(index))
            writer.put(SeriesEnd(7))

        sender = threading.Thread(target=send)
        sender.start()
        got: list[int] = []
        ended = False
        while not ended:
            for item in reader.take(5):
                ended = isinstance(item, SeriesEnd)
                if isinstance(item, Frame):
                    got.append(int(item.counts[0, 0]))
                    item.release()
        sender.join()
        assert got == list(range(n))


def test_header_travels_whole() -> None:
    bad = np.zeros(SHAPE, bool)
    bad[3, 4] = True
    with ring("keep-newest") as (writer, reader):
        writer.put(
            SeriesHeader(9, SHAPE, np.dtype(">u2"), 0.1, 0.09, 0.02, 3e5, 31e3, bad, 10**9, {"a": [1]})
        )
        (header,) = reader.take(0)
        assert isinstance(header, SeriesHeader)
        assert header.dtype == np.dtype(">u2")
        assert header.metadata == {"a": [1]}
        assert header.bad_pixels is not None
        assert np.array_equal(header.bad_pixels, bad)


def test_a_new_series_ends_the_former_one() -> None:
    with ring("keep-newest") as (writer, reader):
        writer.put(HEADER)
        writer.put(frame(0))
        reader.take(0)
        first = [i for i in reader.take(0) if isinstance(i, Frame)]
        writer.put(SeriesHeader(8, SHAPE, np.dtype("<u2")))
        items = reader.take(0)
        assert items[0] == SeriesEnd(7)
        assert isinstance(items[1], SeriesHeader)
        assert (first[0].counts == 0).all()  # leased from the old segment, still whole
        first[0].release()


def test_a_new_reader_takes_over_a_dead_ones_leases() -> None:
    with ring("keep-newest") as (writer, reader):
        writer.put(HEADER)
        reader.take(0)
        for index in range(8):
            writer.put(frame(index))
            reader.take(0)  # never released, as if killed
        heir = RingReader(writer._base, threading.Semaphore(0), threading.Semaphore(0))
        header, given = heir.take(0)
        assert isinstance(header, SeriesHeader)
        assert isinstance(given, Gap)
        assert (given.first, given.reason) == (0, "restart")
        assert given.count <= 8  # what the dead one was given; the rest is still in the ring
        rest = indices(heir.take(0))
        assert [*range(given.count), *rest] == list(range(8))
        writer.put(frame(100))
        *_, newest = heir.take(0)
        assert isinstance(newest, Frame)
        assert newest.index == 100
        newest.release()
        heir.close()


@pytest.mark.parametrize("payload", [b"", bytes(100_000)])
def test_a_payload_of_a_lying_size_never_leaves_its_slot(payload: bytes) -> None:
    with ring("keep-newest") as (writer, reader):
        writer.put(HEADER)
        reader.take(0)
        lying = frame(0)
        lying.payload = memoryview(payload)
        lying.encoding = Encoding((1000, 1000), np.dtype("<u2"))
        writer.put(lying)
        assert reader.take(0) == [Gap(7, 0, 1, "decode")]
        assert writer.oversized == 1


def _write_until_killed(base: str, ready, freed, started) -> None:
    writer = RingWriter(base, ready, freed, budget_bytes=FOUR_SLOTS)
    writer.put(HEADER)
    index = 0
    while True:
        writer.put(frame(index))
        index += 1
        if index == 100:
            started.set()


def test_a_killed_writer_leaves_the_reader_free() -> None:
    context = multiprocessing.get_context("spawn")
    ready, freed, started = context.Semaphore(0), context.Semaphore(0), context.Event()
    base = f"hs{uuid.uuid4().hex[:8]}"
    root = create_root(base)
    victim = context.Process(target=_write_until_killed, args=(base, ready, freed, started))
    victim.start()
    reader = RingReader(base, ready, freed)
    try:
        assert started.wait(30)
        victim.kill()
        victim.join()
        last = -1
        while items := reader.take(0):  # ends: nobody holds the lock
            for item in items:
                if isinstance(item, Frame):
                    assert (item.counts == item.index % 65536).all()
                    assert item.index > last
                    last = item.index
                    item.release()
        assert last > 0
    finally:
        reader.close()
        remove(root)
