"""Is there a column at this site? A two-state hidden Markov model for each, fed with evidence.

Forward filter for now, smoother a fixed number of frames later for the record. Transitions are rates,
integrated over the time that really passed; a frame that was not seen is time without evidence.
Columns are conserved: before anything is settled, neighbouring sites tell each other what they saw of a hop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.beside import alone_of, share_alone
from stream.fixed_lag import FixedLag
from stream.markov import advance, tally

_FASTEST, _SLOWEST = 20.0, 0.1  # a site's rates stay within these multiples of the start value
_PRIOR_SWITCHES = 1.0  # weight of the start value against a site's own record, in switches
_SHORTEST = 200.0  # frames of a site's record that its rates are drawn from, or half of it if that is more:
# what was made of the first frames, with rates that were only assumed, must not be held for what happened
FAST = 0.03  # rate × frame period from which one event in ten is missed


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Occupancy of every site.

    Attributes
    ----------
    p_occupied : (m,) f4, given all frames so far.
    observed_s : (m,) f8, time the site was seen, up to the last smoothed frame.
    occupied_s : (m,) f8, the part of it in which it was occupied (expected value).
    arrivals, departures : (m,) f8, expected number of either in the time observed: what the evidence leaves open counts
        by its probability, and is not lost as in a count of events.
    fast : (m,) bool, switches so often that more than one event in ten falls between the frames:
        rates are then too low.
    version : frames filtered so far.
    worth : (m,) f8, how much the evidence says of the rates, against the same switches seen beyond doubt: 1 at high
        dose. It widens the intervals.
    """

    p_occupied: np.ndarray
    observed_s: np.ndarray
    occupied_s: np.ndarray
    arrivals: np.ndarray
    departures: np.ndarray
    fast: np.ndarray
    version: int
    worth: np.ndarray


@dataclass(frozen=True, slots=True)
class Smoothed:
    """Occupancy in one frame, given frames before and after it.

    Attributes
    ----------
    frame, t_ns : of that frame.
    elapsed_s : since the analysed frame before it.
    p_occupied : (m,) f8.
    observed : (m,) bool.
    """

    frame: int
    t_ns: int
    elapsed_s: float
    p_occupied: np.ndarray
    observed: np.ndarray


class OccupancyFilter:
    """The hidden Markov models of all sites.

    Parameters
    ----------
    frame_period_s : the time one observed frame stands for.
    lag : frames that the smoother looks ahead.
    rate_hz : switches per second of one site, either way, to begin with; each site's own are
        learned. By default one in 50 frames.

    Raises
    ------
    ValueError
        For a period, lag or rate that is not positive.
    """

    def __init__(self, frame_period_s: float, *, lag: int = 10, rate_hz: float | None = None) -> None:
        rate_hz = 0.02 / frame_period_s if rate_hz is None and frame_period_s > 0 else rate_hz
        if not 0 < frame_period_s < np.inf or lag < 1 or rate_hz is None or not 0 < rate_hz < np.inf:
            raise ValueError(
                "the occupancy filter needs a frame period, a lag and a rate above 0, "
                f"got {frame_period_s} s, {lag} and {rate_hz} Hz"
            )
        self.frame_period_s, self.lag, self.rate_hz = frame_period_s, lag, rate_hz
        self._slots = lag + 2
        self._count = 0
        self._finished = False
        self._when = np.zeros((self._slots, 2), np.int64)  # frame, t_ns
        self._elapsed_s = np.zeros(self._slots)
        # per slot of the ring and site: P(occupied) so far, the evidence as a likelihood ratio, and P(arrived) and
        # P(left) before any evidence
        self._forward, self._ratio = (np.empty((self._slots, 0)) for _ in range(2))
        self._own = np.empty((2, self._slots, 0))
        self._settled = np.empty(0)  # P(occupied) in the last frame smoothed, given its past
        self._observed = np.empty((self._slots, 0), np.bool_)
        self._time_s = np.empty((2, 0))  # observed, occupied
        self._switches = np.empty((2, 0))  # expected arrivals and departures
        self._explained = np.zeros(2)  # switches that no neighbour's explains, and all
        self._recent = np.empty((2, 2, 0))  # expected switches, and time at risk of them in s; the past fades
        self._resting = np.empty(0, np.bool_)  # sites that nobody looks at
        self._smoother = FixedLag(self._slots)

    def __len__(self) -> int:
        return self._forward.shape[1]

    @property
    def p_occupied(self) -> np.ndarray:
        """(m,) f8, P(occupied | all frames so far)."""
        return self._forward[self._slot(0)].copy() if self._count else np.full(len(self), 0.5)

    @property
    def rates_hz(self) -> np.ndarray:
        """(2, m) f8, arrivals per second empty and departures per second occupied, as assumed now."""
        switches, at_risk_s = self._recent
        rate = (_PRIOR_SWITCHES + switches) / (_PRIOR_SWITCHES / self.rate_hz + at_risk_s)
        return np.clip(rate, _SLOWEST * self.rate_hz, _FASTEST * self.rate_hz)

    def snapshot(self) -> Occupancy:
        """The occupancy as it is known now; copies."""
        fast = np.any(self.rates_hz * self.frame_period_s > FAST, axis=0)
        observed_s, occupied_s = self._time_s.copy()
        p = self.p_occupied.astype(np.float32)
        arrivals, departures = self._switches.copy()
        return Occupancy(
            p, observed_s, occupied_s, arrivals, departures, fast, self._count, np.ones(len(self))
        )

    def _slot(self, back: int) -> int:
        """Where the update `back` updates ago is kept."""
        return (self._count - 1 - back) % self._slots

    def elapsed_s(self, frame: int, t_ns: int) -> float:
        """Time since the last update; the frame period for the first.

        Raises
        ------
        ValueError
            If frame or time do not come after the last.
        """
        if not self._count:
            return self.frame_period_s
        last, last_ns = self._when[self._slot(0)]
        if frame <= last or t_ns <= last_ns:
            raise ValueError(
                f"frame {frame} at {t_ns} ns is out of order: expected one after frame {last} at {last_ns} ns; "
                "give every frame once, in order, with the detector's clock"
            )
        return float(t_ns - last_ns) * 1e-9

    def add(
        self, log_ratio: np.ndarray, observed: np.ndarray, empty_frames: np.ndarray | float = 0.0
    ) -> None:
        """Take new sites in, with what the past frames say of them.

        Parameters
        ----------
        log_ratio : (k, b) f8, of b sites in the k past updates, oldest first; k at least lag + 1, or
            all updates so far.
        observed : (k, b) bool.
        empty_frames : (b,), in how many frames before those the place was observed, and empty.
        """
        new = log_ratio.shape[1]
        self._check_history(len(log_ratio))
        for name, value in (("_forward", 0.5), ("_own", 0.0), ("_ratio", 1.0), ("_observed", False)):
            array = getattr(self, name)
            fresh = np.full((*array.shape[:-1], new), value)
            setattr(self, name, np.concatenate([array, fresh], axis=-1))
        for name in ("_time_s", "_switches", "_recent", "_settled", "_resting"):
            array = getattr(self, name)
            setattr(
                self, name, np.concatenate([array, np.zeros((*array.shape[:-1], new), array.dtype)], axis=-1)
            )
        self.begin(np.arange(len(self) - new, len(self)), log_ratio, observed, empty_frames)

    def begin(
        self,
        site: np.ndarray,
        log_ratio: np.ndarray,
        observed: np.ndarray,
        empty_frames: np.ndarray | float = 0.0,
    ) -> None:
        """Look at sites (b,) that rested so far; `log_ratio`, `observed` and `empty_frames` of them as in `add`."""
        self._check_history(len(log_ratio))
        # frames that were smoothed for the other sites already
        seen, full = observed[: -self.lag], observed[: -self.lag] & (log_ratio[: -self.lag] > 0)
        frames = np.stack([empty_frames + seen.sum(axis=0), full.sum(axis=0)]) * self.frame_period_s
        self._time_s[:, site] += frames
        self._recent[1][:, site] += np.stack([frames[0] - frames[1], frames[1]])
        self._resting[site] = False
        for back in range(min(self._count, self._slots, len(log_ratio))):
            s = self._slot(back)
            self._ratio[s, site] = _odds(log_ratio[-1 - back])
            self._observed[s, site] = observed[-1 - back]
        self._filter_again(site, min(self._count, self._slots, len(log_ratio)))

    def rest(self, site: np.ndarray) -> None:
        """Look at sites (b,) no more: they count as empty, and as not observed."""
        self._resting[site] = True
        for array, value in ((self._forward, 0.0), (self._ratio, 1.0), (self._observed, False)):
            array[:, site] = value
        self._settled[site] = 0.0

    def merge(self, a: int, b: int, exchanged: int) -> None:
        """Site a takes in site b, in the same place; `exchanged` hops from one to the other were none.

        What was seen at either was seen at one site: it was occupied whenever one of them was.
        """
        self._ratio[:, a] = self._ratio[:, [a, b]].max(axis=1)
        self._observed[:, a] |= self._observed[:, b]
        (observed_a, observed_b), (occupied_a, occupied_b) = self._time_s[:, [a, b]]
        observed_s = max(observed_a, observed_b)
        self._time_s[:, a] = observed_s, min(occupied_a + occupied_b, observed_s)
        self._switches[:, a] = np.maximum(self._switches[:, [a, b]].sum(axis=1) - exchanged, 0.0)
        self._recent[0, :, a] = np.maximum(self._recent[0][:, [a, b]].sum(axis=1) - exchanged, 0.0)
        empty_s, occupied_s = self._recent[1][:, [a, b]]
        self._recent[1, :, a] = max(empty_s[0] - occupied_s[1], 0.0), occupied_s.sum()
        for array in (self._time_s, self._switches, self._recent):
            array[..., b] = 0.0
        self._filter_again(np.array([a]), min(self._count, self._slots))
        self.rest(np.array([b]))

    def _check_history(self, frames: int) -> None:
        needed = min(self._count, self.lag + 1)
        if frames < needed:
            raise ValueError(f"new sites come with {frames} frames of history, {needed} are needed")

    def _filter_again(self, site: np.ndarray, updates: int) -> None:
        """The forward filter of sites (b,) over the last `updates`, from what is in the ring of them."""
        p = np.full(len(site), 0.5)
        arrive_hz, leave_hz = self.rates_hz[:, site]
        for back in range(updates - 1, -1, -1):
            s = self._slot(back)
            out, arrive, leave = np.empty((3, len(site)))
            advance(p, arrive_hz, leave_hz, self._elapsed_s[s], self._ratio[s, site], out, arrive, leave)
            self._forward[s, site], self._own[:, s, site] = out, (arrive, leave)
            p = out
        self._settled[site] = self._forward[self._slot(self.lag), site] if self._count > self.lag else 0.5

    def update(
        self, frame: int, t_ns: int, log_ratio: np.ndarray, observed: np.ndarray, neighbours: np.ndarray
    ) -> Smoothed | None:
        """Filter one frame; give the smoothed occupancy of the frame `lag` updates earlier.

        Parameters
        ----------
        frame, t_ns : index and detector clock.
        log_ratio : (m,), log P(what was seen | occupied) / P(... | empty); 0 where not observed.
        observed : (m,) bool.
        neighbours : (m, k) i8, the sites between which columns may hop, then -1; (m, 0) for none.

        Raises
        ------
        ValueError
            Out of order, not finite, after `finish`, or for another number of sites.
        """
        if self._finished:
            raise ValueError("the series was finished; start a new filter for the next")
        if len(log_ratio) != len(self) or not np.isfinite(log_ratio).all():
            raise ValueError(
                f"frame {frame}: expected {len(self)} finite log-likelihood ratios, got {len(log_ratio)}"
                f" with {np.count_nonzero(~np.isfinite(log_ratio))} that are not finite"
            )
        elapsed_s = self.elapsed_s(frame, t_ns)
        p = self.p_occupied
        self._count += 1
        s = self._slot(0)
        self._when[s] = frame, t_ns
        self._elapsed_s[s] = elapsed_s
        self._ratio[s] = _odds(log_ratio)
        self._observed[s] = observed
        out, (arrive, leave) = self._forward[s], self._own[:, s]
        arrive_hz, leave_hz = self.rates_hz
        advance(p, arrive_hz, leave_hz, elapsed_s, self._ratio[s], out, arrive, leave)
        out[self._resting] = 0.0
        return self._smooth(self.lag, neighbours) if self._count > self.lag else None

    def finish(self, neighbours: np.ndarray) -> list[Smoothed]:
        """The frames not smoothed yet, oldest first; nothing more is taken after that."""
        self._finished = True
        return [self._smooth(back, neighbours) for back in range(min(self.lag, self._count) - 1, -1, -1)]

    def _smooth(self, back: int, neighbours: np.ndarray) -> Smoothed:
        """Smooth the frame `back` updates ago; the frame before it was smoothed last."""
        slots = np.array([self._slot(b) for b in range(back + 1, -1, -1)])
        now = slots[1]
        alone = alone_of(neighbours, share_alone(self._explained))
        together, by_itself, self._settled = self._smoother.smooth(
            slots, self._forward, self._own, self._ratio, self._settled, neighbours, alone
        )
        if back == self._count - 1:
            together[1:] = 0.0  # the first frame of all tells no switch, for nothing is known of before
        self._explained += np.vdot(together[1:], by_itself), together[1:].sum()
        observed = self._observed[now].copy()
        # across a gap, only the share of the switches that falls into observed time
        share = min(1.0, self.frame_period_s / self._elapsed_s[now])
        tally(
            *(together, observed, self.frame_period_s, share, _SHORTEST),
            *(self._time_s, self._switches, self._recent),
        )
        frame, t_ns = self._when[now].tolist()
        return Smoothed(frame, t_ns, float(self._elapsed_s[now]), together[0], observed)

    _FIELDS = (
        *("_when", "_elapsed_s", "_forward", "_own", "_ratio"),
        *("_observed", "_settled", "_time_s", "_switches", "_explained", "_recent", "_resting"),
    )

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        state = {name.strip("_"): getattr(self, name).copy() for name in self._FIELDS}
        return state | {"count": np.array([self._count, self._finished])}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of a filter made with the same arguments."""
        for name in self._FIELDS:
            setattr(self, name, np.array(state[name.strip("_")]))
        self._count, self._finished = int(state["count"][0]), bool(state["count"][1])


def _odds(log_ratio: np.ndarray) -> np.ndarray:
    """Likelihood ratios, bounded so that no single frame decides for ever."""
    return np.exp(np.clip(log_ratio, -30.0, 30.0))
