"""Rates of sites that depend on each other: of a lattice gas, and of sites that do not."""

from __future__ import annotations

import numpy as np
import pytest

from stream.likelihood import Grid, estimate
from stream.matching import neighbours
from stream.phantom_motion import Kinetics
from stream.together import Rates, Switching, estimate_together, smoothed_together
from tests.helpers.evidence import Seen, evidence_of, simulated

FAINT = 6.6  # strength of the evidence at 30 e/Å² per frame, see `evidence_of`


def island(side: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (m, 6) on a triangular lattice, and (m,) bool, a round island in its middle."""
    row, column = np.divmod(np.arange(side * side), side)
    yx = np.stack([row * np.sqrt(3) / 2, column + 0.5 * (row % 2)], axis=1)
    return neighbours(yx, 1.2, 6), np.hypot(*(yx - yx.mean(axis=0)).T) < 0.3 * side


def lattice_gas(frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (m, 6), and who was there, (frames, m): columns that hop the faster the fewer hold them."""
    beside, start = island()
    kinetics = Kinetics(
        beside, np.zeros(len(start)), start, seed=seed, hop_rate=0.06, binding=1.2, exchange_rate=1e-3
    )
    return beside, np.array([kinetics.occupancy_at(k) for k in range(frames)])


def seen_dimly(truth: np.ndarray, seed: int) -> Seen:
    return Seen(np.arange(len(truth)), evidence_of(truth, FAINT, np.random.default_rng(seed)))


def grid_of(seen: Seen) -> Grid:
    return Grid.of(seen.t_ns, seen.period_s)


def switches(chance: np.ndarray, frames: int) -> np.ndarray:
    """(m,) f8, to be expected of sites at these chances (2, m) per frame."""
    return 2 * frames * chance[0] * chance[1] / chance.sum(axis=0)


def smoothed(seen: Seen, beside: np.ndarray, model: Switching) -> np.ndarray:
    """(frames, m) f8, P(occupied)."""
    parts = smoothed_together(seen, grid_of(seen), beside, model)
    return np.concatenate([p[0][window.rows[: window.last - window.first]] for window, p, _ in parts])


def wrong_frames(seen: Seen, beside: np.ndarray, found: Rates, truth: np.ndarray) -> int:
    """Of all sites and frames, how many are held for what they were not."""
    return np.count_nonzero((smoothed(seen, beside, found.switching) > 0.5) != truth)


def alone(seen: Seen) -> np.ndarray:
    """Neighbours of sites that have none."""
    return np.full((seen.sites, 1), -1)


def a_pair(frames: int, hop: float, alone: float, rng: np.random.Generator) -> np.ndarray:
    """(frames, 2) bool, two places: a column in one of them hops to the other, and either may switch alone."""
    state, out = np.array([True, False]), np.empty((frames, 2), bool)
    for frame in range(frames):
        out[frame] = state
        hops = state[0] != state[1] and rng.random() < hop
        state = state[::-1].copy() if hops else state ^ (rng.random(2) < alone)
    return out


def exactly(log_ratio: np.ndarray, hop: float, alone: float) -> np.ndarray:
    """(frames, 2) f8, P(occupied) of such a pair given all frames: forward and backward over its four states."""
    states = np.array([(0, 0), (0, 1), (1, 0), (1, 1)], bool)
    moves = np.array([[np.where(a != b, alone, 1 - alone).prod() for b in states] for a in states])
    moves[1:3] *= 1 - hop
    moves[[1, 2], [2, 1]] += hop
    likely = np.where(states, np.exp(log_ratio)[:, None, :], 1.0).prod(axis=2)
    ahead, back = likely.copy(), np.ones_like(likely)
    for t in range(1, len(likely)):
        ahead[t] *= ahead[t - 1] / ahead[t - 1].sum() @ moves
    for t in range(len(likely) - 2, -1, -1):
        back[t] = moves @ (likely[t + 1] * back[t + 1])
        back[t] /= back[t].sum()
    posterior = ahead * back
    return posterior / posterior.sum(axis=1, keepdims=True) @ states


@pytest.mark.parametrize("strength", [3.0, FAINT, 12.0])
def test_of_a_column_between_two_sites_they_say_what_both_together_would(strength):
    """Against the exact smoother of the pair; sites that do not speak to each other say much less."""
    hop, by_itself = 0.04, 0.002
    truth = a_pair(6000, hop, by_itself, np.random.default_rng(5))
    seen = Seen(np.arange(len(truth)), evidence_of(truth, strength, np.random.default_rng(6)))
    right = exactly(seen.ratio, hop, by_itself)
    model = Switching(np.full((2, 2), hop + by_itself), np.ones((2, 3)), by_itself / (hop + by_itself))
    told, silent = (smoothed(seen, beside, model) for beside in (np.array([[1], [0]]), alone(seen)))
    assert np.abs(told - right).mean() < 0.3 * np.abs(silent - right).mean()
    wrong, fewest, many = (np.count_nonzero((p > 0.5) != truth) for p in (told, right, silent))
    assert fewest > 3 or strength > FAINT
    assert wrong < 1.1 * fewest + 4 < 0.6 * many


@pytest.fixture(scope="module")
def gas() -> tuple[np.ndarray, np.ndarray, Seen]:
    beside, truth = lattice_gas(2000, seed=1)
    return beside, truth, seen_dimly(truth, seed=2)


def test_rates_of_a_lattice_gas_are_right_where_those_of_sites_alone_are_too_low(gas):
    beside, truth, seen = gas
    switched = np.count_nonzero(np.diff(truth, axis=0), axis=0)
    busy = switched >= 10
    by_itself = switches(estimate(seen, grid_of(seen))[0], len(truth))[busy].sum()
    together = switches(estimate_together(seen, grid_of(seen), beside).chance, len(truth))[busy].sum()
    assert switched[busy].sum() > 1000
    assert by_itself < 0.92 * switched[busy].sum()
    assert together == pytest.approx(switched[busy].sum(), rel=0.05)


def test_columns_that_few_hold_are_found_to_leave_the_sooner(gas):
    beside, truth, seen = gas
    switching = estimate_together(seen, grid_of(seen), beside).switching
    _, leave = switching.factor
    assert leave[1] > 2 * leave[2] > 4 * leave[3]
    hops = truth[:-1] & ~truth[1:]
    arrivals = ~truth[:-1] & truth[1:]
    beside_of = np.concatenate([arrivals, np.zeros((len(arrivals), 1), bool)], axis=1)[:, beside]
    explained = np.mean(beside_of.any(axis=2)[hops])  # departures with an arrival next to it
    assert switching.alone == pytest.approx(1 - explained, abs=0.12)


def test_together_more_frames_are_told_right(gas):
    beside, truth, seen = gas
    each, all_ = (
        wrong_frames(seen, around, estimate_together(seen, grid_of(seen), around), truth)
        for around in (alone(seen), beside)
    )
    assert all_ < 0.65 * each


def test_sites_that_do_not_depend_on_each_other_are_left_alone():
    """Beside each other on a lattice, but each goes its own way."""
    seen, truth = simulated(0.02, FAINT, 196, 1500, seed=3, missing=0.0)
    beside, _ = island()
    found = estimate_together(seen, grid_of(seen), beside)
    assert found.switching.alone > 0.85
    np.testing.assert_allclose(found.switching.factor[:, 2:5], 1.0, atol=0.35)
    switched = np.count_nonzero(np.diff(truth, axis=0))
    assert switches(found.chance, len(truth)).sum() == pytest.approx(switched, rel=0.04)
    each = estimate_together(seen, grid_of(seen), alone(seen))
    lost = wrong_frames(seen, beside, found, truth) / wrong_frames(seen, alone(seen), each, truth)
    assert lost < 1.05


def test_sites_without_neighbours_have_the_rates_of_each_for_itself():
    seen, _ = simulated(0.05, 25.0, 30, 600, seed=4)
    found = estimate_together(seen, grid_of(seen), alone(seen))
    chance, worth = estimate(seen, grid_of(seen))
    np.testing.assert_allclose(found.chance, chance, rtol=0.05)
    np.testing.assert_array_equal(found.worth, worth)
