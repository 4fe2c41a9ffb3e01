"""Estimators at their edges; what they are worth is in tests/property/test_kinetics.py."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from stream.kinetics import _interval, bootstrap_rate, bootstrap_ratio, log_rank, missed_share, survival
from stream.poisson import rate_ratio


def test_a_curve_of_few_dwells_by_hand():
    curve = survival(np.array([3.0, 1.0, 2.0, 2.0]), np.array([True, True, True, False]))
    assert curve.time_s.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(curve.survival, [1, 0.75, 0.5, 0])
    assert curve.at_risk.tolist() == [4, 4, 3, 1]
    assert curve.ended.tolist() == [0, 1, 1, 1]
    assert curve.median_s()[0] == 2.0


def test_without_an_end_the_median_is_not_reached():
    curve = survival(np.array([1.0, 5.0]), np.array([False, False]))
    assert (curve.survival == 1).all()
    assert (curve.low == 1).all()
    assert curve.median_s() == (np.inf, np.inf, np.inf)
    assert survival(np.empty(0), np.empty(0, bool)).median_s()[0] == np.inf


@pytest.mark.parametrize(("duration", "ended"), [([-1.0], [True]), ([np.nan], [True]), ([1.0, 2.0], [True])])
def test_impossible_durations_are_refused(duration, ended):
    with pytest.raises(ValueError, match="expected"):
        survival(np.array(duration), np.array(ended))


def test_a_test_without_ends_says_nothing():
    none = (np.array([1.0, 2.0]), np.array([False, False]))
    test = log_rank(none, none)
    assert (test.p_value, test.low, test.high) == (1.0, 0.0, np.inf)
    assert np.isnan(test.hazard_ratio)


def test_dwells_copied_within_their_site_are_no_news():
    rng = np.random.default_rng(4)
    a, b = (rng.exponential(mean, 60) for mean in (1.0, 1.6))
    ends, site = np.ones(60, bool), np.arange(60)
    once = log_rank((a, ends), (b, ends), (site, site + 60))
    four = [np.repeat(x, 4) for x in (a, b, ends, site)]
    copied = log_rank((four[0], four[2]), (four[1], four[2]), (four[3], four[3] + 60))
    assert copied.p_value == pytest.approx(once.p_value, rel=0.15)
    assert log_rank((four[0], four[2]), (four[1], four[2])).p_value < once.p_value / 10


def test_the_p_value_is_the_binomial_one_and_the_interval_excludes_one_with_it():
    for first, second in ((3, 20), (10, 12), (0, 8), (7, 0)):
        ours = rate_ratio(first, 50.0, second, 30.0)
        assert ours.p_value == binomtest(second, first + second, 30 / 80).pvalue
        assert ours.low <= ours.ratio <= ours.high
    strong = rate_ratio(3, 50.0, 20, 30.0)
    assert strong.p_value < 0.001
    assert strong.low > 1
    assert rate_ratio(0, 50.0, 8, 30.0).high == np.inf
    assert rate_ratio(7, 50.0, 0, 30.0).low == 0
    assert rate_ratio(0, 1.0, 0, 1.0).p_value == 1.0
    with pytest.raises(ValueError, match="above 0 s"):
        rate_ratio(1, 0.0, 1, 1.0)


def test_expected_numbers_of_events_are_compared_by_what_they_are_worth():
    whole, same = rate_ratio(10, 50.0, 20, 30.0), rate_ratio(10, 50.0, 20, 30.0, worth=(1.0, 1.0))
    assert (same.ratio, same.low, same.high) == (whole.ratio, whole.low, whole.high)
    assert same.p_value == pytest.approx(whole.p_value, rel=0.3)
    half, less = (
        rate_ratio(20, 100.0, 40, 60.0, worth=(0.5, 0.5)),
        rate_ratio(10, 50.0, 20, 30.0, worth=(0.3, 0.3)),
    )
    assert (half.low, half.high) == pytest.approx((same.low, same.high))
    assert less.low < same.low < same.high < less.high
    assert less.p_value > same.p_value
    assert rate_ratio(0.0, 1.0, 2.5, 1.0, worth=(1.0, 1.0)).high == np.inf
    assert rate_ratio(2.5, 1.0, 0.0, 1.0, worth=(1.0, 1.0)).low == 0


def test_bootstraps_of_few_sites_are_not_given():
    few = (np.full(19, 5), np.ones(19))
    assert np.isnan(bootstrap_ratio(few, few, np.random.default_rng(1), paired=True)).all()


def test_a_paired_bootstrap_knows_that_the_sites_are_the_same():
    rng = np.random.default_rng(2)
    own = rng.gamma(0.5, 20.0, 60)  # sites differ far more than conditions do
    first, second = (rng.poisson(own), np.ones(60)), (rng.poisson(1.5 * own), np.ones(60))
    together = bootstrap_ratio(first, second, rng, paired=True)
    apart = bootstrap_ratio(first, second, rng, paired=False)
    assert np.log(together[1] / together[0]) < 0.6 * np.log(apart[1] / apart[0])
    assert together[0] < 1.5 < together[1]


@pytest.mark.parametrize(("paired", "poisson"), [(False, 0.3), (True, 0.08)])
def test_sites_that_differ_are_not_taken_for_conditions_that_do(paired, poisson):
    """No true difference, sites' rates gamma distributed: one comparison in twenty has p < 0.05."""
    rng = np.random.default_rng(5)
    by_sites, exact, disagree = [], [], 0
    for _ in range(600):
        one = rng.gamma(1.0, 6.0, 40)
        other = one if paired else rng.gamma(1.0, 6.0, 40)
        time_s = rng.uniform(0.5, 1.5, (2, 40))
        first, second = (rng.poisson(r * t).astype(float) for r, t in zip((one, other), time_s, strict=True))
        sides = (first, time_s[0]), (second, time_s[1])
        low, high, p_value = bootstrap_ratio(*sides, rng, paired=paired, repeats=1000)
        by_sites.append(p_value)
        disagree += (p_value < 0.05) != (not low <= 1 <= high)
        exact.append(rate_ratio(first.sum(), time_s[0].sum(), second.sum(), time_s[1].sum()).p_value)
    false, false_poisson = (float((np.array(p) < 0.05).mean()) for p in (by_sites, exact))
    assert 0.03 < false < 0.075
    assert false_poisson > poisson
    assert disagree <= 2, "p-value and interval are of one bootstrap, but for rounding"


def test_p_values_by_sites_reach_below_what_can_be_counted():
    rng = np.random.default_rng(6)
    n, t = rng.poisson(rng.gamma(4.0, 5.0, 100)).astype(float), np.ones(100)
    p = [bootstrap_ratio((n, t), (f * n[::-1], t), rng, paired=False)[2] for f in (1, 1.15, 1.5, 2, 4, 8)]
    assert p[0] > 0.8
    assert all(a > b for a, b in itertools.pairwise(p))
    assert p[-1] < 1e-12
    assert np.isnan(bootstrap_ratio((n, t), (n, t), rng, paired=True, worth=(1.0, 1e-3))).all()


def test_missed_share_rises_from_nothing_to_everything():
    assert missed_share(0.0, 0.0, 1.0) == 0
    assert missed_share(0.01, 0.02, 1.0) == pytest.approx(0.03, rel=0.02)
    assert missed_share(100.0, 100.0, 1.0) == pytest.approx(1.0)


def test_a_bootstrap_is_the_same_for_the_same_seed():
    n, t = np.arange(30), np.ones(30)
    a, b = (bootstrap_rate(n, t, np.random.default_rng(3)) for _ in range(2))
    assert a == b
    assert a[0] < n.mean() < a[1]


def test_intervals_of_few_sites_reach_as_far_out_as_students():
    """T. Hesterberg, The American Statistician 69 (2015) 371: of 25, 1.76 % on either side and not 2.5."""
    low, high = _interval(np.linspace(0, 1, 100_001), 25)
    assert (low, high) == pytest.approx((0.01758, 0.98242), abs=2e-5)
    assert _interval(np.linspace(0, 1, 100_001), 10**6) == pytest.approx((0.025, 0.975), abs=1e-4)
    rng = np.random.default_rng(4)
    many, few = (np.full(n, 5.0) for n in (400, 20))
    noise = rng.poisson(5.0, 400).astype(float)
    by_few = [
        bootstrap_ratio((many, many), (noise[:20], few), np.random.default_rng(1), paired=False),
        bootstrap_ratio((noise[:20], few), (many, many), np.random.default_rng(1), paired=False),
    ]
    wide = by_few[0][1] / by_few[0][0]
    assert wide == pytest.approx(by_few[1][1] / by_few[1][0], rel=0.05)  # as far out as the few ask for
