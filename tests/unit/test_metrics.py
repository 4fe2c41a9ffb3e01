"""Latency histograms say what the durations themselves would say, to two per cent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.metrics import LatencyHistogram

durations = st.lists(st.floats(1_000, 9.9e10), min_size=1, max_size=200)
quiet = settings(derandomize=True, deadline=None)


def histogram(values: list[float]) -> LatencyHistogram:
    made = LatencyHistogram()
    for value in values:
        made.add(value)
    return made


@quiet
@given(durations, st.sampled_from([0, 1, 50, 90, 99, 100]))
def test_percentiles_are_within_half_a_bin(values: list[float], percent: float) -> None:
    rank = max(1, math.ceil(len(values) * percent / 100))
    true_ns = sorted(values)[rank - 1]
    assert histogram(values).percentile_ns(percent) == pytest.approx(true_ns, rel=0.0182)


@quiet
@given(durations, durations)
def test_merged_is_as_if_counted_together(a: list[float], b: list[float]) -> None:
    merged = histogram(a)
    merged.merge(histogram(b))
    together = histogram(a + b)
    assert len(merged) == len(a) + len(b)
    assert [merged.percentile_ns(p) for p in range(101)] == [together.percentile_ns(p) for p in range(101)]


def test_of_nothing_there_is_nothing_to_say() -> None:
    assert math.isnan(LatencyHistogram().percentile_ns(50))
    assert LatencyHistogram().as_ms() == {"p50": None, "p99": None}


def test_what_is_out_of_range_is_counted_at_its_end() -> None:
    made = histogram([0.0, 1e15])
    assert len(made) == 2
    assert made.percentile_ns(50) < 1_100
    assert made.percentile_ns(100) > 9e10


def test_one_duration_is_told_as_it_is() -> None:
    assert histogram([12_345_678.0]).as_ms() == {"p50": 12.345678, "p99": 12.345678}


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_impossible_durations_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="impossible"):
        LatencyHistogram().add(bad)


@pytest.mark.parametrize("bad", [-1, 101, math.nan])
def test_impossible_percentiles_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="impossible"):
        LatencyHistogram().percentile_ns(bad)


def test_precision_on_a_realistic_spread() -> None:
    values = np.random.default_rng(5).lognormal(np.log(8e6), 0.7, 20_000)
    made = histogram(list(values))
    for percent in (50, 99):
        assert made.percentile_ns(percent) == pytest.approx(np.percentile(values, percent), rel=0.02)
