"""Two conditions compared, rates and dwell times: of two result files, or of two ranges of time of one."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

from stream.dwells import seconds
from stream.frame import RecordingError
from stream.kinetics import bootstrap_ratio, log_rank, survival
from stream.poisson import rate_ratio
from stream.rates import By, Per, dose_rate, groups, least_s
from stream.switches import KINDS, Part, Source

UNITS = {"s": ("at_risk_s", "rate_hz", "median_s"), "e": ("at_risk_e_nm2", "rate_per_e_nm2", "median_e_nm2")}
"""What the values with a unit are named, per second or per electron and nm²."""


def compare(
    first: Part, second: Part, by: By, rng: np.random.Generator, per: Per = "s"
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rates and dwell times of two conditions: second against first.

    Sites differ, so p-values are by sites wherever there are enough of them (`stream.kinetics.bootstrap_ratio`; drawn
    together where both have the same); with fewer, Poisson's exact test, which holds if all sites share one rate.

    Parameters
    ----------
    first, second : of two result files, or two ranges of time of one. Both are counted alike: from events, where the
        likelihood of one of them is not known.
    by : "site" and "facet" only for two ranges of one session, whose sites are the same.
    per : "e": rates and dwells in dose and not in time, each by its own session's dose rate.

    Returns
    -------
    A row per group and kind: counts, times or doses, rate ratio with its exact interval, the interval of a bootstrap
    over sites (NaN for too few), the p-value, the `test` it is from ("sites" or "Poisson"), and the p-value adjusted
    for all groups of the kind (Benjamini and Hochberg, which bounds the share of false ones among those called
    different). A row per state: log-rank test of the dwells, its variance by sites.

    Raises
    ------
    RecordingError
        For sites or facets of two sessions.
    CalibrationError
        Per electron dose, where the dose rate of either is not known.
    """
    same = first.session is second.session
    if by in ("site", "facet") and not same:
        raise RecordingError(
            f"sites and facets of two result files have no names in common: expected to compare by all or "
            f"coordination, got {by}; or give one file and two ranges of time"
        )
    scale = [1.0 if per == "s" else dose_rate(part.session) for part in (first, second)]
    at_risk, per_risk, _ = UNITS[per]
    source: Source = "events" if "events" in (first.source, second.source) else "likelihood"
    sides = [dict(groups(part, by, source)) for part in (first, second)]
    rows: list[dict[str, Any]] = []
    for label in sides[0]:
        if label not in sides[1]:
            continue
        one, other = sides[0][label], sides[1][label]
        worth = (one.pooled_worth, other.pooled_worth)
        for k, kind in enumerate(KINDS):
            if not min(one.time_s[k].sum(), other.time_s[k].sum()) > least_s(first, source):
                continue
            n1, n2, t1, t2 = (
                one.events[k],
                other.events[k],
                scale[0] * one.time_s[k],
                scale[1] * other.time_s[k],
            )
            events, risks = [float(n1.sum()), float(n2.sum())], [float(t1.sum()), float(t2.sum())]
            exact = rate_ratio(
                events[0], risks[0], events[1], risks[1], worth=worth if source == "likelihood" else None
            )
            low, high, p_value = bootstrap_ratio((n1, t1), (n2, t2), rng, paired=same, worth=worth)
            too_few = np.isnan(p_value)
            rows.append(
                {
                    "group": label,
                    "kind": kind,
                    "events": events,
                    at_risk: risks,
                    per_risk: [n / t for n, t in zip(events, risks, strict=True)],
                    "ratio": exact.ratio,
                    "ratio_low": exact.low,
                    "ratio_high": exact.high,
                    "sites_low": low,
                    "sites_high": high,
                    "p_value": exact.p_value if too_few else p_value,
                    "test": "Poisson" if too_few else "sites",
                    "from": source,
                }
            )
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        adjusted = false_discovery_control([row["p_value"] for row in mine])
        for row, p_value in zip(mine, adjusted, strict=True):
            row["p_adjusted"] = float(p_value)
    return rows, [_compare_dwells(first, second, state, scale, UNITS[per][2]) for state in (True, False)]


def _compare_dwells(
    first: Part, second: Part, occupied: bool, scale: list[float], median: str
) -> dict[str, Any]:
    parts = (first, second)
    a, b = whole = [p.dwells[(p.dwells["occupied"] == occupied) & p.dwells["begun"]] for p in parts]
    lasted = [seconds(dwells) * each for dwells, each in zip(whole, scale, strict=True)]
    # sites of two files are different ones
    apart = 0 if first.session is second.session else len(first.session.sites)
    sites = (a["site"], b["site"] + apart)
    test = log_rank((lasted[0], a["ended"]), (lasted[1], b["ended"]), sites=sites)
    return {
        "state": "occupied" if occupied else "empty",
        "dwells": [len(a), len(b)],
        "ended": test.ended.tolist(),
        median: [survival(x, d["ended"]).median_s()[0] for x, d in zip(lasted, whole, strict=True)],
        "hazard_ratio": test.hazard_ratio,
        "hazard_low": test.low,
        "hazard_high": test.high,
        "p_value": test.p_value,
    }
