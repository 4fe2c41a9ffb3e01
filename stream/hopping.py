"""What happened: columns that appear, disappear or hop, and how often per time observed.

Events come from the smoothed occupancy, with hysteresis, and are dated where it crosses one half.
A departure and an arrival at a neighbouring site at nearly the same time are one hop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import chi2

from stream.occupancy import Occupancy, Smoothed
from stream.places import DETECTED, UNOBSERVED

_UNKNOWN = -1
_NS = 1e-9

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
    """

    t_ns: int
    frame: int
    from_site: int
    to_site: int
    probability: float

    @property
    def kind(self) -> str:
        """ "hop", "appear" or "disappear"."""
        return "appear" if self.from_site < 0 else "disappear" if self.to_site < 0 else "hop"


@dataclass(frozen=True, slots=True)
class Rate:
    """Events per time, with a confidence interval; arrays of one shape.

    Attributes
    ----------
    events : f8; those across a gap count by the share of it that was observed.
    at_risk_s : f8, time in which they could have been seen.
    rate_hz, low_hz, high_hz : f8; NaN where there was no time.
    """

    events: np.ndarray
    at_risk_s: np.ndarray
    rate_hz: np.ndarray
    low_hz: np.ndarray
    high_hz: np.ndarray


def rate(
    events: np.ndarray | float,
    at_risk_s: np.ndarray | float,
    confidence: float = 0.95,
    worth: np.ndarray | float = 1.0,
) -> Rate:
    """Poisson rate with its exact central interval (F. Garwood, Biometrika 28 (1936) 437).

    Parameters
    ----------
    worth : above 0, at most 1: the interval is that of this share of events and time (`Occupancy.worth`).

    Raises
    ------
    ValueError
        For negative events or time, or a confidence outside (0, 1).
    """
    n, time_s = np.broadcast_arrays(np.asarray(events, np.float64), np.asarray(at_risk_s, np.float64))
    worth = np.maximum(worth, 1e-6)
    if not 0 < confidence < 1 or (n < 0).any() or (time_s < 0).any():
        raise ValueError(
            f"a rate needs events and time >= 0 and 0 < confidence < 1, got a confidence of {confidence}, "
            f"events from {n.min(initial=0)} and times from {time_s.min(initial=0)} s"
        )
    tail = (1.0 - confidence) / 2
    time_s = np.where(time_s > 0, time_s, np.nan)
    low = np.where(n > 0, chi2.ppf(tail, 2 * worth * np.maximum(n, 1e-9)) / 2, 0.0)
    high = chi2.ppf(1.0 - tail, 2 * worth * n + 2) / 2
    return Rate(n, np.nan_to_num(time_s), n / time_s, low / worth / time_s, high / worth / time_s)


def hidden(
    arrivals: np.ndarray, departures: np.ndarray, empty_s: np.ndarray, occupied_s: np.ndarray, period_s: float
) -> np.ndarray:
    """How many switches there are for each that shows: between two frames a site may switch back and forth.

    A site with rates a and b differs from one frame to the next with P(arrived) + P(left) = 1 - exp(-(a + b) τ) = s,
    so a + b = -ln(1 - s) / τ where s / τ is what shows.

    Parameters
    ----------
    arrivals, departures, empty_s, occupied_s : (m,) f8, switches that show, and the time at risk of them.
    period_s : τ.

    Returns
    -------
    (m,) f8, 1 for slow sites; where more than every second frame differs nothing more is made of it.
    """
    shows = np.zeros_like(empty_s)
    for switches, time_s in ((arrivals, empty_s), (departures, occupied_s)):
        shows += np.divide(switches * period_s, time_s, out=np.zeros_like(shows), where=time_s > period_s)
    shows = np.clip(shows, 1e-9, 0.5)
    return -np.log1p(-shows) / shows


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
        self._weighted = np.zeros((3, 0))  # arrivals, departures, hops away; each by its share
        self._sites = np.zeros(0, _site)
        self._waiting = np.zeros(0, _event)

    def see(self, code: np.ndarray) -> np.ndarray:
        """Count raw flips of the newest frame; `code` (m,) as in `Sighting`. Returns (m,) bool."""
        self._grow(len(code))
        raw = self._sites["raw"]
        detected = code == DETECTED
        flipped = (code != UNOBSERVED) & (raw != _UNKNOWN) & (raw != detected)
        raw[code != UNOBSERVED] = detected[code != UNOBSERVED]
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
            new["site"], new["probability"] = switched, probability
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
        _, left, hops = self._weighted
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
            self._weighted = np.concatenate([self._weighted, np.zeros((3, new))], axis=1)

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
        for departure, arrival, probability in self._pairs(neighbours):
            if due[departure] or due[arrival]:
                a, b = waiting[departure], waiting[arrival]
                surer = a if a["probability"] > b["probability"] else b
                ends = int(a["site"]), int(b["site"])
                hops.append(Hop(int(surer["t_ns"]), int(surer["frame"]), *ends, probability))
                self.counts[2, a["site"]] += 1
                self.counts[3, b["site"]] += 1
                self._weighted[2, a["site"]] += min(a["share"], b["share"])
                gone[[departure, arrival]] = True
                due[[departure, arrival]] = False
        for event in waiting[due]:
            arrived = bool(event["arrival"])
            ends = (-1, int(event["site"])) if arrived else (int(event["site"]), -1)
            hops.append(Hop(int(event["t_ns"]), int(event["frame"]), *ends, float(event["probability"])))
            self.counts[0 if arrived else 1, event["site"]] += 1
        for row, arrived in enumerate((True, False)):
            done = waiting[gone & (waiting["arrival"] == arrived)]
            np.add.at(self._weighted[row], done["site"], done["share"])
        self._waiting = waiting[~gone]
        return sorted(hops, key=lambda hop: hop.frame)

    def _pairs(self, neighbours: np.ndarray) -> list[tuple[int, int, float]]:
        """One-to-one pairs (departure, arrival, probability) of waiting events: the most, the likeliest.

        The weight of a pair falls e²-fold with each frame between its events; its probability is that of
        both events, times its share among the pairs it competes with.
        """
        waiting = self._waiting
        departures, arrivals = np.flatnonzero(~waiting["arrival"]), np.flatnonzero(waiting["arrival"])
        if not len(departures) or not len(arrivals):
            return []
        out, into = waiting[departures], waiting[arrivals]
        apart = np.abs(out["frame"][:, None] - into["frame"])
        beside = (neighbours[out["site"]][:, None, :] == into["site"][None, :, None]).any(axis=2)
        possible = beside & (apart <= self.pair_frames)
        both = out["probability"][:, None] * into["probability"]
        weight = np.where(possible, both * np.exp(-2.0 * apart), 0.0)
        rivals = weight.sum(axis=0) + weight.sum(axis=1)[:, None] - weight
        # a pair more counts for more than any difference in likelihood
        gain = np.where(possible, 100.0 + np.log(np.maximum(weight, 1e-40)), 0.0)
        return [
            (int(departures[i]), int(arrivals[j]), float(both[i, j] * weight[i, j] / rivals[i, j]))
            for i, j in zip(*linear_sum_assignment(gain, maximize=True), strict=True)
            if possible[i, j]
        ]

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
