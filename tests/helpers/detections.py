"""Detections as a column finder would give them, simulated from known kinetics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from scipy.spatial import cKDTree

from stream.drift import Shift
from stream.histories import Histories
from stream.hopping import Hop
from stream.phantom_truth import Truth
from stream.picture import Picture
from stream.tracking import Tracker

SPACING_PX = 12.5  # Au <110> at 0.02 nm/px

Switch: TypeAlias = tuple[int, int, bool]  # frame, site, whether it is an arrival
Move: TypeAlias = tuple[int, int, int]  # frame, from, to


@dataclass(frozen=True)
class Kinetics:
    """Who is where: yx_px (m, 2) at rest; occupied (frames, m) bool; moves (k, 3): frame, from, to, with
    `frame` the first that shows the move, and -1 for outside."""

    yx_px: np.ndarray
    occupied: np.ndarray
    moves: np.ndarray

    def seen(self, frames: np.ndarray) -> Kinetics:
        """The same as it looks when only `frames` (rising) are seen: moves show in the next one seen."""
        at = np.searchsorted(frames, self.moves[:, 0])
        moves = self.moves[at < len(frames)].copy()
        moves[:, 0] = frames[at[at < len(frames)]]
        last = np.maximum(np.searchsorted(frames, np.arange(len(self.occupied)), side="right") - 1, 0)
        return Kinetics(self.yx_px, self.occupied[frames[last]], moves)

    def switches(self, dwell: int = 0) -> set[Switch]:
        """Every switch between two states that each last (as far as is known) more than `dwell` frames."""
        found = set()
        for site, occupied in enumerate(self.occupied.T):
            at = np.flatnonzero(np.diff(occupied)) + 1
            lasts = np.diff(np.concatenate([[0], at, [len(occupied)]]))
            found |= {
                (int(frame), site, bool(occupied[frame]))
                for frame, before, after in zip(at, lasts[:-1], lasts[1:], strict=True)
                if min(before, after) > dwell
            }
        return found

    def hops(self, dwell: int = 0) -> set[Move]:
        """(frame, from, to) of every move between sites of which both ends are among `switches(dwell)`."""
        switches = self.switches(dwell)
        return {
            (frame, a, b)
            for frame, a, b in self.moves.tolist()
            if (frame, a, False) in switches and (frame, b, True) in switches
        }

    def apparent(self, stop: int = 3) -> set[Move]:
        """All moves, and what two of them look like from one site to another when the site between them is
        changed for no more than `stop` frames: a stop-over, or a second column that closes the gap."""
        moves = [tuple(move) for move in self.moves.tolist()]
        joined = set(moves)
        for f, a, b in moves:
            for g, c, d in moves:
                if abs(g - f) <= stop and ((b == c >= 0 and g >= f) or (a == d >= 0 and g >= f)):
                    start, end = (a, d) if b == c else (c, b)
                    joined |= {(f, start, end), (g, start, end)}
        return joined


def of_phantom(truth: Truth) -> Kinetics:
    """The kinetics of a phantom session."""
    moves = np.stack([truth.hops[name] for name in ("frame", "from_site", "to_site")], axis=1)
    return Kinetics(truth.yx_nm / truth.pixel_size_nm, truth.occupancy, moves.astype(np.int64))


def particle(radius_px: float, spacing_px: float = SPACING_PX, centre_yx_px=(256.0, 256.0)) -> np.ndarray:
    """(m, 2) f8, sites of a round, centred-rectangular lattice, off centre so that its outline is one."""
    n = int(2 * radius_px / spacing_px) + 2
    i, j = np.mgrid[-n : n + 1, -n : n + 1]
    keep = (i + j) % 2 == 0
    yx = np.column_stack([i[keep] * 0.577, j[keep] * 0.816]) * spacing_px + (
        0.31 * spacing_px,
        0.17 * spacing_px,
    )
    return yx[np.hypot(*yx.T) <= radius_px] + centre_yx_px


def lattice_gas(
    rng: np.random.Generator, yx_px: np.ndarray, frames: int, rim_px: float, hop: float
) -> Kinetics:
    """Columns that hop to vacant neighbouring sites, with probability `hop` per frame and rim column.

    Sites further than `rim_px` from the outermost start, and stay, occupied; of the rim, half start so.
    """
    centre = yx_px.mean(axis=0)
    radius = np.hypot(*(yx_px - centre).T)
    rim = radius > radius.max() - rim_px
    state = ~rim | (rng.random(len(yx_px)) < 0.5)
    tree = cKDTree(yx_px)
    beside = [[j for j in near if rim[j]] for near in tree.query_ball_point(yx_px, 1.2 * SPACING_PX)]
    occupied, moves = [state.copy()], []
    for frame in range(1, frames):
        for site in rng.permutation(np.flatnonzero(state & rim)):
            vacant = [j for j in beside[site] if not state[j] and not occupied[-1][j]]
            if vacant and rng.random() < hop:
                target = vacant[rng.integers(len(vacant))]
                state[site], state[target] = False, True
                moves.append((frame, site, target))
        occupied.append(state.copy())
    return Kinetics(yx_px, np.array(occupied), np.array(moves, np.int64).reshape(-1, 3))


@dataclass(frozen=True)
class Finder:
    """A column finder with known faults; `frames` yields (index, t_ns, columns (n, 2) px)."""

    detect_occupied: float = 0.98
    detect_empty: float = 0.02
    false_per_frame: float = 3.0  # anywhere in the frame
    jitter_px: float = 0.3
    missing: float = 0.0  # share of frames never received
    period_ns: int = 20_000_000

    def frames(
        self, rng: np.random.Generator, truth: Kinetics, drift_yx_px: np.ndarray, shape_yx=(512, 512)
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        for index, occupied in enumerate(truth.occupied):
            seen = rng.random(len(occupied)) < np.where(occupied, self.detect_occupied, self.detect_empty)
            yx = truth.yx_px[seen] + drift_yx_px[index] + rng.normal(0, self.jitter_px, (seen.sum(), 2))
            anywhere = rng.random((rng.poisson(self.false_per_frame), 2)) * (np.array(shape_yx) - 1)
            yx = np.concatenate([yx, anywhere])
            yx = yx[np.all((yx >= 0) & (yx <= np.array(shape_yx) - 1), axis=1)]
            if rng.random() >= self.missing:
                yield index, index * self.period_ns, rng.permutation(yx).astype(np.float32)


def walk(rng: np.random.Generator, frames: int, step_px: float = 0.3) -> np.ndarray:
    """(frames, 2) f8, a drift that walks at random, from rest."""
    return np.concatenate([np.zeros((1, 2)), np.cumsum(rng.normal(0, step_px, (frames - 1, 2)), axis=0)])


def found_switches(events: list[Hop], site_truth: np.ndarray) -> set[Switch]:
    """Every event as switches of true sites; a hop is two. Sites that are not true are below -1."""
    name = np.where(site_truth < 0, -2 - np.arange(len(site_truth)), site_truth)
    found = {(e.frame, int(name[e.from_site]), False) for e in events if e.from_site >= 0}
    return found | {(e.frame, int(name[e.to_site]), True) for e in events if e.to_site >= 0}


def found_hops(events: list[Hop], site_truth: np.ndarray) -> set[Move]:
    """Every hop as (frame, from, to) of true sites."""
    return {
        (e.frame, int(site_truth[e.from_site]), int(site_truth[e.to_site])) for e in events if e.kind == "hop"
    }


_Dated = TypeVar("_Dated", Switch, Move)


def agreement(found: set[_Dated], true: set[_Dated], within: int = 2) -> tuple[set[_Dated], set[_Dated]]:
    """Those found that are true, and those true that are found: one to one, within so many frames."""
    found_left, true_left = set(found), set(true)
    for apart in range(within + 1):
        for frame, a, b in sorted(found_left):
            for at in (frame - apart, frame + apart):
                if (at, a, b) in true_left:
                    true_left.discard((at, a, b))
                    found_left.discard((frame, a, b))
                    break
    return found - found_left, true - true_left


@dataclass(frozen=True)
class Score:
    """How well events were found. Recalls are of switches and hops between states that last more than
    `dwell` frames; precisions, of all that was reported."""

    switches: int
    recall: float
    precision: float
    raw_recall: float
    raw_precision: float
    hops: int
    hop_recall: float
    hop_precision: float
    live_recall: float
    live_precision: float

    @property
    def f1(self) -> float:
        """Of the switches found by the smoother; mind that recall leaves short dwells out unless `dwell` was 0."""
        return _f1(self.recall, self.precision)

    @property
    def live_f1(self) -> float:
        """Of the switches of the live filter."""
        return _f1(self.live_recall, self.live_precision)

    @property
    def raw_f1(self) -> float:
        """Of the raw flips."""
        return _f1(self.raw_recall, self.raw_precision)

    def __str__(self) -> str:
        return (
            f"{self.switches} switches: recall {self.recall:.4f}, precision {self.precision:.4f} "
            f"(raw flips {self.raw_recall:.4f}, {self.raw_precision:.4f}); "
            f"{self.hops} hops: recall {self.hop_recall:.4f}, precision {self.hop_precision:.4f}; "
            f"F1 of the smoother {self.f1:.3f}, live filter {self.live_f1:.3f}, raw flips {self.raw_f1:.3f}"
        )


@dataclass
class Session:
    """A tracker, and what it said of the frames it was given."""

    tracker: Tracker
    pixel_nm: float = 0.02
    histories: Histories | None = None  # kept as a replay keeps them

    def __post_init__(self) -> None:
        self.events: list[Hop] = []
        self.shifts: dict[int, Shift] = {}
        self.evidence = np.empty(0)  # of the last frame
        self._flips: list[tuple[int, int, bool]] = []
        self._live: list[tuple[int, int, bool]] = []  # what the filter held for sure, when it changed
        self._held = np.empty(0, np.int8)

    def feed(
        self, frames: Iterable[tuple[int, int, np.ndarray] | tuple[int, int, np.ndarray, Picture]]
    ) -> Session:
        for index, t_ns, yx_px, *picture in frames:
            tracked = self.tracker.update(index, t_ns, yx_px, None, *picture)
            if self.histories is not None:
                self.histories.add(index, t_ns, tracked)
            self.events += tracked.events
            self.shifts[index] = tracked.shift
            self.evidence = tracked.evidence
            flipped = np.flatnonzero(tracked.flipped)
            self._flips += [(index, int(site), bool(tracked.detected[site])) for site in flipped]
            self._see_filter(index, tracked.occupancy.p_occupied)
        return self

    def _see_filter(self, index: int, p_occupied: np.ndarray, sure: float = 0.85) -> None:
        self._held = np.concatenate([self._held, np.full(len(p_occupied) - len(self._held), -1, np.int8)])
        now = np.where(p_occupied >= sure, 1, np.where(p_occupied <= 1 - sure, 0, self._held)).astype(np.int8)
        changed = np.flatnonzero((now != self._held) & (self._held >= 0))
        self._live += [(index, int(site), bool(now[site])) for site in changed]
        self._held = now

    def finish(self) -> Session:
        self.events += self.tracker.finish()
        return self

    def true_sites(self, truth: Kinetics, drift_yx_px: np.ndarray, within_px: float = 4.0) -> np.ndarray:
        """(m,) i8, the true site of each site found, or -1. The first frame seen is the specimen's frame."""
        rest = self.tracker.sites.yx_nm / self.pixel_nm - drift_yx_px[min(self.shifts)]
        distance, index = cKDTree(truth.yx_px).query(rest)
        return np.where(distance <= within_px, index, -1)

    def score(
        self,
        truth: Kinetics,
        drift_yx_px: np.ndarray,
        dwell: int = 3,
        within: int = 2,
        events: list[Hop] | None = None,
    ) -> Score:
        """Of the events settled so far, or of others at the same sites."""
        events = self.events if events is None else events
        site = self.true_sites(truth, drift_yx_px)
        known = np.array([index for index, shift in self.shifts.items() if not shift.lost])
        truth = truth.seen(known)
        every, long = truth.switches(), truth.switches(dwell)
        hops, moves = truth.hops(dwell), found_hops(events, site)
        found = found_switches(events, site)
        name = np.where(site < 0, -2 - np.arange(len(site)), site)
        raw, live = (
            {(index, int(name[row]), arrival) for index, row, arrival in kept}
            for kept in (self._flips, self._live)
        )
        return Score(
            len(long),
            _share(agreement(found, long, within)[1], long),
            _share(agreement(found, every, within)[0], found),
            _share(agreement(raw, long, within)[1], long),
            _share(agreement(raw, every, within)[0], raw),
            len(hops),
            _share(agreement(moves, hops, within)[1], hops),
            _share(agreement(moves, truth.apparent(), within)[0], moves),
            _share(agreement(live, long, within)[1], long),
            _share(agreement(live, every, within)[0], live),
        )


def _f1(recall: float, precision: float) -> float:
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def _share(part: set[_Dated], whole: set[_Dated]) -> float:
    return len(part) / len(whole) if whole else 1.0
