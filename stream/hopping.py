"""What happened: columns that appear, disappear or hop, and how often per time observed.

Events come from the smoothed occupancy, with hysteresis, and are dated where it crosses one half.
A departure and an arrival at a neighbouring site at nearly the same time are one hop. Where several pairs are possible
an event is the best of them, and tells of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.occupancy import Occupancy, Smoothed
from stream.pairing import best, probabilities
from stream.places import DETECTED, UNOBSERVED
from stream.poisson import Rate, hidden, rate

_UNKNOWN = -1
_NS = 1e-9
LEAST_LIKELY = 0.05  # a pairing that is less likely is not told of

_site = np.dtype(
    [
        ("decided", "i1"),  # 1 occupied, 0 empty, or unknown
        ("side", "i1"),  # which side of one half the smoothed probability is on, or unknown
        ("certainty", "f8"),  # the best that was known of the decided state
        ("frame", "i8"),  # where one half was last crossed
        ("t_ns", "i8"),
        ("share", "f8"),  # of the time before that frame, what was observed
        ("seen_ns", "i8"),  # when the site was last observed
        ("raw", "i1"),  # detected when last looked for, or unknown
    ]
)
_event = np.dtype(
    [
        ("frame", "i8"),
        ("t_ns", "i8"),
        ("site", "i8"),
        ("arrival", "?"),
        ("probability", "f8"),
        ("share", "f8"),
        ("left", "f8"),  # P(not part of a pair that was told of already)
    ]
)


@dataclass(frozen=True, slots=True)
class Hop:
    """One event: a hop, an appearance (from_site -1) or a disappearance (to_site -1).

    Attributes
    ----------
    t_ns, frame : the first frame that shows it.
    from_site, to_site : site numbers.
    probability : that it happened, and for a hop also that these two sites belong together.
    others : of a hop, other pairs that its departure or its arrival may belong to, (from_site, to_site, probability).
        Each pair is told of once in a series: the probabilities of hops and of their others add up to the number of
        hops to be expected.
    shares : of a hop, that the two belong together given that both happened; then of each of the others.
    """

    t_ns: int
    frame: int
    from_site: int
    to_site: int
    probability: float
    others: tuple[tuple[int, int, float], ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """ "hop", "appear" or "disappear"."""
        return "appear" if self.from_site < 0 else "disappear" if self.to_site < 0 else "hop"


class Hopping:
    """Finds events as frames are smoothed, and counts them per site.

    Parameters
    ----------
    frame_period_s : the time one observed frame stands for.
    sure : smoothed probability from which a site counts as occupied, or (1 - it) as empty.
    pair_frames : most frames between the departure and the arrival of one hop.
    wait_frames : how long an event waits for its partner.

    Attributes
    ----------
    counts : (4, m) i8, appeared, disappeared, hopped away, hopped here; a hop is in the last two only.
    raw_flips : (m,) i8, detected in one frame and not in the next, or the reverse (the papers' count).
    """

    def __init__(
        self, frame_period_s: float, *, sure: float = 0.85, pair_frames: int = 2, wait_frames: int = 4
    ) -> None:
        if not 0.5 <= sure < 1 or not 0 <= pair_frames <= wait_frames:
            raise ValueError(
                "expected 0.5 <= sure < 1 and 0 <= pair_frames <= wait_frames, "
                f"got {sure}, {pair_frames} and {wait_frames}"
            )
        self.frame_period_s, self.sure = frame_period_s, sure
        self.pair_frames, self.wait_frames = pair_frames, wait_frames
        self.counts = np.zeros((4, 0), np.int64)
        self.raw_flips = np.zeros(0, np.int64)
        self._weighted = np.zeros((2, 0))  # departures, and hops away; each by its share
        self._sites = np.zeros(0, _site)
        self._waiting = np.zeros(0, _event)

    def see(self, code: np.ndarray) -> np.ndarray:
        """Count raw flips of the newest frame; `code` (m,) as in `Sighting`. Returns (m,) bool."""
        self._grow(len(code))
        raw = self._sites["raw"]
        detected, observed = code == DETECTED, code != UNOBSERVED
        flipped = observed & (raw != _UNKNOWN) & (raw != detected)
        np.copyto(raw, detected, where=observed)
        self.raw_flips += flipped
        return flipped

    def update(self, smoothed: Smoothed, neighbours: np.ndarray) -> list[Hop]:
        """Take the next smoothed frame; give the events that are settled by it, in order of time.

        Parameters
        ----------
        smoothed : of m sites.
        neighbours : (m, k) i8, sites to which a column may hop, then -1.
        """
        self._grow(len(smoothed.p_occupied))
        switched, probability = self._decide(smoothed)
        if switched.size:
            new = np.zeros(len(switched), _event)
            for name in ("frame", "t_ns", "share"):
                new[name] = self._sites[name][switched]
            new["site"], new["probability"], new["left"] = switched, probability, 1.0
            new["arrival"] = self._sites["decided"][switched] == 1
            self._waiting = np.concatenate([self._waiting, new])
        return self._release(smoothed.frame - self.wait_frames, neighbours)

    def finish(self, neighbours: np.ndarray) -> list[Hop]:
        """The events that still waited for a partner, in order of time."""
        return self._release(np.iinfo(np.int64).max, neighbours)

    def merge(self, a: int, b: int, exchanged: int) -> None:
        """Site a takes in site b, in the same place; `exchanged` hops from one to the other were none."""
        for array in (self.counts, self._weighted, self.raw_flips):
            array[..., a] += array[..., b]
            array[..., b] = 0
        # each was a departure of the one and an arrival of the other
        self.counts[2:, a] = np.maximum(self.counts[2:, a] - exchanged, 0)
        self._weighted[:, a] = np.maximum(self._weighted[:, a] - exchanged, 0.0)
        if self._sites["decided"][b] == 1 or self._sites["decided"][a] == _UNKNOWN:
            self._sites[a] = self._sites[b]
        self._waiting["site"][self._waiting["site"] == b] = a

    def rates(
        self, occupancy: Occupancy, *, total: bool = False, confidence: float = 0.95
    ) -> dict[str, Rate]:
        """Rates per site (m,), or of all sites together.

        "event": arrivals and departures per time observed; "arrival" per time empty; "departure" and
        "hop" (away) per time occupied. Arrivals and departures are the expected numbers, those hidden between two
        frames added (`hidden`); of the departures, the share that were counted as hops are hops.
        """
        observed, occupied = occupancy.observed_s, occupancy.occupied_s
        empty = np.maximum(observed - occupied, 0.0)
        more = hidden(occupancy.arrivals, occupancy.departures, empty, occupied, self.frame_period_s)
        arrivals, departures = more * occupancy.arrivals, more * occupancy.departures
        left, hops = self._weighted
        hops = departures * np.divide(hops, left, out=np.zeros_like(hops), where=left > 0)
        worth = occupancy.worth
        if total:
            switches = np.maximum(arrivals + departures, 1e-9)
            worth = np.average(worth, weights=switches) if len(worth) else 1.0
            sums = (a.sum() for a in (arrivals, departures, hops, observed, occupied, empty))
            arrivals, departures, hops, observed, occupied, empty = sums
        pairs = {
            "event": (arrivals + departures, observed),
            "arrival": (arrivals, empty),
            "departure": (departures, occupied),
            "hop": (hops, occupied),
        }
        return {name: rate(events, time_s, confidence, worth) for name, (events, time_s) in pairs.items()}

    def _grow(self, sites: int) -> None:
        new = sites - len(self._sites)
        if new > 0:
            fresh = np.zeros(new, _site)
            fresh["decided"] = fresh["side"] = fresh["raw"] = _UNKNOWN
            self._sites = np.concatenate([self._sites, fresh])
            self.raw_flips = np.concatenate([self.raw_flips, np.zeros(new, np.int64)])
            self.counts = np.concatenate([self.counts, np.zeros((4, new), np.int64)], axis=1)
            self._weighted = np.concatenate([self._weighted, np.zeros((2, new))], axis=1)

    def _decide(self, smoothed: Smoothed) -> tuple[np.ndarray, np.ndarray]:
        """Sites that have switched for sure, and the probability of that; unobserved sites rest."""
        sites, seen, p = self._sites, smoothed.observed, smoothed.p_occupied
        side = p > 0.5
        crossed = seen & (sites["side"] != side)
        since_s = np.maximum((smoothed.t_ns - sites["seen_ns"][crossed]) * _NS, self.frame_period_s)
        sites["frame"][crossed], sites["t_ns"][crossed] = smoothed.frame, smoothed.t_ns
        sites["share"][crossed] = self.frame_period_s / since_s
        sites["side"][crossed] = side[crossed]
        sites["seen_ns"][seen] = smoothed.t_ns

        here = np.where(side, p, 1.0 - p)
        settled = seen & (here >= self.sure)
        other = settled & (sites["decided"] != side)
        switched = np.flatnonzero(other & (sites["decided"] != _UNKNOWN))
        probability = sites["certainty"][switched] * here[switched]
        sites["certainty"] = np.where(other, here, sites["certainty"])
        same = settled & ~other
        sites["certainty"][same] = np.maximum(sites["certainty"], here)[same]
        sites["decided"][other] = side[other]
        return switched, probability

    def _release(self, due_frame: int, neighbours: np.ndarray) -> list[Hop]:
        """Pair the waiting events; give those of `due_frame` or before, with their partners."""
        waiting = self._waiting
        due = waiting["frame"] <= due_frame
        if not due.any():
            return []
        hops = []
        gone = due.copy()
        out, into, share = self._shares(neighbours)
        for i, j in best(share):
            departure, arrival = out[i], into[j]
            if not (due[departure] or due[arrival]):
                continue
            a, b = waiting[departure], waiting[arrival]
            surer = a if a["probability"] > b["probability"] else b
            (this, *others), shares = self._tell(out, into, share, i, j)
            hops.append(Hop(int(surer["t_ns"]), int(surer["frame"]), *this, tuple(others), shares))
            self.counts[2, a["site"]] += 1
            self.counts[3, b["site"]] += 1
            gone[[departure, arrival]] = True
            due[[departure, arrival]] = False
        for event in waiting[due]:
            arrived = bool(event["arrival"])
            ends = (-1, int(event["site"])) if arrived else (int(event["site"]), -1)
            hops.append(Hop(int(event["t_ns"]), int(event["frame"]), *ends, float(event["probability"])))
            self.counts[0 if arrived else 1, event["site"]] += 1
        left = waiting[gone & ~waiting["arrival"]]
        np.add.at(self._weighted[0], left["site"], left["share"])
        self._waiting = waiting[~gone]
        return sorted(hops, key=lambda hop: hop.frame)

    def _shares(self, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Waiting departures (d,) and arrivals (a,), and the probability (d, a) of each pair that is worth telling of,
        given that both happened. The weight of a pair falls e²-fold with each frame between its events."""
        waiting = self._waiting
        departures, arrivals = np.flatnonzero(~waiting["arrival"]), np.flatnonzero(waiting["arrival"])
        out, into = waiting[departures], waiting[arrivals]
        apart = np.abs(out["frame"][:, None] - into["frame"])
        beside = (neighbours[out["site"]][:, None, :] == into["site"][None, :, None]).any(axis=2)
        both = out["probability"][:, None] * into["probability"]
        weight = np.where(beside & (apart <= self.pair_frames), both * np.exp(-2.0 * apart), 0.0)
        share = probabilities(weight) * out["left"][:, None] * into["left"]
        return departures, arrivals, np.where(share < LEAST_LIKELY, 0.0, share)

    def _tell(
        self, out: np.ndarray, into: np.ndarray, share: np.ndarray, i: int, j: int
    ) -> tuple[list[tuple[int, int, float]], tuple[float, ...]]:
        """The pair of departure i and arrival j, then the others of either: from, to, probability; and their shares.
        None is told twice: its share is taken from `share` and from what is left of its events."""
        waiting = self._waiting
        rivals = [(i, n) for n in np.flatnonzero(share[i]) if n != j]
        rivals += [(k, j) for k in np.flatnonzero(share[:, j]) if k != i]
        told, shares = [], []
        for k, n in [(i, j), *rivals]:
            start, end, part = waiting[out[k]], waiting[into[n]], share[k, n]
            self._weighted[1, start["site"]] += part * min(start["share"], end["share"])
            both = float(start["probability"] * end["probability"])
            told.append((int(start["site"]), int(end["site"]), both * float(part)))
            shares.append(float(part))
            waiting["left"][[out[k], into[n]]] -= part
            share[k, n] = 0.0
        waiting["left"] = np.maximum(waiting["left"], 0.0)
        return told, tuple(shares)

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        return {
            "counts": self.counts.copy(),
            "raw_flips": self.raw_flips.copy(),
            "weighted": self._weighted.copy(),
            "sites": self._sites.copy(),
            "waiting": self._waiting.copy(),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of a Hopping made with the same arguments."""
        self.counts = np.array(state["counts"])
        self.raw_flips = np.array(state["raw_flips"])
        self._weighted = np.array(state["weighted"])
        self._sites = np.array(state["sites"])
        self._waiting = np.array(state["waiting"])
