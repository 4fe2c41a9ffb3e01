"""Survival curves and tests against lifelines and R."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import median_survival_times

from stream.kinetics import log_rank, survival
from stream.poisson import rate_ratio


def dwells(seed: int, n: int, mean: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Whole frames, so that many are equal, censored at random."""
    rng = np.random.default_rng(seed)
    lasts, watched = rng.exponential(mean, n), rng.uniform(1, 60, n)
    return np.ceil(np.minimum(lasts, watched)), lasts <= watched


@pytest.mark.parametrize(("seed", "n", "confidence"), [(1, 200, 0.95), (4, 15, 0.95), (3, 60, 0.8)])
def test_kaplan_meier_and_its_interval_are_those_of_lifelines(seed, n, confidence):
    duration, ended = dwells(seed, n)
    ours = survival(duration, ended, confidence)
    theirs = KaplanMeierFitter(alpha=1 - confidence).fit(duration, ended)
    at = theirs.survival_function_.index.to_numpy()
    np.testing.assert_array_equal(ours.time_s, at)
    np.testing.assert_allclose(
        ours.survival, theirs.survival_function_.to_numpy()[:, 0], rtol=1e-12, atol=1e-12
    )
    low, high = theirs.confidence_interval_.to_numpy().T
    there = ours.survival > 0  # at zero the interval has no width of its own
    np.testing.assert_allclose(ours.low[there], low[there], rtol=1e-10)
    np.testing.assert_allclose(ours.high[there], high[there], rtol=1e-10)
    np.testing.assert_array_equal(ours.at_risk[1:], theirs.event_table["at_risk"].to_numpy()[1:])
    assert ours.median_s()[0] == theirs.median_survival_time_
    edges = median_survival_times(theirs.confidence_interval_).to_numpy().ravel()
    assert ours.median_s()[1:] == pytest.approx(tuple(edges))


@pytest.mark.parametrize(("seed", "mean"), [(1, 20.0), (2, 35.0), (3, 12.0)])
def test_the_log_rank_test_is_that_of_lifelines(seed, mean):
    a, b = dwells(seed, 80), dwells(seed + 100, 70, mean)
    theirs = logrank_test(a[0], b[0], a[1], b[1])
    ours = log_rank(a, b)
    assert ours.p_value == pytest.approx(theirs.p_value, rel=1e-9)
    assert ours.ended.tolist() == [a[1].sum(), b[1].sum()]
    assert ours.expected.sum() == pytest.approx(ours.ended.sum())
    assert ours.low < ours.hazard_ratio < ours.high


def test_the_ratio_of_two_rates_is_that_of_r():
    # R 4: poisson.test(c(11, 6 + 8 + 7), c(800, 1083 + 1050 + 878)), the example of its manual
    ours = rate_ratio(6 + 8 + 7, 1083 + 1050 + 878, 11, 800)
    assert ours.ratio == pytest.approx(1.971488, abs=1e-6)
    assert ours.p_value == pytest.approx(0.07967, abs=1e-5)
    assert (ours.low, ours.high) == pytest.approx((0.8584264, 4.2772659), abs=1e-6)
