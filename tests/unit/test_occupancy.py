"""The hidden Markov models against enumeration of every history; evidence learned from detections."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from stream.emission import Emission
from stream.occupancy import OccupancyFilter, Smoothed
from stream.places import DETECTED, MISSED, UNOBSERVED

PERIOD_S, RATE_HZ = 0.1, 0.4
ALONE = np.empty((1, 0), np.int64)  # a site without neighbours


def enumerate_histories(times_s, log_ratio):
    """P(occupied) at each frame given all frames, and at the last given all, by summing over all histories.

    Between frames, rates of RATE_HZ either way.
    """
    steps = np.diff(times_s, prepend=times_s[0] - PERIOD_S)
    switch = 0.5 * (1.0 - np.exp(-2 * RATE_HZ * steps))
    states = np.array(list(product((0, 1), repeat=len(times_s) + 1)))  # the first, before all frames: 1/2
    changed = states[:, 1:] != states[:, :-1]
    weight = np.where(changed, switch, 1.0 - switch).prod(axis=1) * np.exp(states[:, 1:] @ log_ratio)
    return (weight @ states[:, 1:]) / weight.sum()


def one_site(times_s, log_ratio, lag) -> tuple[list[float], list[Smoothed]]:
    occupancy = OccupancyFilter(PERIOD_S, lag=lag, rate_hz=RATE_HZ)
    occupancy.add(np.empty((0, 1)), np.empty((0, 1), bool))
    filtered, smoothed = [], []
    for frame, (t, ratio) in enumerate(zip(times_s, log_ratio, strict=True)):
        s = occupancy.update(frame, round(t * 1e9), np.array([ratio]), np.array([True]), ALONE)
        filtered.append(float(occupancy.p_occupied[0]))
        smoothed += [s] if s else []
    return filtered, smoothed + occupancy.finish(ALONE)


@pytest.mark.parametrize("seed", range(5))
def test_filter_and_smoother_agree_with_all_histories(seed):
    rng = np.random.default_rng(seed)
    times_s = 5.0 + np.cumsum(PERIOD_S * rng.choice([1, 1, 1, 2, 30], 9))  # gaps: the time that passed counts
    log_ratio = rng.normal(0, 2, 9)
    filtered, smoothed = one_site(times_s, log_ratio, lag=12)
    exact = [enumerate_histories(times_s[: n + 1], log_ratio[: n + 1])[-1] for n in range(9)]
    np.testing.assert_allclose(filtered, exact, rtol=1e-9)
    exact = enumerate_histories(times_s, log_ratio)
    np.testing.assert_allclose([s.p_occupied[0] for s in smoothed], exact, rtol=1e-9)


def test_the_smoother_uses_the_next_lag_frames_and_no_more():
    times_s = PERIOD_S * np.arange(1, 9)
    log_ratio = np.array([2.0, 1.5, -1.0, 0.7, -2.0, -1.5, -0.4, 3.0])
    _, smoothed = one_site(times_s, log_ratio, lag=3)
    assert [s.frame for s in smoothed] == list(range(8))
    for n in range(3):  # later frames have learned rates
        exact = enumerate_histories(times_s[: n + 4], log_ratio[: n + 4])[n]
        assert smoothed[n].p_occupied[0] == pytest.approx(exact, rel=0.02)
    assert smoothed[0].p_occupied[0] == pytest.approx(
        enumerate_histories(times_s[:4], log_ratio[:4])[0], rel=1e-9
    )


def test_a_site_that_comes_with_its_history_is_as_if_it_had_been_there():
    rng = np.random.default_rng(8)
    log_ratio = rng.normal(0, 2, 30)
    early, late = (OccupancyFilter(PERIOD_S, lag=5, rate_hz=RATE_HZ) for _ in range(2))
    early.add(np.empty((0, 1)), np.empty((0, 1), bool))
    none = np.empty(0)
    for frame in range(30):
        if frame == 4:
            late.add(log_ratio[:4, None], np.ones((4, 1), bool))
        seen = np.ones(1, bool)
        a = early.update(frame, frame * 10**8 + 1, log_ratio[[frame]], seen, ALONE)
        if frame < 4:
            late.update(frame, frame * 10**8 + 1, none, none.astype(bool), np.empty((0, 0), np.int64))
            continue
        b = late.update(frame, frame * 10**8 + 1, log_ratio[[frame]], seen, ALONE)
        assert late.p_occupied[0] == pytest.approx(early.p_occupied[0], rel=1e-9)
        if a and b:
            assert b.p_occupied[0] == pytest.approx(a.p_occupied[0], rel=1e-9)


def test_time_observed_and_occupied_leave_out_what_was_not_seen():
    occupancy = OccupancyFilter(PERIOD_S, lag=2)
    occupancy.add(np.empty((0, 2)), np.empty((0, 2), bool))
    neighbours = np.empty((2, 0), np.int64)
    for frame in [*range(10), *range(40, 50)]:  # 30 frames missing in between
        seen = np.array([True, frame % 2 == 0])
        evidence = np.where(seen, 8.0 if frame < 10 else -8.0, 0.0)
        occupancy.update(frame, 10**8 * frame, evidence, seen, neighbours)
    occupancy.finish(neighbours)
    now = occupancy.snapshot()
    np.testing.assert_allclose(now.observed_s, [2.0, 1.0])
    np.testing.assert_allclose(now.occupied_s, [1.0, 0.5], atol=0.02)
    assert now.version == 20
    assert now.p_occupied.dtype == np.float32
    assert (now.p_occupied < 0.03).all()  # the second was not seen in the last frame


def test_what_was_seen_before_birth_counts_as_observed():
    occupancy = OccupancyFilter(PERIOD_S, lag=2)
    history = np.array([[-3.0], [0.0], [3.0], [3.0], [3.0]])
    occupancy.add(history, history != 0, np.array([100.0]))
    now = occupancy.snapshot()
    assert now.observed_s[0] == pytest.approx(PERIOD_S * (100 + 2))  # the last `lag` are still to be smoothed
    assert now.occupied_s[0] == pytest.approx(PERIOD_S * 1)


def test_unobserved_sites_relax_to_equilibrium_with_the_true_time():
    occupancy = OccupancyFilter(PERIOD_S, lag=2, rate_hz=RATE_HZ)
    occupancy.add(np.empty((0, 1)), np.empty((0, 1), bool))
    occupancy.update(0, 0, np.array([20.0]), np.array([True]), ALONE)
    occupancy.update(1, 10**9, np.array([0.0]), np.array([False]), ALONE)
    assert occupancy.p_occupied[0] == pytest.approx(0.5 + 0.5 * np.exp(-2 * RATE_HZ * 1.0))
    occupancy.update(2, 10**12, np.array([0.0]), np.array([False]), ALONE)
    assert occupancy.p_occupied[0] == pytest.approx(0.5)


def test_a_departure_makes_a_doubtful_arrival_beside_it_likely():
    def arrival(neighbours) -> float:
        occupancy = OccupancyFilter(PERIOD_S, lag=6, rate_hz=RATE_HZ / 2)
        occupancy.add(np.empty((0, 2)), np.empty((0, 2), bool))
        smoothed = []
        for frame in range(20):
            leaving = 4.0 if frame < 10 else -4.0
            coming = 1.5 if 10 <= frame < 14 else -4.0  # a little evidence, for four frames
            s = occupancy.update(
                frame, 10**8 * (frame + 1), np.array([leaving, coming]), np.ones(2, bool), neighbours
            )
            smoothed += [s] if s else []
        smoothed += occupancy.finish(neighbours)
        assert smoothed[5].p_occupied[0] > 0.99
        assert smoothed[15].p_occupied[0] < 0.01
        return float(smoothed[11].p_occupied[1])

    beside, apart = arrival(np.array([[1], [0]])), arrival(np.full((2, 1), -1))
    assert beside > 0.65
    assert apart < 0.35


def test_rates_are_learned_and_too_fast_a_site_is_flagged():
    rng = np.random.default_rng(5)
    occupancy = OccupancyFilter(PERIOD_S, lag=6)
    occupancy.add(np.empty((0, 3)), np.empty((0, 3), bool))
    per_frame = np.array([0.005, 0.01, 0.15])
    state, switched = np.array([True, False, True]), np.zeros(3)
    neighbours = np.empty((3, 0), np.int64)
    for frame in range(6000):
        flip = rng.random(3) < per_frame
        state, switched = state ^ flip, switched + flip
        occupancy.update(frame, 10**8 * frame, np.where(state, 9.0, -9.0), np.ones(3, bool), neighbours)
    assert occupancy.snapshot().fast.tolist() == [False, False, True]
    now = occupancy.snapshot()
    np.testing.assert_allclose(now.arrivals + now.departures, switched, rtol=0.05)
    # of half of the record: 8 switches of the slowest in either direction, and the start value weighs one
    np.testing.assert_allclose(occupancy.rates_hz.mean(axis=0), switched / 600, rtol=0.4)


@pytest.mark.parametrize(
    ("frame", "t_ns", "ratio", "named"),
    [
        (3, 10**9, [0.0], "out of order"),
        (4, 3 * 10**8, [0.0], "out of order"),
        (4, 10**9, [np.nan], "not finite"),
        (4, 10**9, [0.0, 0.0], "expected 1"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(frame, t_ns, ratio, named):
    occupancy = OccupancyFilter(PERIOD_S)
    occupancy.add(np.empty((0, 1)), np.empty((0, 1), bool))
    occupancy.update(3, 3 * 10**8, np.array([1.0]), np.array([True]), ALONE)
    before = occupancy.state()
    with pytest.raises(ValueError, match=named):
        occupancy.update(frame, t_ns, np.array(ratio), np.ones(len(ratio), bool), ALONE)
    for key, value in occupancy.state().items():
        np.testing.assert_array_equal(value, before[key])
    occupancy.finish(ALONE)
    with pytest.raises(ValueError, match="finished"):
        occupancy.update(4, 10**9, np.array([0.0]), np.array([True]), ALONE)


@pytest.mark.parametrize(
    "changes", [{"lag": 0}, {"rate_hz": 0.0}, {"rate_hz": np.inf}, {"frame_period_s": 0.0}]
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match="above 0"):
        OccupancyFilter(**{"frame_period_s": PERIOD_S, **changes})


def test_goes_on_from_its_state():
    rng = np.random.default_rng(6)
    a, b = (OccupancyFilter(PERIOD_S, lag=4) for _ in range(2))
    a.add(np.empty((0, 20)), np.empty((0, 20), bool))
    neighbours = rng.integers(-1, 20, (20, 6))
    evidence = rng.normal(0, 3, (60, 20))
    for frame in range(60):
        if frame == 25:
            b.restore(a.state())
        told = (frame, 10**8 * frame, evidence[frame], evidence[frame] > -4, neighbours)
        first = a.update(*told)
        if frame >= 25:
            second = b.update(*told)
            assert first is not None
            assert second is not None
            np.testing.assert_array_equal(first.p_occupied, second.p_occupied)
    for x, y in zip(a.finish(neighbours), b.finish(neighbours), strict=True):
        np.testing.assert_array_equal(x.p_occupied, y.p_occupied)
    np.testing.assert_array_equal(a.snapshot().occupied_s, b.snapshot().occupied_s)


def test_emission_turns_detections_into_evidence():
    emission = Emission()
    emission.add(3)
    ratio = emission.log_ratio(np.array([DETECTED, MISSED, UNOBSERVED]))
    np.testing.assert_allclose(ratio, [np.log(0.9 / 0.05), np.log(0.1 / 0.95), 0.0])
    history = emission.log_ratio(np.array([[DETECTED], [MISSED]]), np.array([2]))
    np.testing.assert_allclose(history[:, 0], ratio[:2])


def test_emission_learns_per_site_what_detections_are_worth():
    rng = np.random.default_rng(7)
    emission = Emission()
    emission.add(200)
    occupied = np.arange(200) < 150
    true = np.where(occupied, 0.98, 0.01)
    true[0] = 0.75  # one column that is hard to see
    for _ in range(400):
        code = np.where(rng.random(200) < true, DETECTED, MISSED)
        emission.learn(code, occupied.astype(float))
    empty, seen = emission.pooled[:, 1]
    assert seen == pytest.approx(true[:150].mean(), abs=0.003)
    assert empty == pytest.approx(0.01, abs=0.003)
    # 400 frames of its own against 5 of the common value, and 2 % of scatter
    assert emission.hit[1, 0] == pytest.approx((5 * seen + 400 * 0.75) / 405, abs=0.05)
    assert emission.hit[1, 1:150].mean() == pytest.approx(0.98, abs=0.005)
    other = Emission()
    other.restore(emission.state())
    np.testing.assert_array_equal(other.hit, emission.hit)


def test_emission_stays_within_bounds():
    emission = Emission()
    emission.add(2)
    for _ in range(5000):
        emission.learn(np.array([DETECTED, MISSED]), np.array([1.0, 0.0]))
    assert emission.log_ratio(np.array([MISSED, MISSED])).min() > np.log(0.004)  # one miss is no proof
    assert emission.log_ratio(np.array([DETECTED, DETECTED])).max() < np.log(600)


@pytest.mark.parametrize(
    "start",
    [
        ((0.5, 0.5), (0.5, 0.5)),
        ((0.8, 0.2), (0.9, 0.1)),
        ((0.9, 0.1), (0.0, 1.0)),
        ((0.9, 0.1), (0.3, 0.6)),
    ],
)
def test_emission_refuses_levels_that_are_no_evidence(start):
    with pytest.raises(ValueError, match="must be evidence"):
        Emission(start)


def test_of_more_levels_the_rarer_one_is_if_empty_the_more_it_says():
    emission = Emission(((0.7, 0.2, 0.06, 0.04), (0.1, 0.1, 0.2, 0.6)), hits=2)
    emission.add(1)
    ratio = emission.log_ratio(np.array([[1], [2], [3], [4], [0]]))[:, 0]
    np.testing.assert_allclose(ratio[:4], np.log([1 / 7, 1 / 2, 20 / 6, 15]))
    assert ratio[4] == 0
    assert emission.told == pytest.approx(np.sum(np.array([-0.6, -0.1, 0.14, 0.56]) * ratio[:4]))
    rng = np.random.default_rng(3)
    true = np.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.25, 0.3, 0.4]])
    for _ in range(4000):
        state = rng.random() < 0.5
        code = 1 + rng.choice(4, 1, p=true[int(state)])
        emission.learn(code.astype(np.uint8), np.array([float(state)]))
    ratio = emission.log_ratio(np.array([[1], [2], [3], [4]]))[:, 0]
    np.testing.assert_allclose(ratio, np.log(true[1] / true[0]), atol=0.35)


def test_two_records_of_one_place_become_one():
    emission = Emission()
    emission.add(2)
    for _ in range(30):  # a column hopped, as it seemed, from one to the other
        emission.learn(np.array([2, 1], np.uint8), np.array([1.0, 0.0]))
    for _ in range(20):
        emission.learn(np.array([1, 2], np.uint8), np.array([0.0, 1.0]))
    for _ in range(10):
        emission.learn(np.array([1, 1], np.uint8), np.array([0.0, 0.0]))
    emission.merge(0, 1)
    alone = Emission()
    alone.add(1)
    for frames, code, p in ((50, 2, 1.0), (10, 1, 0.0)):
        for _ in range(frames):
            alone.learn(np.array([code], np.uint8), np.array([p]))
    np.testing.assert_allclose(emission.hit[:, 0], alone.hit[:, 0], atol=0.01)
