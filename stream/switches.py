"""How often every site switched between two times, and how long it could have: what rates are made of.

Where a result holds what every frame says of every site, the switches are those expected given all frames, at the rates
that make the evidence likeliest (`stream.together`): of the whole series as the replay found them, of a range of
time from its frames alone. Otherwise, and of older results, they are the events, counted from dwells: at low dose and
high rates fewer than there were. Which it was is in `Counts.source`.

The expected switches of a site are shared out among the numbers of its occupied neighbours frame by frame, each
switch by the neighbours before it. Which departures are hops only events tell: of a site's departures the share that
its events were hops, each by the probability of its pairings, or the mean share where it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit

from stream.dwells import by_coordination, cut, seconds, site_dwells
from stream.frame import RecordingError
from stream.likelihood import Grid, Stretch
from stream.poisson import hidden
from stream.session import Evidence, Session
from stream.together import Rates, Switching, estimate_together, smoothed_together

KINDS = ("event", "arrival", "departure", "hop")  # per time observed, empty, occupied, occupied
Source = Literal["likelihood", "events"]
_ROWS = 1024  # frames read at once


@dataclass(frozen=True, slots=True)
class Part:
    """A session between two times.

    Attributes
    ----------
    session : all of it.
    dwells : of `site_dwells`, cut to the part.
    rows : of the evidence's frames, those within; all where there is none.
    """

    session: Session
    dwells: np.ndarray
    rows: slice

    @property
    def source(self) -> Source:
        """What its switches can be had from."""
        return "events" if self.session.evidence is None else "likelihood"


@dataclass(frozen=True, slots=True)
class Counts:
    """Switches of m sites.

    Attributes
    ----------
    events : (4, m) f8, number of each of KINDS: counted, or expected.
    time_s : (4, m) f8, in which they could have happened.
    worth : (m,) f8, what the expected numbers say of the rates, against the same switches seen beyond doubt.
    source : what they are from.
    """

    events: np.ndarray
    time_s: np.ndarray
    worth: np.ndarray
    source: Source

    def of(self, which: np.ndarray) -> Counts:
        """Some of the sites."""
        return Counts(self.events[:, which], self.time_s[:, which], self.worth[which], self.source)

    @property
    def pooled_worth(self) -> float:
        """Of all together."""
        return (
            float(np.average(self.worth, weights=np.maximum(self.events[0], 1e-9)))
            if self.worth.size
            else 1.0
        )


def whole(session: Session) -> Part:
    """All of a session."""
    return Part(
        session,
        site_dwells(session),
        slice(0, 0 if session.evidence is None else len(session.evidence.frame)),
    )


def within(session: Session, first_s: float, last_s: float) -> Part:
    """A session between two times, s after the first frame; `last_s` may be inf.

    Raises
    ------
    RecordingError
        If there is nothing between them.
    """
    start_ns = int(session.t_ns[0])
    length_s = (int(session.t_ns[-1]) - start_ns) * 1e-9
    if not 0 <= first_s < min(last_s, length_s):
        raise RecordingError(
            f"no frames from {first_s:g} to {last_s:g} s: expected a range that begins within the series, "
            f"which lasts {length_s:.6g} s"
        )
    if first_s == 0 and last_s >= length_s:
        return whole(session)
    low, high = start_ns + round(first_s * 1e9), start_ns + round(min(last_s, length_s) * 1e9)
    dwells = cut(site_dwells(session), np.array([low]), np.array([high]))
    t_ns = np.empty(0) if session.evidence is None else session.evidence.t_ns
    # a frame at the end belongs to what follows, if anything does
    stop = np.searchsorted(t_ns, high, side="left" if last_s < length_s else "right")
    return Part(session, dwells, slice(int(np.searchsorted(t_ns, low)), int(stop)))


def of_sites(part: Part, source: Source | None = None) -> Counts:
    """Of every site of the session.

    Parameters
    ----------
    source : "events" counts events even where the likelihood is known; without it, the best there is.
    """
    m = len(part.session.sites)
    evidence = part.session.evidence
    if evidence is None or source == "events":
        return _from_dwells(part.dwells, m)
    return _expected(_fit(part, evidence), part.session.period_s, _hop_share(part.dwells, m))


def of_coordination(part: Part, source: Source | None = None) -> list[Counts]:
    """Of every site while it had no, one, two, ... occupied neighbours; parameters as `of_sites`."""
    session, m = part.session, len(part.session.sites)
    dwells = by_coordination(part.dwells, session)
    of_dwell = dwells["coordination"]
    evidence = session.evidence
    if evidence is None or source == "events":
        return [_from_dwells(dwells[of_dwell == k], m) for k in range(int(of_dwell.max(initial=0)) + 1)]
    fit = _fit(part, evidence)
    shares = _shared_out(part, evidence, fit)
    return [
        _expected(fit, session.period_s, _hop_share(dwells[of_dwell == k], m), share)
        for k, share in enumerate(np.moveaxis(shares, 1, 0))
    ]


def _from_dwells(dwells: np.ndarray, m: int) -> Counts:
    site, occupied, ended = dwells["site"], dwells["occupied"], dwells["ended"]
    chosen = (ended, ended & ~occupied, ended & occupied, dwells["hopped"] & occupied)
    lasted_s = seconds(dwells)
    at_risk = (lasted_s, lasted_s * ~occupied, lasted_s * occupied, lasted_s * occupied)
    events = np.stack([np.bincount(site[which], minlength=m) for which in chosen]).astype(np.float64)
    time_s = np.stack([np.bincount(site, of_kind_s, m) for of_kind_s in at_risk])
    return Counts(events, time_s, np.ones(m), "events")


@dataclass(frozen=True, slots=True)
class _Fit:
    """Chances per frame to arrive and to leave (2, m), their worth (m,), and time empty and occupied (2, m) in s.

    `switching` is what they come from, where it was estimated for this.
    """

    chance: np.ndarray
    worth: np.ndarray
    time_s: np.ndarray
    switching: Switching | None


def _fit(part: Part, evidence: Evidence) -> _Fit:
    """The likeliest rates of a part; those of the whole series are in the table of sites."""
    session, sites = part.session, part.session.sites
    some, switching = Stretch(evidence, part.rows), None
    if len(some.frame) == len(evidence.frame):
        occupied_s = sites["occupied_s"].astype(np.float64)
        time_s = np.stack([np.maximum(sites["observed_s"] - occupied_s, 0.0), occupied_s])
        switches = np.stack([sites["arrivals"], sites["departures"]]) * session.period_s
        chance = np.divide(switches, time_s, out=np.zeros_like(time_s), where=time_s > 0)
        worth = sites["worth"].astype(np.float64)
    elif len(some.frame) < 2:
        chance, worth, time_s = np.zeros((2, len(sites))), np.ones(len(sites)), np.zeros((2, len(sites)))
    else:
        found = _estimated(part, some)
        chance, worth, switching = found.chance, found.worth, found.switching
        time_s = _time_s(part, evidence)
    return _Fit(chance, worth, np.where(session.merged_into >= 0, 0.0, time_s), switching)


def _estimated(part: Part, some: Stretch) -> Rates:
    return estimate_together(some, Grid.of(some.t_ns, part.session.period_s), part.session.neighbours)


def _time_s(part: Part, evidence: Evidence) -> np.ndarray:
    """(2, m) f8, expected time empty and occupied, as far as observed."""
    every = slice(0, evidence.sites)
    total = np.zeros((2, evidence.sites))
    for first in range(part.rows.start, part.rows.stop, _ROWS):
        rows = slice(first, min(first + _ROWS, part.rows.stop))
        observed = np.isfinite(evidence.log_ratio(rows, every))
        p = evidence.smoothed(rows, every)
        total += [np.where(observed, 1 - p, 0.0).sum(axis=0), np.where(observed, p, 0.0).sum(axis=0)]
    return total * part.session.period_s


def _expected(fit: _Fit, period_s: float, hop_share: np.ndarray, share: np.ndarray | float = 1.0) -> Counts:
    """What is expected of all sites; `share` (4, m) of the arrivals, departures, and time empty and occupied."""
    empty_s, occupied_s = fit.time_s
    arrivals, departures = fit.chance * fit.time_s / period_s
    more = hidden(arrivals, departures, empty_s, occupied_s, period_s)
    all_ = np.stack([arrivals * more, departures * more, empty_s, occupied_s]) * share
    arrivals, departures, empty_s, occupied_s = all_
    events = np.stack([arrivals + departures, arrivals, departures, departures * hop_share])
    time_s = np.stack([empty_s + occupied_s, empty_s, occupied_s, occupied_s])
    return Counts(events, time_s, fit.worth, "likelihood")


def _hop_share(dwells: np.ndarray, m: int) -> np.ndarray:
    """(m,) f8, the share of hops among the departures that were seen as events: one that may have been a hop counts by
    the probability of that."""
    left = dwells[dwells["ended"] & dwells["occupied"]]
    departures = np.bincount(left["site"], minlength=m)
    hops = np.bincount(left["site"], left["hop_share"], m)
    mean = hops.sum() / max(departures.sum(), 1)
    return np.divide(hops, departures, out=np.full(m, mean), where=departures > 0)


def _shared_out(part: Part, evidence: Evidence, fit: _Fit) -> np.ndarray:
    """(4, k + 1, m) f8, the share of each site's arrivals, departures, and time empty and occupied that it had while so
    many of its k neighbours were occupied."""
    neighbours = part.session.neighbours
    some = Stretch(evidence, part.rows)
    total = np.zeros((4, neighbours.shape[1] + 1, evidence.sites))
    if len(some.frame) < 2:
        return total
    never = fit.time_s.sum(axis=0) == 0
    grid = Grid.of(some.t_ns, part.session.period_s)
    switching = fit.switching or _estimated(part, some).switching
    for window, posterior, _ in smoothed_together(some, grid, neighbours, switching):
        first = max(window.first, 1)  # nothing is known of before the first frame
        before = slice(part.rows.start + first - 1, part.rows.start + window.last - 1)
        beside = np.where(never, 0.0, evidence.smoothed(before, slice(0, evidence.sites)))
        frames = slice(first - window.first, window.last - window.first)
        rows = window.rows[frames]
        # across a long gap nobody knows which neighbours there were
        told = np.isfinite(window.log_ratio[frames]) & (window.steps[rows] == 1)[:, None]
        p, up, down = posterior
        _share_out(p[rows - 1], up[rows], down[rows], told, np.nan_to_num(beside), neighbours, total)
    all_ = total.sum(axis=1, keepdims=True)
    return np.divide(total, all_, out=np.zeros_like(total), where=all_ > 0)


@njit(cache=True, nogil=True)
def _share_out(p, up, down, told, beside, neighbours, total):
    """Add to `total` (4, classes, m) what each class of coordination has of the frames.

    `p`, `beside` (n, m): P(occupied) before each frame, of a site and of the others as its neighbours; `up`, `down`
    (n, m): P(arrived) and P(left) in it; `told` (n, m): whether it counts.
    """
    chance = np.zeros(total.shape[1])  # of so many occupied neighbours
    for t in range(len(p)):
        for k in range(p.shape[1]):
            if not told[t, k]:
                continue
            chance[:] = 0.0
            chance[0] = 1.0
            for n in neighbours[k]:
                if n >= 0:
                    there = beside[t, n]
                    for c in range(len(chance) - 1, 0, -1):
                        chance[c] = chance[c] * (1.0 - there) + chance[c - 1] * there
                    chance[0] *= 1.0 - there
            for c in range(len(chance)):
                total[0, c, k] += up[t, k] * chance[c]
                total[1, c, k] += down[t, k] * chance[c]
                total[2, c, k] += (1.0 - p[t, k]) * chance[c]
                total[3, c, k] += p[t, k] * chance[c]
