"""Batches within a latency budget, and batches over cards of different speed with their order kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from stream.batching import BatchSize, Cards


def simulate(fixed_s: float, each_s: float, period_s: float, budget_s: float, frames: int = 4000) -> Any:
    """A card with those costs under a steady stream: latencies (n,) in s, and sizes of the batches."""
    size = BatchSize(budget_s, 16)
    clock, done, latency, sizes = 0.0, 0, [], []
    while done < frames:
        clock = max(clock, done * period_s)
        waiting = int(np.floor(clock / period_s + 1e-9)) + 1 - done
        batch = size.take(waiting, clock - done * period_s)
        took = fixed_s + each_s * batch
        size.learn(batch, took)
        clock += took
        latency += [clock - (done + i) * period_s for i in range(batch)]
        sizes.append(batch)
        done += batch
    return np.array(latency), np.array(sizes)


def test_an_idle_card_takes_a_frame_at_once() -> None:
    size = BatchSize(0.01, 16)
    assert size.take(0, 0.0) == 0
    assert size.take(1, 0.0) == 1
    latency, sizes = simulate(fixed_s=3e-4, each_s=5e-5, period_s=1e-3, budget_s=0.01)
    assert (sizes == 1).all()
    np.testing.assert_allclose(latency, 3.5e-4)


def test_small_frames_gather_and_the_card_keeps_up() -> None:
    """One by one they take 0.35 ms and come every 0.2 ms; together they are fast enough."""
    latency, sizes = simulate(fixed_s=3e-4, each_s=5e-5, period_s=2e-4, budget_s=0.01)
    assert sizes[100:].max() > 1
    assert latency[1000:].max() < 2.5e-3
    assert set(sizes) <= {1, 2, 4, 8, 16}


def test_large_frames_go_one_by_one() -> None:
    """A frame takes 6 ms of a budget of 10: two would be late."""
    _, sizes = simulate(fixed_s=3e-4, each_s=6e-3, period_s=5e-3, budget_s=0.01, frames=300)
    assert (sizes == 1).all()


def test_batches_stay_within_the_budget_while_the_card_keeps_up() -> None:
    for each_s in (1e-4, 3e-4, 9e-4):
        latency, _ = simulate(fixed_s=5e-4, each_s=each_s, period_s=1.3 * each_s, budget_s=0.01)
        assert latency[500:].max() < 0.01


def test_a_latecomer_is_not_made_later_by_company() -> None:
    size = BatchSize(0.01, 16)
    for batch in (1, 2, 4, 1):
        size.learn(batch, 1e-3 + 1e-3 * batch)
    assert size.expected_s(8) == pytest.approx(9e-3)
    assert size.take(100, 0.0) == 4
    assert size.take(100, 6.5e-3) == 1
    assert size.take(100, 1.0) == 1


def test_what_comes_too_late_is_skipped_and_the_rest_waits() -> None:
    size = BatchSize(0.01, 4)
    assert size.choose([]) == (0, 0)
    assert size.choose([5.0]) == (0, 1), "the newest is always seen"
    for batch in (1, 2, 4, 1):
        size.learn(batch, 1e-3 + 1e-3 * batch)
    assert size.choose([9e-3, 8e-3, 1e-3, 1e-3, 0.0]) == (2, 2)
    assert size.choose([0.0] * 9) == (0, 4)
    assert size.choose([1.0, 1.0, 1.0]) == (2, 1)


def test_costs_that_change_are_learnt_again() -> None:
    size = BatchSize(0.01, 16)
    for batch in (1, 2, 4) * 10:
        size.learn(batch, 1e-3 * batch)
    assert size.take(100, 0.0) == 8
    for batch in (1, 2, 4) * 20:
        size.learn(batch, 3e-3 * batch)
    assert size.take(100, 0.0) == 2


def test_impossible_budgets_are_refused() -> None:
    for budget_s, most in ((0.0, 4), (float("nan"), 4), (0.01, 0)):
        with pytest.raises(ValueError, match="impossible batches"):
            BatchSize(budget_s, most)


class FakeFinder:
    """Gives back what it got; `fetch` waits for its gate."""

    def __init__(self, name: str, log: list[tuple[str, str, Any]]) -> None:
        self.name, self.log, self.gate = name, log, threading.Event()
        self.under_way: list[Any] = []
        self.thread = threading.get_ident()

    def start(self, frames: Sequence[Any]) -> None:
        assert threading.get_ident() == self.thread
        assert len(self.under_way) < 2
        if "bad" in frames:
            raise ValueError("a frame of another kind")
        self.under_way.append(frames)
        self.log.append((self.name, "start", frames[0]))

    def close(self) -> None:
        self.log.append((self.name, "close", threading.get_ident() == self.thread))

    def fetch(self) -> list[Any]:
        assert threading.get_ident() == self.thread
        assert self.gate.wait(30)
        frames = self.under_way.pop(0)
        self.log.append((self.name, "fetch", frames[0]))
        return list(frames)


@pytest.fixture
def two() -> Any:
    log: list[tuple[str, str, Any]] = []
    made: dict[str, FakeFinder] = {}

    def maker(name: str) -> Callable[[], FakeFinder]:
        def make() -> FakeFinder:
            made[name] = FakeFinder(name, log)
            return made[name]

        return make

    cards = Cards([maker("a"), maker("b")])
    cards.begin(lambda opened: opened)
    yield cards, made, log
    for finder in made.values():
        finder.gate.set()
    cards.close()
    assert [entry for entry in log if entry[1] == "close"] == [("a", "close", True), ("b", "close", True)]


def test_order_is_kept_whichever_card_is_first(two: Any) -> None:
    cards, made, log = two
    made["b"].gate.set()  # b is fast, a stands
    for i in range(4):
        cards.start([i])
    assert cards.room == 0
    with pytest.raises(ValueError, match="fetch one first"):
        cards.start([9])
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(cards.fetch() for _ in range(4)))
    reader.start()
    made["a"].gate.set()
    reader.join(30)
    assert got == [[0], [1], [2], [3]]
    assert {i % 2: name for name, what, i in log if what == "start"} == {0: "a", 1: "b"}
    with pytest.raises(ValueError, match="no batch is under way"):
        cards.fetch()


def test_the_next_batch_is_begun_before_the_last_is_fetched(two: Any) -> None:
    cards, made, log = two
    for finder in made.values():
        finder.gate.set()
    got = []
    for i in range(20):
        if not cards.room:
            got.append(cards.fetch()[0])
        cards.start([i])
    while len(cards):
        got.append(cards.fetch()[0])
    assert got == list(range(20))
    of_a = [(what, i) for name, what, i in log if name == "a"]
    assert of_a[:5] == [("start", 0), ("start", 2), ("fetch", 0), ("start", 4), ("fetch", 2)]


def test_an_error_comes_out_where_its_columns_would_have(two: Any) -> None:
    cards, made, _ = two
    for finder in made.values():
        finder.gate.set()
    cards.start([0])
    cards.start(["bad"])
    cards.start([2])
    assert cards.fetch() == [0]
    with pytest.raises(ValueError, match="another kind"):
        cards.fetch()
    assert cards.fetch() == [2]


def test_a_series_begins_on_every_card_when_nothing_is_under_way(two: Any) -> None:
    cards, made, _ = two
    for finder in made.values():
        finder.gate.set()
    cards.start([0])
    with pytest.raises(ValueError, match="1 batches are under way"):
        cards.begin(lambda opened: opened)
    cards.fetch()
    began: list[str] = []
    cards.begin(lambda opened: began.append(opened.name) or opened)
    assert sorted(began) == ["a", "b"]

    def full(opened: Any) -> Any:
        raise MemoryError("the card is full")

    with pytest.raises(MemoryError):
        cards.begin(full)
    cards.start([0])
    with pytest.raises(ValueError, match="no series has begun"):
        cards.fetch()


def test_cards_are_opened_and_made_ready_one_after_the_other() -> None:
    """Two of a kind share a plan, and while one records a CUDA graph the other must not allocate."""
    busy: list[str] = []

    def slow(opened: Any = None) -> FakeFinder:
        busy.append("in")
        assert busy.count("in") == busy.count("out") + 1
        time.sleep(0.05)
        busy.append("out")
        return FakeFinder("a", [])

    cards = Cards([slow, slow, slow])
    cards.begin(slow)
    cards.close()
    assert busy.count("out") == 6


def test_a_card_that_cannot_be_opened_is_an_error_at_once() -> None:
    def make() -> FakeFinder:
        raise RuntimeError("there is no GPU 1")

    log: list[tuple[str, str, Any]] = []
    with pytest.raises(RuntimeError, match="there is no GPU 1"):
        Cards([lambda: FakeFinder("a", log), make])
    assert log == [("a", "close", True)], "what was opened already is closed again"
    with pytest.raises(ValueError, match="no cards"):
        Cards([])
