"""Rates of simulated sites: without bias, and within their intervals as often as these promise."""

from __future__ import annotations

import numpy as np
import pytest

from stream.hopping import Hopping
from stream.occupancy import Occupancy, OccupancyFilter
from stream.poisson import Rate

SITES = 6  # of one repeat


def rates_of(
    rate: float, strength: float, repeats: int, frames: int, seed: int, missing: float = 0.05
) -> tuple[float, float]:
    """Relative bias of the pooled arrival and departure rates, and how often their intervals hold the truth.

    Sites switch either way at `rate` per frame in continuous time, frames are missing at random, and the evidence of a
    frame is a log-likelihood ratio of mean ± strength / 2 and variance `strength`, as of a matched filter.
    """
    rng = np.random.default_rng(seed)
    m = repeats * SITES
    occupied = rng.random(m) < 0.5
    chains, hopping = OccupancyFilter(1.0), Hopping(1.0)
    chains.add(np.empty((0, m)), np.empty((0, m), bool))
    alone = np.empty((m, 0), np.int64)
    for frame in range(frames):
        occupied = rng.random(m) < 0.5 + (occupied - 0.5) * np.exp(-2 * rate)
        if rng.random() < missing:
            continue
        ratio = np.where(occupied, strength / 2, -strength / 2) + np.sqrt(strength) * rng.normal(size=m)
        chains.update(frame, frame * 10**9, np.clip(ratio, -12, 12), np.ones(m, bool), alone)
    chains.finish(alone)
    hopping.see(np.zeros(m, np.uint8))
    all_sites = chains.snapshot()
    biases, covered = [], []
    for name in ("arrival", "departure"):
        pooled = [_of_repeat(hopping, all_sites, k)[name] for k in range(repeats)]
        events = sum(float(one.events) for one in pooled)
        biases.append(events / sum(float(one.at_risk_s) for one in pooled) / rate - 1)
        covered += [one.low_hz <= rate <= one.high_hz for one in pooled]
    return max(biases, key=abs), float(np.mean(covered))


def _of_repeat(hopping: Hopping, every: Occupancy, repeat: int) -> dict[str, Rate]:
    mine = slice(repeat * SITES, (repeat + 1) * SITES)
    per_site = (
        every.p_occupied,
        every.observed_s,
        every.occupied_s,
        every.arrivals,
        every.departures,
        every.fast,
    )
    p, observed, occupied, arrivals, departures, fast = (array[mine] for array in per_site)
    few = Hopping(hopping.frame_period_s)
    few.see(np.zeros(SITES, np.uint8))
    return few.rates(
        Occupancy(p, observed, occupied, arrivals, departures, fast, every.version, every.worth[mine]),
        total=True,
    )


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_rates_are_unbiased_and_their_intervals_honest(rate):
    bias, covered = rates_of(rate, strength=50.0, repeats=100, frames=400, seed=1)
    events = rate * 0.5 * 400 * SITES * 100
    assert abs(bias) < 0.03 + 3 / np.sqrt(events)
    assert 0.92 - 3 * 0.019 < covered < 1.0  # of 200 intervals, 95 % ± 1.9 %


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strength", "rate"),
    [
        *((strength, rate) for strength in (100.0, 25.0) for rate in (0.001, 0.003, 0.01, 0.03, 0.1)),
        *((6.6, rate) for rate in (0.01, 0.03)),
    ],
)
def test_rates_of_five_hundred_sessions(strength, rate):
    """The bars: 5 % of bias, and 92 to 98 % of 95 % intervals that hold the truth.

    Of evidence as weak as at 30 e/Å² they hold for some rates only, live: a third too high at 0.001 per frame, an
    eighth too low at 0.1. A series that is looked at again has no such bias (test_hindsight).
    """
    bias, covered = rates_of(rate, strength, repeats=500, frames=2000, seed=2)
    assert abs(bias) < 0.05
    assert 0.92 < covered < 0.98
