"""A series looked at again: rates of the highest likelihood, honest intervals, and occupancy given all frames."""

from __future__ import annotations

import numpy as np
import pytest

from stream import likelihood
from stream.hindsight import look_again
from stream.hopping import Hopping
from stream.markov import there_and_back
from stream.occupancy import Occupancy
from stream.poisson import Rate
from tests.helpers.evidence import Seen, simulated

SITES = 6  # of one repeat


def rates_of(
    rate: float, strength: float, repeats: int, frames: int, seed: int
) -> tuple[float, dict[str, float]]:
    """Relative bias of the pooled arrival and departure rates, the larger one, and how often intervals of six sites
    together hold the truth."""
    seen, _ = simulated(rate, strength, repeats * SITES, frames, seed)
    found = look_again(seen, np.full((seen.sites, 1), -1), 1.0)
    biases, covered = [], {}
    for name in ("arrival", "departure", "event"):
        pooled = [_of_repeat(found.occupancy, k)[name] for k in range(repeats)]
        whole = sum(float(one.events) for one in pooled) / sum(float(one.at_risk_s) for one in pooled)
        biases.append(whole / rate - 1)
        covered[name] = float(np.mean([one.low_hz <= rate <= one.high_hz for one in pooled]))
    return max(biases, key=abs), covered


def _of_repeat(every: Occupancy, repeat: int) -> dict[str, Rate]:
    mine = slice(repeat * SITES, (repeat + 1) * SITES)
    names = ("p_occupied", "observed_s", "occupied_s", "arrivals", "departures", "fast")
    few = Hopping(1.0)
    few.see(np.zeros(SITES, np.uint8))
    parts = [getattr(every, name)[mine] for name in names]
    return few.rates(Occupancy(*parts, every.version, every.worth[mine]), total=True)


@pytest.mark.parametrize(("strength", "rate"), [(25.0, 0.1), (6.6, 0.03), (6.6, 0.1)])
def test_rates_are_unbiased_where_no_count_of_events_is(strength, rate):
    bias, covered = rates_of(rate, strength, repeats=60, frames=400, seed=1)
    assert abs(bias) < 0.03 + 3 / np.sqrt(rate * 0.5 * 400 * SITES * 60)
    for share in covered.values():
        assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60) < share


def test_weak_evidence_is_worth_less_than_the_switches_it_speaks_of():
    strong, weak = (simulated(0.05, strength, 40, 600, seed=2)[0] for strength in (100.0, 4.0))
    alone = np.full((40, 1), -1)
    certain, vague = (look_again(seen, alone, 1.0).occupancy.worth for seen in (strong, weak))
    assert np.median(certain) > 0.85
    assert np.median(vague) < 0.7
    assert (vague > 0).all()
    assert (certain <= 1).all()


def test_sites_that_never_switch_do_not_make_the_others_worth_less():
    """Of a particle most columns stay for ever; what is known of those of the rim does not depend on them."""
    busy, _ = simulated(0.05, 25.0, 20, 400, seed=12)
    quiet = np.clip(12.5 + 5 * np.random.default_rng(13).normal(size=(len(busy.frame), 300)), -12, 12)
    among = Seen(busy.frame, np.concatenate([busy.ratio, quiet], axis=1))
    alone, together = (
        look_again(seen, np.full((seen.sites, 1), -1), 1.0).occupancy for seen in (busy, among)
    )
    assert np.median(together.worth[:20]) == pytest.approx(np.median(alone.worth), rel=0.1)
    switches = (together.arrivals + together.departures)[:20].sum()
    assert switches == pytest.approx((alone.arrivals + alone.departures).sum(), rel=0.03)


def test_occupancy_given_all_frames_is_that_of_the_exact_sum_over_histories():
    """Against brute force: every history of four frames, weighed."""
    rng = np.random.default_rng(3)
    ratio = rng.normal(0, 2, (4, 1))
    arrive, leave, start = 0.2, 0.3, 0.4
    weight = np.zeros(16)
    states = np.array([[(n >> k) & 1 for k in range(4)] for n in range(16)])
    for n, path in enumerate(states):
        p = (start if path[0] else 1 - start) * np.exp(ratio[0, 0] * path[0])
        for k in range(1, 4):
            step = {(0, 1): arrive, (0, 0): 1 - arrive, (1, 0): leave, (1, 1): 1 - leave}
            p *= step[int(path[k - 1]), int(path[k])] * np.exp(ratio[k, 0] * path[k])
        weight[n] = p
    weight /= weight.sum()
    out = np.empty((3, 4, 1))
    chances = (np.full((4, 1), c) for c in (arrive, leave))
    there_and_back(np.exp(ratio), *chances, np.array([start]), out)
    np.testing.assert_allclose(out[0, :, 0], weight @ states, atol=1e-12)
    for k in range(1, 4):
        came = (states[:, k - 1] == 0) & (states[:, k] == 1)
        assert out[1, k, 0] == pytest.approx(weight[came].sum(), abs=1e-12)


def test_windows_leave_no_seam(monkeypatch):
    seen, _ = simulated(0.03, 6.6, 12, 900, seed=4)
    beside = np.array([[(k - 1) % 12, (k + 1) % 12] for k in range(12)])
    whole = look_again(seen, beside, 1.0)
    smoothed = seen.kept.copy()
    monkeypatch.setattr(likelihood, "_AT_ONCE", 12 * 260)
    parts = look_again(seen, beside, 1.0)
    np.testing.assert_allclose(seen.kept, smoothed, atol=1e-3)  # sites hear of each other once more at a seam
    assert parts.events == pytest.approx(whole.events) or len(parts.events) == len(whole.events)


def test_the_truth_is_read_off_strong_evidence():
    seen, truth = simulated(0.02, 60.0, 20, 500, seed=5)
    found = look_again(seen, np.full((20, 1), -1), 1.0)
    assert np.mean((seen.kept > 0.5) == truth) > 0.999
    switches = np.count_nonzero(np.diff(truth, axis=0))
    assert abs(len(found.events) - switches) <= 0.02 * switches


def test_what_was_never_observed_is_no_time():
    seen, _ = simulated(0.02, 60.0, 3, 300, seed=6)
    seen.ratio[:100, 1] = np.nan
    occupancy = look_again(seen, np.full((3, 1), -1), 1.0).occupancy
    assert occupancy.observed_s[0] - occupancy.observed_s[1] == 100


def test_long_gaps_are_time_without_evidence():
    """Sites that keep their state over a long gap do not make it an event."""
    ratio = np.full((40, 2), 8.0)
    seen = Seen(np.concatenate([np.arange(20), 5000 + np.arange(20)]), ratio)
    found = look_again(seen, np.full((2, 1), -1), 1.0)
    assert found.events == []
    assert found.occupancy.observed_s.tolist() == [40.0, 40.0]


def test_nothing_cannot_be_looked_at_again():
    with pytest.raises(ValueError, match="0 frames and 2 sites"):
        look_again(Seen(np.empty(0, np.int64), np.empty((0, 2))), np.full((2, 1), -1), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("strength", [100.0, 25.0, 6.6])
@pytest.mark.parametrize("rate", [0.001, 0.003, 0.01, 0.03, 0.1])
def test_rates_of_five_hundred_sessions(strength, rate):
    """The bars: 5 % of bias, and 92 to 98 % of 95 % intervals that hold the truth. Of one switch per site, Garwood's
    intervals hold it more often than they must."""
    bias, covered = rates_of(rate, strength, repeats=500, frames=2000, seed=2)
    print(f"strength {strength}, rate {rate}: bias {bias:+.4f}, covered {covered}")
    assert abs(bias) < 0.05
    for share in covered.values():
        assert 0.92 < share < (0.985 if rate > 0.001 else 0.995)
