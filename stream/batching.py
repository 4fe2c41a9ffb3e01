"""Frames in batches, and batches over cards: how many at once, which card next, and the order kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

MEMORY = 0.9  # of what was learnt before, after one more batch
SAFETY = 1.2  # a batch may take a fifth longer than was learnt


class BatchSize:
    """How many waiting frames to take at once, so that the oldest of them is done within the latency budget.

    A frame that finds the card idle is never held back for company. While the card is busy frames gather, and
    then go together, as many as fit into the budget: small frames, whose launches cost more than their pixels,
    many at once; large ones, which fill the card alone, one by one. What a batch costs is learnt from those
    before: a fixed part and one for each frame, by least squares with a fading memory.

    Parameters
    ----------
    budget_s : from the arrival of a frame to its columns.
    most : frames in the largest batch.

    Raises
    ------
    ValueError
        If either is not positive.
    """

    def __init__(self, budget_s: float, most: int) -> None:
        if not budget_s > 0 or most < 1:
            raise ValueError(
                f"impossible batches: expected a budget above 0 s and 1 or more, got {budget_s} s, {most}"
            )
        self.budget_s, self.most = budget_s, most
        self._n = self._b = self._t = self._bb = self._bt = 0.0

    def take(self, waiting: int, oldest_age_s: float) -> int:
        """How many to take now: a power of two, 0 if none waits; one if even that comes too late."""
        if waiting < 1:
            return 0
        batch = 1
        while 2 * batch <= min(waiting, self.most) and self._fits(2 * batch, oldest_age_s):
            batch *= 2
        return batch

    def choose(self, ages_s: Sequence[float]) -> tuple[int, int]:
        """Of the frames that wait, oldest first: how many to skip, and how many to take after them.

        Those that would come too late even alone are skipped, but never the newest; what is neither skipped nor
        taken waits for the next batch.
        """
        waiting = len(ages_s)
        skip = 0
        while skip < waiting - 1 and not self._fits(1, ages_s[skip]):
            skip += 1
        return skip, self.take(waiting - skip, ages_s[skip]) if waiting else 0

    def learn(self, batch: int, seconds: float) -> None:
        """Note what a batch took, from its start to its columns."""
        for name, value in (
            ("_n", 1.0),
            ("_b", batch),
            ("_t", seconds),
            ("_bb", batch**2),
            ("_bt", batch * seconds),
        ):
            setattr(self, name, MEMORY * getattr(self, name) + value)

    def expected_s(self, batch: int) -> float | None:
        """What a batch should take; None before the first."""
        if self._n == 0:
            return None
        spread = self._n * self._bb - self._b**2
        if (
            spread < 1e-6 * self._n * self._bb
        ):  # all of one size so far: in proportion, which is the most it can be
            return self._t / self._b * batch
        each = max((self._n * self._bt - self._b * self._t) / spread, 0.0)
        return max(self._t - each * self._b, 0.0) / self._n + each * batch

    def _fits(self, batch: int, age_s: float) -> bool:
        expected = self.expected_s(batch)
        return expected is None or age_s + SAFETY * expected <= self.budget_s


class Finder(Protocol):
    """What a card offers: `stream.gpu.finder.DeviceFinder`."""

    def start(self, frames: Sequence[Any]) -> None: ...

    def fetch(self) -> list[Any]: ...


class Closing(Protocol):
    """What a card keeps open between series: its device and its engine."""

    def close(self) -> None: ...


@dataclass(slots=True)
class _Ticket:
    card: _Card
    started: Future[None]
    fetched: Future[list[Any]] | None = None


class _Card:
    """What one card keeps open, and the one thread that may use it: a card's stream and memory belong to a thread."""

    def __init__(self, opened: Callable[[], Closing]) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.open = self._thread.submit(opened)
        self._finder: Finder | None = None
        self._last: _Ticket | None = None

    def begin(self, make: Callable[[Any], Finder | None]) -> Future[None]:
        def begin() -> None:
            self._finder = make(self.open.result())

        return self._thread.submit(begin)

    def start(self, frames: Sequence[Any]) -> _Ticket:
        """The card uploads this batch while it computes the last, which is fetched as soon as it has begun."""
        before = self._last
        ticket = self._last = _Ticket(self, self._thread.submit(lambda: self._ready().start(frames)))
        if before is not None:
            self.fetch(before)
        return ticket

    def fetch(self, ticket: _Ticket) -> Future[list[Any]]:
        if ticket.fetched is None:
            if self._last is ticket:
                self._last = None

            def fetch() -> list[Any]:
                ticket.started.result()
                return self._ready().fetch()

            ticket.fetched = self._thread.submit(fetch)
        return ticket.fetched

    def _ready(self) -> Finder:
        if self._finder is None:
            raise ValueError("no series has begun on this card: begin one before starting batches")
        return self._finder

    def close(self) -> None:
        def close() -> None:
            self._finder = None
            if self.open.exception() is None:
                self.open.result().close()

        self._thread.submit(close).result()
        self._thread.shutdown()


class Cards:
    """Batches go to the cards in turn; their columns come back in the order in which the batches were started.

    Parameters
    ----------
    openers : one for each card; opens its device and engine, in the thread that will use them.
    """

    def __init__(self, openers: Sequence[Callable[[], Closing]]) -> None:
        if not openers:
            raise ValueError("no cards: expected one to open, or more")
        self._cards: list[_Card] = []
        self._order: deque[_Ticket] = deque()
        self._turn = 0
        self.opened: list[Closing] = []
        try:
            # one after the other: cards alike share a plan, and no CUDA graph is recorded beside somebody's allocating
            for opened in openers:
                self._cards.append(_Card(opened))
                self.opened.append(self._cards[-1].open.result())
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Batches under way."""
        return len(self._order)

    @property
    def room(self) -> int:
        """Batches that may still be started before one must be fetched: two for each card."""
        return 2 * len(self._cards) - len(self._order)

    def begin(self, make: Callable[[Any], Finder]) -> None:
        """Make a finder on each card, out of what it keeps open.

        Raises
        ------
        ValueError
            If batches are still under way.
        """
        if self._order:
            raise ValueError(f"{len(self)} batches are under way: fetch them before a series begins")
        for card in self._cards:  # the last ones' memory goes before the next ones' comes
            card.begin(lambda _: None).result()
        for card in self._cards:  # one after the other, as they were opened
            card.begin(make).result()

    def start(self, frames: Sequence[Any]) -> None:
        """Begin a batch on the next card.

        Raises
        ------
        ValueError
            If every card has two under way: fetch first.
        """
        if self.room < 1:
            raise ValueError(f"{len(self)} batches are under way, two for each card: fetch one first")
        self._order.append(self._cards[self._turn].start(frames))
        self._turn = (self._turn + 1) % len(self._cards)

    def fetch(self) -> list[Any]:
        """Wait for the oldest batch.

        Raises
        ------
        ValueError
            If none is under way.
        """
        if not self._order:
            raise ValueError("no batch is under way: start one before fetching")
        ticket = self._order.popleft()
        return ticket.card.fetch(ticket).result()

    def close(self) -> None:
        """Close what is open and end the threads; what is under way is finished first."""
        for card in self._cards:
            card.close()
