"""Estimators on simulated kinetics: unbiased, and intervals that cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from stream.diffusion import diffusion
from stream.dwells import seconds, site_dwells
from stream.kinetics import bootstrap_rate, log_rank, missed_share, survival
from stream.poisson import rate, rate_ratio
from stream.site_rows import table_type
from stream.tables import EVENTS
from tests.helpers.kinetics import session_of, sites_of, tables_session, two_states

PERIOD_S = 0.1


def covers(low, high, truth) -> float:
    return float(((np.asarray(low) <= truth) & (truth <= np.asarray(high))).mean())


def test_rates_through_gaps_are_unbiased_and_their_intervals_cover():
    """300 sessions of 20 sites, 1,500 frames, 5 % of them missing, and a long gap."""
    rng = np.random.default_rng(11)
    repeats, sites, arrival, departure = 300, 20, 0.01, 0.004
    state = two_states(rng, arrival, departure, 1500, repeats * sites)
    seen = rng.random(1500) >= 0.05
    seen[700:900] = False
    dwells = site_dwells(session_of(state, seen=seen, period_s=PERIOD_S))
    of_repeat = dwells["site"] // sites
    for occupied, truth in ((True, departure / PERIOD_S), (False, arrival / PERIOD_S)):
        mine = dwells["occupied"] == occupied
        n = np.bincount(of_repeat[mine], dwells["ended"][mine], repeats)
        time_s = np.bincount(of_repeat[mine], seconds(dwells[mine]), repeats)
        found = rate(n, time_s)
        # what is undone between two frames is not seen: (arrival + departure) / 2 of the switches
        assert n.sum() / time_s.sum() == pytest.approx(truth, rel=0.02)
        assert 0.92 <= covers(found.low_hz, found.high_hz, truth) <= 0.98


def test_the_survival_interval_covers():
    rng = np.random.default_rng(12)
    at, covered = 8.0, []
    for _ in range(400):
        lasts, watched = rng.exponential(10, 60), rng.uniform(0, 40, 60)
        curve = survival(np.minimum(lasts, watched), lasts <= watched)
        k = np.searchsorted(curve.time_s, at, side="right") - 1
        covered.append(curve.low[k] <= np.exp(-at / 10) <= curve.high[k])
    assert 0.92 <= np.mean(covered) <= 0.98


def test_of_sites_that_differ_the_bootstrap_covers_and_garwood_does_not():
    rng = np.random.default_rng(13)
    shape, truth, boot, exact = 1.0, 0.5, [], []
    for _ in range(400):
        time_s = rng.uniform(5, 15, 60)
        events = rng.poisson(rng.gamma(shape, truth / shape, 60) * time_s)
        boot.append(bootstrap_rate(events, time_s, rng, 1000))
        whole = rate(events.sum(), time_s.sum())
        exact.append((whole.low_hz, whole.high_hz))
    assert 0.91 <= covers(*np.transpose(boot), truth) <= 0.98
    assert covers(*np.transpose(exact), truth) < 0.8


def test_sites_that_are_alike_lose_little_by_the_bootstrap():
    rng = np.random.default_rng(14)
    boot = [bootstrap_rate(rng.poisson(5.0, 30), np.full(30, 10.0), rng, 1000) for _ in range(400)]
    assert 0.92 <= covers(*np.transpose(boot), 0.5) <= 0.98


def test_two_equal_rates_are_rarely_called_different_and_the_ratio_is_covered():
    rng = np.random.default_rng(15)
    tests = [rate_ratio(rng.poisson(30), 100.0, rng.poisson(24), 80.0) for _ in range(500)]
    assert 0.015 <= np.mean([t.p_value < 0.05 for t in tests]) <= 0.06  # exact: at most 5 %, less chance
    unequal = [rate_ratio(rng.poisson(20), 100.0, rng.poisson(40), 100.0) for _ in range(500)]
    assert 0.94 <= covers([t.low for t in unequal], [t.high for t in unequal], 2.0) <= 0.99


def test_dwells_of_sites_that_differ_need_the_test_by_sites():
    """Each of 40 sites has its own rate and up to 12 dwells: nothing differs between the conditions."""
    rng = np.random.default_rng(16)
    by_site, alone = [], []
    for _ in range(300):
        sides = []
        for _side in range(2):
            site = np.repeat(np.arange(40), rng.integers(1, 13, 40))
            lasts = rng.exponential(rng.gamma(1.0, 10.0, 40)[site])
            watched = rng.uniform(0, 60, len(site))
            sides.append((np.minimum(lasts, watched), lasts <= watched, site))
        (a, a_end, a_site), (b, b_end, b_site) = sides
        by_site.append(log_rank((a, a_end), (b, b_end), (a_site, b_site + 40)).p_value)
        alone.append(log_rank((a, a_end), (b, b_end)).p_value)
    assert 0.02 <= np.mean(np.array(by_site) < 0.05) <= 0.09
    assert np.mean(np.array(alone) < 0.05) > 0.2


def test_the_hazard_ratio_and_its_interval_find_an_effect():
    rng = np.random.default_rng(17)
    found = []
    for _ in range(300):
        sides = []
        for mean in (10.0, 10.0 / 1.3):
            lasts, watched = rng.exponential(mean, 120), rng.uniform(5, 40, 120)
            sides.append((np.minimum(lasts, watched), lasts <= watched))
        found.append(log_rank(*sides))
    assert np.median([f.hazard_ratio for f in found]) == pytest.approx(1.3, rel=0.04)
    assert 0.92 <= covers([f.low for f in found], [f.high for f in found], 1.3) <= 0.98


@pytest.mark.parametrize("departure", [0.003, 0.01, 0.03])
def test_what_is_missed_stays_within_the_bound_and_the_bound_is_not_idle(departure):
    """A tracker that sees no dwell of up to 3 frames: each is merged into what surrounds it."""
    rng = np.random.default_rng(18)
    dead, arrival = 3, 0.01
    state = two_states(rng, arrival, departure, 30_000, 40)
    truth = 2 * arrival * departure / (arrival + departure)
    kept = time = 0
    for site in state.T:
        at = np.flatnonzero(np.diff(site)) + 1
        while len(at) > 1 and (np.diff(at) <= dead).any():  # the earliest short dwell goes, then look again
            k = int(np.argmax(np.diff(at) <= dead))
            at = np.delete(at, [k, k + 1])
        kept, time = kept + len(at), time + len(site)
    missed = 1 - kept / time / truth
    bound = missed_share(arrival, departure, dead + 0.5)
    assert missed <= bound
    assert missed > 0.25 * bound


def walkers(rng: np.random.Generator, gamma: float, frames: int, count: int, back: float):
    """Columns that hop on their own square lattices; a hop undoes the one before with probability `back`.

    Each place a column visits is a site.
    """
    steps = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])
    sites, events = [], []
    for walker in range(count):
        home = np.array([40.0 * (walker // 5), 40.0 * (walker % 5)]) + 20
        at = np.flatnonzero(rng.random(frames - 1) < 1 - np.exp(-gamma)) + 1
        place, last, number = np.zeros(2), None, {(0, 0): len(sites)}
        sites.append(home)
        for frame in at.tolist():
            undo = last is not None and rng.random() < back
            last = -last if undo and last is not None else steps[rng.integers(4)]
            start = number[tuple(place.astype(int).tolist())]
            place = place + last
            key = tuple(place.astype(int).tolist())
            if key not in number:
                number[key] = len(sites)
                sites.append(home + 0.3 * place)
            events.append((frame, start, number[key]))
    table = np.zeros(len(events), table_type(EVENTS))
    table["frame"], table["from_site"], table["to_site"] = np.array(events).T
    table["t_ns"], table["kind"] = table["frame"] * round(PERIOD_S * 1e9), b"hop"
    table = table[np.argsort(table["frame"], kind="stable")]
    rows = sites_of(np.array(sites))
    rows["observed_s"] = frames * PERIOD_S
    first = [
        rows["site"][np.all(np.array(sites) == [20 + 40 * (w // 5), 20 + 40 * (w % 5)], axis=1)]
        for w in range(count)
    ]
    rows["occupied_s"][np.concatenate(first)] = frames * PERIOD_S  # so a column that never hops is seen
    return tables_session(rows, table, np.arange(frames), PERIOD_S)


def test_diffusion_of_free_columns_is_unbiased_and_covered():
    rng = np.random.default_rng(19)
    gamma, frames = 0.02, 600
    truth = gamma / PERIOD_S * 0.3**2 / 4
    jump, msd, ends = [], [], []
    for _ in range(150):
        session = walkers(rng, gamma, frames, 25, back=0.0)
        found = diffusion(session, site_dwells(session), rng)
        assert found.columns == 25
        jump.append(found.jump_nm2_s)
        msd.append(found.msd_nm2_s[found.lag_s == 5.0][0])
        ends.append((found.low_nm2_s, found.high_nm2_s))
    assert np.mean(jump) == pytest.approx(truth, rel=0.03)
    assert np.mean(msd) == pytest.approx(truth, rel=0.06)
    assert 0.9 <= covers(*np.transpose(ends), truth) <= 0.99


def test_columns_that_hop_back_diffuse_less_than_their_hops_tell():
    rng = np.random.default_rng(20)
    session = walkers(rng, 0.05, 4000, 30, back=0.6)
    found = diffusion(session, site_dwells(session), rng)
    # <cos> of successive hops is -back: f = (1 + <cos>) / (1 - <cos>)
    assert found.correlation == pytest.approx(0.4 / 1.6, abs=0.08)
    assert found.jump_nm2_s == pytest.approx(0.05 / PERIOD_S * 0.3**2 / 4, rel=0.05)
