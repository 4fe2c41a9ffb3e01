"""Rates of a session, per site, facet or coordination, and two sessions compared: what the commands tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import false_discovery_control

from stream.dwells import by_coordination, cut, seconds, site_dwells
from stream.facets import INSIDE, Facets, find_facets
from stream.frame import CalibrationError, RecordingError
from stream.hopping import rate
from stream.kinetics import (
    LEAST_EVENTS,
    LEAST_SITES,
    SHORTEST_FRAMES,
    TOO_BIASED,
    Survival,
    bootstrap_rate,
    bootstrap_ratio,
    log_rank,
    missed_share,
    rate_ratio,
    survival,
)
from stream.session import Session

By = Literal["all", "site", "facet", "coordination"]
Per = Literal["s", "e"]
KINDS = ("event", "arrival", "departure", "hop")  # per time observed, empty, occupied, occupied


@dataclass(frozen=True, slots=True)
class RateRow:
    """One rate.

    Attributes
    ----------
    group : the class of sites: "all", a site's number, a facet, or a number of occupied neighbours.
    kind : "event" (any switch, per time observed), "arrival" (per time empty), "departure" and "hop"
        (a departure to a neighbouring site; both per time occupied).
    sites : with time at risk.
    events : counted.
    at_risk : time in s, or dose in e/nm², during which such an event could happen and be seen.
    rate, low, high : per s, or per e/nm², with the 95 % interval; NaN without time at risk.
    interval : "Garwood" or "bootstrap", see `stream.kinetics`.
    missed_share : at most this share of the events fell between frames, at the rates measured; the
        rate is too low by no more than it.
    fast : `missed_share` is above 0.1; the rate is a lower bound.
    """

    group: str
    kind: str
    sites: int
    events: int
    at_risk: float
    rate: float
    low: float
    high: float
    interval: str
    missed_share: float
    fast: bool


def session_facets(session: Session) -> Facets:
    """The facets of the session's largest particle."""
    sites = session.sites
    seen = sites["observed_s"] > 0
    occurrence = np.divide(sites["occupied_s"], sites["observed_s"], out=np.zeros(len(sites)), where=seen)
    return find_facets(session.yx_nm, occurrence, session.neighbours, session.spacing_nm)


def within(session: Session, dwells: np.ndarray, first_s: float, last_s: float) -> np.ndarray:
    """The dwells between two times, s after the first frame; `last_s` may be inf.

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
    last_s = min(last_s, length_s)
    return cut(
        dwells, np.array([start_ns + round(first_s * 1e9)]), np.array([start_ns + round(last_s * 1e9)])
    )


def rate_rows(
    session: Session, by: By, per: Per, rng: np.random.Generator, dwells: np.ndarray | None = None
) -> list[RateRow]:
    """Rates of each group and kind; groups without time at risk are left out.

    Raises
    ------
    CalibrationError
        Per electron dose, where the dose rate is not known.
    """
    scale = 1.0 if per == "s" else _dose_rate(session)
    dwells = site_dwells(session) if dwells is None else dwells
    dead_s = (SHORTEST_FRAMES + 0.5) * session.period_s
    rows = []
    for label, events, time_s in _groups(session, dwells, by):
        total, total_s = events.sum(axis=1), time_s.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            arrival_hz, departure_hz = np.nan_to_num(total[1:3] / total_s[1:3], posinf=0.0)
        missed = missed_share(arrival_hz, departure_hz, dead_s)
        for k, kind in enumerate(KINDS):
            if not total_s[k] > 0:
                continue
            seen = time_s[k] > 0
            low, high, interval = interval_of(events[k, seen], time_s[k, seen], rng)
            value = total[k] / total_s[k]
            rows.append(
                RateRow(
                    label, kind, int(seen.sum()), int(total[k]), float(total_s[k] * scale), float(value / scale),
                    low / scale, high / scale, interval, missed, missed > TOO_BIASED,
                )
            )  # fmt: skip
    return rows


def interval_of(events: np.ndarray, time_s: np.ndarray, rng: np.random.Generator) -> tuple[float, float, str]:
    """The 95 % interval of a class's rate, per second, and which: see `stream.kinetics`."""
    if len(events) >= LEAST_SITES and events.sum() >= LEAST_EVENTS:
        return *bootstrap_rate(events, time_s, rng), "bootstrap"
    exact = rate(events.sum(), time_s.sum())
    return float(exact.low_hz), float(exact.high_hz), "Garwood"


def dwell_survival(dwells: np.ndarray, occupied: bool) -> Survival:
    """Kaplan-Meier's estimate of the dwells whose beginning was seen."""
    whole = dwells[(dwells["occupied"] == occupied) & dwells["begun"]]
    return survival(seconds(whole), whole["ended"])


def dwell_summary(dwells: np.ndarray) -> list[dict[str, Any]]:
    """Of occupied and empty dwells: how many, how censored, the median and the mean if exponential.

    The mean, 1 / rate, counts all time and every end, so it needs no beginning; the median is
    Kaplan-Meier's. If they disagree by more than ln 2, dwells are not all of one rate.
    """
    rows = []
    for state, occupied in (("occupied", True), ("empty", False)):
        mine = dwells[dwells["occupied"] == occupied]
        curve = dwell_survival(dwells, occupied)
        median, low, high = curve.median_s()
        exponential = rate(int(mine["ended"].sum()), float(seconds(mine).sum()))
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


def compare(
    first: tuple[Session, np.ndarray], second: tuple[Session, np.ndarray], by: By, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rates and dwell times of two conditions: second against first.

    Parameters
    ----------
    first, second : a session and its dwells, of two result files or of two ranges of time of one.
    by : "site" and "facet" only for two ranges of one session, whose sites are the same.

    Returns
    -------
    A row per group and kind: counts, times, rate ratio with its exact interval and p-value, the interval
    of a bootstrap over sites, and the p-value adjusted for all groups of the kind (Benjamini and Hochberg,
    which bounds the share of false ones among those called different). A row per state: log-rank test of the dwells,
    its variance by sites.
    """
    same = first[0] is second[0]
    if by in ("site", "facet") and not same:
        raise RecordingError(
            f"sites and facets of two result files have no names in common: expected to compare by all or "
            f"coordination, got {by}; or give one file and two ranges of time"
        )
    sides = [{label: rest for label, *rest in _groups(s, d, by)} for s, d in (first, second)]
    rows: list[dict[str, Any]] = []
    for label in sides[0]:
        if label not in sides[1]:
            continue
        (n1, t1), (n2, t2) = sides[0][label], sides[1][label]
        for k, kind in enumerate(KINDS):
            time1, time2 = float(t1[k].sum()), float(t2[k].sum())
            if not min(time1, time2) > 0:
                continue
            test = rate_ratio(int(n1[k].sum()), time1, int(n2[k].sum()), time2)
            low, high = bootstrap_ratio((n1[k], t1[k]), (n2[k], t2[k]), rng, paired=same)
            rows.append(
                {
                    "group": label,
                    "kind": kind,
                    "events": [int(n1[k].sum()), int(n2[k].sum())],
                    "at_risk_s": [time1, time2],
                    "rate_hz": [float(n1[k].sum() / time1), float(n2[k].sum() / time2)],
                    "ratio": test.ratio,
                    "ratio_low": test.low,
                    "ratio_high": test.high,
                    "sites_low": low,
                    "sites_high": high,
                    "p_value": test.p_value,
                }
            )
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        adjusted = false_discovery_control([row["p_value"] for row in mine])
        for row, p_value in zip(mine, adjusted, strict=True):
            row["p_adjusted"] = float(p_value)
    apart = 0 if same else len(first[0].sites)  # sites of two files are different ones
    return rows, [_compare_dwells(first[1], second[1], state, apart) for state in (True, False)]


def _compare_dwells(first: np.ndarray, second: np.ndarray, occupied: bool, apart: int) -> dict[str, Any]:
    a, b = whole = [d[(d["occupied"] == occupied) & d["begun"]] for d in (first, second)]
    test = log_rank(*((seconds(d), d["ended"]) for d in whole), sites=(a["site"], b["site"] + apart))
    return {
        "state": "occupied" if occupied else "empty",
        "dwells": [len(d) for d in whole],
        "ended": test.ended.tolist(),
        "median_s": [survival(seconds(d), d["ended"]).median_s()[0] for d in whole],
        "hazard_ratio": test.hazard_ratio,
        "hazard_low": test.low,
        "hazard_high": test.high,
        "p_value": test.p_value,
    }


def _groups(session: Session, dwells: np.ndarray, by: By) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Each group's label, events (kinds, m) and time at risk (kinds, m) of every site."""
    m = len(session.sites)
    if by == "coordination":
        dwells = by_coordination(dwells, session)
        of_dwell = dwells["coordination"]
        most = int(of_dwell.max(initial=0))
        labels = [str(k) for k in range(most + 1)]
    elif by == "facet":
        facets = session_facets(session)
        of_dwell = facets.facet[dwells["site"]] % (len(facets.normal_deg) + 2)
        labels = facets.labels
    elif by == "site":
        return _per_site(dwells, m)
    else:
        of_dwell, labels = np.zeros(len(dwells), np.int64), ["all"]
    groups = [(label, *_counts(dwells[of_dwell == k], m)) for k, label in enumerate(labels)]
    return [group for group in groups if group[2].any()]


def _per_site(dwells: np.ndarray, m: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    events, time_s = _counts(dwells, m)
    return [(str(k), events[:, [k]], time_s[:, [k]]) for k in np.flatnonzero(time_s[0] > 0)]


def _counts(dwells: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    site, occupied, ended = dwells["site"], dwells["occupied"], dwells["ended"]
    chosen = (ended, ended & ~occupied, ended & occupied, dwells["hopped"] & occupied)
    lasted_s = seconds(dwells)
    at_risk = (lasted_s, lasted_s * ~occupied, lasted_s * occupied, lasted_s * occupied)
    events = np.stack([np.bincount(site[which], minlength=m) for which in chosen])
    return events, np.stack([np.bincount(site, time_s, m) for time_s in at_risk])


def surface(session: Session) -> np.ndarray:
    """(m,) bool, the sites that are not inside the particle."""
    return session_facets(session).facet != INSIDE


def _dose_rate(session: Session) -> float:
    dose_rate = session.header.dose_rate_e_nm2_s
    if not dose_rate:
        raise CalibrationError(
            "rates per electron need the dose rate, and the series has none: expected dose_rate_e_nm2_s in the "
            "stream or camera.dose_rate_e_nm2_s in site.toml at the time of the replay; replay with it, or ask per s"
        )
    return dose_rate
