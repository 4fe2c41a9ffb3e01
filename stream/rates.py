"""Rates and dwell times of a session, per site, facet or coordination: what the commands tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stream.dwells import seconds
from stream.facets import Facets, find_facets
from stream.frame import CalibrationError
from stream.kinetics import (
    SHORTEST_FRAMES,
    TOO_BIASED,
    Survival,
    bootstrap_rate,
    enough_sites,
    missed_share,
    survival,
)
from stream.poisson import rate
from stream.session import Session
from stream.switches import KINDS, Counts, Part, Source, of_coordination, of_sites

By = Literal["all", "site", "facet", "coordination"]
Per = Literal["s", "e"]
STATES = (("occupied", True), ("empty", False))
_FASTEST = np.log(2)  # to and fro per frame: from there on what falls between frames is not known any more


@dataclass(frozen=True, slots=True)
class RateRow:
    """One rate.

    Attributes
    ----------
    group : the class of sites: "all", a site's number, a facet, or a number of occupied neighbours.
    kind : "event" (any switch, per time observed), "arrival" (per time empty), "departure" and "hop"
        (a departure to a neighbouring site; both per time occupied).
    sites : with time at risk.
    events : counted, or expected.
    at_risk : time in s, or dose in e/nm², during which such an event could happen and be seen.
    rate, low, high : per s, or per e/nm², with the 95 % interval; NaN without time at risk.
    interval : "Garwood" or "bootstrap", see `stream.kinetics`.
    missed_share : at most this share of the events was missed, at the rates measured; the rate is too low by no
        more than it. 0 from the likelihood, which counts them by what is to be expected.
    fast : `missed_share` is above 0.1, or from the likelihood, more than every second frame shows a switch; the rate
        is a lower bound.
    source : "likelihood" or "events", see `stream.switches`.
    """

    group: str
    kind: str
    sites: int
    events: float
    at_risk: float
    rate: float
    low: float
    high: float
    interval: str
    missed_share: float
    fast: bool
    source: Source


def session_facets(session: Session) -> Facets:
    """The facets of the session's largest particle."""
    sites = session.sites
    seen = sites["observed_s"] > 0
    occurrence = np.divide(sites["occupied_s"], sites["observed_s"], out=np.zeros(len(sites)), where=seen)
    return find_facets(session.yx_nm, occurrence, session.neighbours, session.spacing_nm)


def rate_rows(part: Part, by: By, per: Per, rng: np.random.Generator) -> list[RateRow]:
    """Rates of each group and kind; groups without time at risk are left out.

    Raises
    ------
    CalibrationError
        Per electron dose, where the dose rate is not known.
    """
    session = part.session
    scale = 1.0 if per == "s" else dose_rate(session)
    least = least_s(part, part.source)
    rows = []
    for label, counts in groups(part, by, part.source):
        total, total_s = counts.events.sum(axis=1), counts.time_s.sum(axis=1)
        missed, fast = _missed(counts, session.period_s)
        for k, kind in enumerate(KINDS):
            if not total_s[k] > least:
                continue
            seen = counts.time_s[k] > 0
            low, high, interval = interval_of(counts.of(seen), k, rng)
            value = total[k] / total_s[k]
            rows.append(
                RateRow(
                    label, kind, int(seen.sum()), float(total[k]), float(total_s[k] * scale), float(value / scale),
                    low / scale, high / scale, interval, missed, fast, counts.source,
                )
            )  # fmt: skip
    return rows


def interval_of(counts: Counts, kind: int, rng: np.random.Generator) -> tuple[float, float, str]:
    """The 95 % interval of a class's rate of one of KINDS, per second, and which: see `stream.kinetics`.

    Sites scatter by what is different about them and by what the evidence leaves open, so a bootstrap over them holds
    both; Garwood's interval is widened by the counts' worth.
    """
    events, time_s = counts.events[kind], counts.time_s[kind]
    if enough_sites(events, time_s, counts.pooled_worth):
        return *bootstrap_rate(events, time_s, rng), "bootstrap"
    exact = rate(events.sum(), time_s.sum(), worth=counts.pooled_worth)
    return float(exact.low_hz), float(exact.high_hz), "Garwood"


def fast_sites(part: Part) -> int:
    """How many sites switch so fast that their own rates are lower bounds: `RateRow.fast` of each by itself."""
    counts, period_s = of_sites(part), part.session.period_s
    limit_hz, least = _fastest_hz(counts.source, period_s), least_s(part, counts.source)
    switches_hz = np.divide(
        counts.events[1:3], counts.time_s[1:3], out=np.zeros_like(counts.time_s[1:3]), where=counts.time_s[1:3] > least
    )  # fmt: skip
    return int((switches_hz.sum(axis=0) >= limit_hz).sum())


def _missed(counts: Counts, period_s: float) -> tuple[float, bool]:
    """The share of the events that may be missing, and whether the rate is a lower bound."""
    total, total_s = counts.events.sum(axis=1), counts.time_s.sum(axis=1)
    arrival_hz, departure_hz = np.divide(total[1:3], total_s[1:3], out=np.zeros(2), where=total_s[1:3] > 0)
    fast = bool(arrival_hz + departure_hz >= _fastest_hz(counts.source, period_s))
    if counts.source == "likelihood":
        return 0.0, fast
    return missed_share(arrival_hz, departure_hz, (SHORTEST_FRAMES + 0.5) * period_s), fast


def _fastest_hz(source: Source, period_s: float) -> float:
    """Arrivals per time empty and departures per time occupied, together, from which on they are a lower bound."""
    if source == "likelihood":
        return _FASTEST / period_s
    return -np.log1p(-TOO_BIASED) / ((SHORTEST_FRAMES + 0.5) * period_s)


def dwell_survival(dwells: np.ndarray, occupied: bool) -> Survival:
    """Kaplan-Meier's estimate of the dwells whose beginning was seen."""
    whole = dwells[(dwells["occupied"] == occupied) & dwells["begun"]]
    return survival(seconds(whole), whole["ended"])


def survival_rows(part: Part) -> list[dict[str, Any]]:
    """Kaplan-Meier's curves of occupied and empty dwells: state, time_s, survival with its 95 % band, and at_risk, the
    dwells that lasted to that time. A value holds from its time to the next; none of a state without a beginning."""
    rows = []
    for state, occupied in STATES:
        curve = dwell_survival(part.dwells, occupied)
        columns = (curve.time_s, curve.survival, curve.low, curve.high, curve.at_risk)
        names = ("time_s", "survival", "low", "high", "at_risk")
        if curve.at_risk[0]:
            points = zip(*(column.tolist() for column in columns), strict=True)
            rows += [{"state": state, **dict(zip(names, point, strict=True))} for point in points]
    return rows


def dwell_summary(part: Part) -> list[dict[str, Any]]:
    """Of occupied and empty dwells: how many, how censored, the median and the mean if exponential.

    The mean, 1 / rate, is of all switches and all time; the median is Kaplan-Meier's, of dwells as events tell them.
    If they disagree by more than ln 2, dwells are not all of one rate, or events were missed.
    """
    dwells, counts = part.dwells, of_sites(part)
    rows = []
    for state, occupied in STATES:
        left = KINDS.index("departure" if occupied else "arrival")
        mine = dwells[dwells["occupied"] == occupied]
        curve = dwell_survival(dwells, occupied)
        median, low, high = curve.median_s()
        ends, time_s = counts.events[left].sum(), counts.time_s[left].sum()
        exponential = rate(ends, time_s, worth=counts.pooled_worth)
        with np.errstate(divide="ignore"):
            mean, mean_low, mean_high = (
                float(1 / np.float64(end))
                for end in (exponential.rate_hz, exponential.high_hz, exponential.low_hz)
            )
        rows.append(
            {
                "state": state,
                "dwells": len(mine),
                "beginning_unseen": int((~mine["begun"]).sum()),
                "end_unseen": int((~mine["ended"]).sum()),
                "median_s": median,
                "median_low_s": low,
                "median_high_s": high,
                "exponential_mean_s": mean,
                "exponential_low_s": mean_low,
                "exponential_high_s": mean_high,
            }
        )
    return rows


def groups(part: Part, by: By, source: Source) -> list[tuple[str, Counts]]:
    """Each group's label, and the counts of its sites; groups without time are left out."""
    if by == "coordination":
        all_ = [(str(k), counts) for k, counts in enumerate(of_coordination(part, source))]
    else:
        counts = of_sites(part, source)
        if by == "site":
            all_ = [(str(k), counts.of(np.array([k]))) for k in range(len(part.session.sites))]
        elif by == "facet":
            facets = session_facets(part.session)
            facet = facets.facet % (len(facets.normal_deg) + 2)
            all_ = [(label, counts.of(facet == k)) for k, label in enumerate(facets.labels)]
        else:
            all_ = [("all", counts)]
    return [group for group in all_ if group[1].time_s[0].sum() > least_s(part, source)]


def least_s(part: Part, source: Source) -> float:
    """Time at risk from which a rate is told: by the likelihood, a class that never was has the shadow of a time."""
    return 0.0 if source == "events" else part.session.period_s


def dose_rate(session: Session) -> float:
    """Electrons per nm² and s.

    Raises
    ------
    CalibrationError
        Where it is not known.
    """
    e_nm2_s = session.header.dose_rate_e_nm2_s
    if not e_nm2_s:
        raise CalibrationError(
            "rates per electron need the dose rate, and the series has none: expected dose_rate_e_nm2_s in the "
            "stream or camera.dose_rate_e_nm2_s in site.toml at the time of the replay; replay with it, or ask per s"
        )
    return e_nm2_s
