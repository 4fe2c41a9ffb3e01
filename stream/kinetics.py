"""Rates, dwell times and their comparison, with intervals: pure functions of counts and durations.

Which interval when: a count over a time has Garwood's exact interval (`stream.poisson.rate`), which is
right for one site, and for several if they all had one rate. Sites of one class differ, so the rate of a
class is given the interval of a bootstrap over its sites, from `LEAST_SITES` sites and `LEAST_EVENTS`
events on; with fewer a bootstrap is too narrow, and Garwood's interval stands, named as such. Two classes are
compared by the same rule: by what their sites give when drawn again, else by the exact test of two counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, norm
from scipy.stats import t as student

LEAST_SITES, LEAST_EVENTS = 20, 20  # for a bootstrap
SHORTEST_FRAMES = 3  # a dwell no longer is missed, or may be (the tracker's own tests hold from there on)
TOO_BIASED = 0.1
_COUNTED = 10  # resampled values beyond 1, from which on their share is a probability


@dataclass(frozen=True, slots=True)
class Survival:
    """A Kaplan-Meier estimate: P(dwell > t), with its pointwise interval.

    Attributes
    ----------
    time_s : (k,) f8, rising; the first is 0. Each value holds from its time to the next.
    survival, low, high : (k,) f8; low and high are NaN where the estimate is 0.
    at_risk, ended : (k,) i8, dwells that lasted to that time, and those of them that ended at it.
    """

    time_s: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray
    ended: np.ndarray

    def median_s(self) -> tuple[float, float, float]:
        """The median with the ends of its interval, s; inf where it was not reached (Brookmeyer and Crowley)."""
        first = []
        for curve in (self.survival, self.low, self.high):
            below = np.flatnonzero(np.nan_to_num(curve) <= 0.5 + 1e-12)  # one half, but for rounding
            first.append(float(self.time_s[below[0]]) if len(below) else float("inf"))
        return first[0], first[1], first[2]


def survival(duration_s: np.ndarray, ended: np.ndarray, confidence: float = 0.95) -> Survival:
    """Kaplan-Meier's estimate, variance by Greenwood, interval on the scale of log(-log).

    E. L. Kaplan and P. Meier, J. Am. Stat. Assoc. 53 (1958) 457; J. D. Kalbfleisch and R. L. Prentice,
    The Statistical Analysis of Failure Time Data (1980), eq. 1.13.

    Parameters
    ----------
    duration_s : (n,) of dwells whose beginning was seen.
    ended : (n,) bool; False where the dwell lasted longer than that.

    Raises
    ------
    ValueError
        For durations that are negative or not finite, or a confidence outside (0, 1).
    """
    duration, ended = _checked(duration_s, ended)
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}")
    time, index = np.unique(duration, return_inverse=True)
    died = np.bincount(index, ended, len(time)).astype(np.int64)
    left = np.bincount(index, minlength=len(time))
    at_risk = len(duration) - np.concatenate([[0], np.cumsum(left)[:-1]]).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.cumprod(1.0 - died / at_risk)
        greenwood = np.cumsum(died / (at_risk * (at_risk - died)))
        log_s = np.log(s)
        error = norm.ppf(0.5 + confidence / 2) * np.sqrt(greenwood) / log_s
        low, high = s ** np.exp(-error), s ** np.exp(error)
    certain = s == 1.0  # nothing has ended yet
    low, high = np.where(certain, 1.0, low), np.where(certain, 1.0, high)
    gone = s == 0.0
    low[gone] = high[gone] = np.nan
    if not len(time) or time[0] > 0:
        n = len(duration)
        time, died, at_risk = np.insert(time, 0, 0.0), np.insert(died, 0, 0), np.insert(at_risk, 0, n)
        s, low, high = (np.insert(curve, 0, 1.0) for curve in (s, low, high))
    return Survival(time, s, low, high, at_risk, died)


@dataclass(frozen=True, slots=True)
class LogRank:
    """Two sets of dwells compared.

    Attributes
    ----------
    p_value : two-sided, that both end at the same rate.
    hazard_ratio, low, high : the effect's size: how many times faster the second ends (Peto's one-step
        estimate, exp((O - E) / V)), with its 95 % interval.
    ended : (2,) i8.
    expected : (2,) f8, ends expected if both were alike.
    """

    p_value: float
    hazard_ratio: float
    low: float
    high: float
    ended: np.ndarray
    expected: np.ndarray


def log_rank(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    sites: tuple[np.ndarray, np.ndarray] | None = None,
) -> LogRank:
    """The log-rank test of two sets of right-censored dwells (N. Mantel, Cancer Chemother. Rep. 50 (1966) 163).

    Dwells of one site resemble each other: a few restless sites make many dwells that count for less than as
    many independent ones. With `sites`, the variance is that of the sites' shares in the score (D. Y. Lin and
    L. J. Wei, J. Am. Stat. Assoc. 84 (1989) 1074, at no effect); without, all dwells count as independent.
    Peto's ratio is nearest the truth when it is near one; far from one it is drawn towards one.

    Parameters
    ----------
    first, second : durations (n,) in s, and whether each dwell ended (n,) bool.
    sites : of each dwell, numbers; equal ones, also across the two, are one site.
    """
    durations, ends = zip(_checked(*first), _checked(*second), strict=True)
    duration, ended = np.concatenate(durations), np.concatenate(ends)
    of_second = np.arange(len(duration)) >= len(durations[0])
    time = np.unique(duration[ended])
    risk = np.stack([len(x) - np.searchsorted(np.sort(x), time, side="left") for x in durations]).astype(
        float
    )
    died = np.stack([_count_at(x[e], time) for x, e in zip(durations, ends, strict=True)]).astype(float)
    n, d = risk.sum(axis=0), died.sum(axis=0)
    expected, observed = (d * risk / n).sum(axis=1), died.sum(axis=1)
    variance = float((d * risk[0] * risk[1] * (n - d) / (n**2 * np.maximum(n - 1, 1))).sum())
    if variance <= 0:
        return LogRank(1.0, np.nan, 0.0, np.inf, observed.astype(np.int64), expected)
    excess = observed[1] - expected[1]
    spread = variance
    if sites is not None:
        # each dwell's own excess over what was expected of it, against the mean of all then at risk
        mean = risk[1] / n
        hazard, shared = (np.concatenate([[0.0], np.cumsum(x)]) for x in (d / n, d / n * mean))
        upto = np.searchsorted(time, duration, side="right")
        at_end = np.where(ended, of_second - mean[np.maximum(upto - 1, 0)], 0.0)
        own = at_end - (of_second * hazard[upto] - shared[upto])
        site = np.unique(np.concatenate(sites), return_inverse=True)[1]
        spread = float((np.bincount(site, own) ** 2).sum())
    p_value = float(chi2.sf(excess**2 / spread, 1))
    ratio, half = excess / variance, norm.ppf(0.975) * np.sqrt(spread) / variance
    with np.errstate(over="ignore"):
        effect, low, high = np.exp([ratio, ratio - half, ratio + half]).tolist()
    return LogRank(p_value, effect, low, high, observed.astype(np.int64), expected)


def enough_sites(events: np.ndarray, time_s: np.ndarray, worth: float = 1.0) -> bool:
    """Whether there are enough sites with time at risk, and events, for a bootstrap over sites.

    Parameters
    ----------
    events, time_s : (m,), of each site.
    worth : of expected numbers of events, as in `stream.poisson`.
    """
    return int((time_s > 0).sum()) >= LEAST_SITES and float(events.sum()) * worth >= LEAST_EVENTS


def bootstrap_rate(
    events: np.ndarray, time_s: np.ndarray, rng: np.random.Generator, repeats: int = 2000
) -> tuple[float, float]:
    """The 95 % interval of a class's rate, sum of events over sum of time, resampling its sites.

    Parameters
    ----------
    events, time_s : (m,), of each site.
    """
    return _interval(_resampled(events, time_s, rng, repeats), len(events))


def bootstrap_ratio(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    *,
    paired: bool,
    worth: tuple[float, float] = (1.0, 1.0),
    repeats: int = 2000,
) -> tuple[float, float, float]:
    """The 95 % interval of a ratio of two classes' rates, and the two-sided p-value of a ratio of 1, resampling sites.

    The p-value is 1 minus the confidence of the interval that ends at 1: below 0.05 if the interval leaves 1 out.

    Parameters
    ----------
    first, second : events and time at risk (m,) of each site.
    paired : the sites of both are the same, and are drawn together.
    worth : of the events of either.

    Returns
    -------
    low, high, p_value; NaN unless there are `enough_sites` of both.
    """
    if not all(enough_sites(*side, w) for side, w in zip((first, second), worth, strict=True)):
        return np.nan, np.nan, np.nan
    if paired:
        both = np.stack([*first, *second])[:, (first[1] > 0) | (second[1] > 0)]
        a, a_s, b, b_s = _sums(both, rng, repeats)
        ratio, m = (b / b_s) / np.maximum(a / a_s, 1e-300), both.shape[1]
    else:
        one, other = (_resampled(n[t > 0], t[t > 0], rng, repeats) for n, t in (first, second))
        ratio, m = other / np.maximum(one, 1e-300), min(int((t > 0).sum()) for _, t in (first, second))
    return *_interval(ratio, m), _p_value(ratio, m)


def _p_value(resampled: np.ndarray, m: int) -> float:
    """Two-sided, of 1: how far out of what `m` sites gave it lies, read as `_interval` reads it.

    Where too few lie beyond 1 to be counted, as far out as a normal distribution of the logarithms has it.
    """
    beyond = min((resampled <= 1).mean(), (resampled >= 1).mean(), 0.5)
    least = _COUNTED / len(resampled)
    z = norm.ppf(max(beyond, least))
    if beyond < least:
        log = np.log(np.maximum(resampled, 1e-300))
        z = min(z, -abs(log.mean()) / max(log.std(), 1e-300))
    return float(2 * student.cdf(z * np.sqrt((m - 1) / m), m - 1))


def _interval(resampled: np.ndarray, m: int) -> tuple[float, float]:
    """The 95 % interval by what `m` sites gave when drawn again and again: percentiles, as far out as Student's.

    Drawn from few, values scatter too little (T. Hesterberg, The American Statistician 69 (2015) 371, "expanded
    percentile").
    """
    beyond = norm.cdf(-np.sqrt(m / (m - 1)) * student.ppf(0.975, m - 1))
    low, high = np.quantile(resampled, [beyond, 1 - beyond])
    return float(low), float(high)


def _resampled(events: np.ndarray, time_s: np.ndarray, rng: np.random.Generator, repeats: int) -> np.ndarray:
    counted, lasted_s = _sums(np.stack([events, time_s]), rng, repeats)
    return counted / lasted_s


def _sums(values: np.ndarray, rng: np.random.Generator, repeats: int) -> np.ndarray:
    """(k, repeats) f8, sums of values (k, m) over m sites drawn with replacement."""
    m = values.shape[1]
    at_once = max(1, 1_000_000 // m)
    parts = [
        values[:, rng.integers(0, m, (min(at_once, repeats - done), m))].sum(axis=2)
        for done in range(0, repeats, at_once)
    ]
    return np.concatenate(parts, axis=1)


def missed_share(arrival_hz: float, departure_hz: float, dead_s: float) -> float:
    """At most this share of a site's events is missed when dwells up to `dead_s` go unseen.

    An event is surely seen if the dwells before and after it are both longer: exp(-(a + d) dead_s) of
    them, for a site that fills at rate a and empties at rate d. The measured rate is too low by no more
    than the rest; that is the bias bound, taken at the measured rates.
    """
    return float(-np.expm1(-(arrival_hz + departure_hz) * dead_s))


def _checked(duration_s: np.ndarray, ended: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    duration, ended = np.asarray(duration_s, np.float64), np.asarray(ended, np.bool_)
    if duration.shape != ended.shape or duration.ndim != 1:
        raise ValueError(f"expected as many ends as durations, got {ended.shape} and {duration.shape}")
    if not (np.isfinite(duration).all() and (duration >= 0).all()):
        raise ValueError("expected durations that are finite and at least 0 s; leave others out")
    return duration, ended


def _count_at(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    ordered = np.sort(values)
    return np.searchsorted(ordered, at, side="right") - np.searchsorted(ordered, at, side="left")
