"""Events per time, with exact intervals: one rate, and two compared.

A count whose events are not all beyond doubt says less than its number: `worth`, the share of the events that, seen
beyond doubt, would say as much, makes the intervals as wide as they must be (`stream.likelihood`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binomtest, chi2


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


@dataclass(frozen=True, slots=True)
class RateRatio:
    """Two Poisson rates compared: second over first, with its exact 95 % interval and two-sided p."""

    ratio: float
    low: float
    high: float
    p_value: float


def rate_ratio(
    first_events: float,
    first_s: float,
    second_events: float,
    second_s: float,
    confidence: float = 0.95,
    worth: tuple[float, float] | None = None,
) -> RateRatio:
    """The conditional test: of all events, the second's share is binomial if the rates are alike.

    J. Przyborowski and H. Wilenski, Biometrika 31 (1940) 313; the interval is Clopper and Pearson's, so
    it covers at least as often as it says (R's poisson.test does the same).

    Parameters
    ----------
    worth : of either side, where events are expected numbers: interval and p are those of so much of events and time,
        p being twice the smaller tail. Without it events are counts.

    Raises
    ------
    ValueError
        For counts that are negative or times that are not above 0.
    """
    if min(first_events, second_events) < 0 or not min(first_s, second_s) > 0:
        raise ValueError(
            f"two rates need counts >= 0 and times above 0 s, got {first_events} in {first_s} s "
            f"and {second_events} in {second_s} s"
        )
    if not first_events + second_events > 0:
        return RateRatio(np.nan, 0.0, np.inf, 1.0)
    ratio = first_s / second_s * second_events / first_events if first_events else np.inf
    w1, w2 = worth or (1.0, 1.0)
    k, n = w2 * second_events, w1 * first_events + w2 * second_events
    w1_s, w2_s = w1 * first_s, w2 * second_s
    alike = w2_s / (w1_s + w2_s)
    if worth is None:
        p_value = binomtest(int(k), int(n), alike).pvalue
    else:
        no_less, no_more = (
            beta.cdf(alike, k, n - k + 1) if k else 1.0,
            beta.sf(alike, k + 1, n - k) if n > k else 1.0,
        )
        p_value = min(1.0, 2 * min(no_less, no_more))
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, k, n - k + 1) if k else 0.0
    high = beta.ppf(1 - tail, k + 1, n - k) if n > k else 1.0
    low, high = (float(w1_s / w2_s * share / (1 - share)) if share < 1 else np.inf for share in (low, high))
    return RateRatio(float(ratio), low, high, float(p_value))
