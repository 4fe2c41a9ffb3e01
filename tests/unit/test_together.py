"""Rates of sites that depend on each other: of a lattice gas, and of sites that do not."""

from __future__ import annotations

import numpy as np
import pytest

from stream.likelihood import Grid, estimate
from stream.matching import neighbours
from stream.phantom_motion import Kinetics
from stream.together import Rates, estimate_together, smoothed_together
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


def wrong_frames(seen: Seen, beside: np.ndarray, found: Rates, truth: np.ndarray) -> int:
    """Of all sites and frames, how many are held for what they were not."""
    kept = [
        posterior[0][window.rows[: window.last - window.first]] > 0.5
        for window, posterior in smoothed_together(seen, grid_of(seen), beside, found.switching)
    ]
    return np.count_nonzero(np.concatenate(kept) != truth)


def alone(seen: Seen) -> np.ndarray:
    """Neighbours of sites that have none."""
    return np.full((seen.sites, 1), -1)


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
    assert all_ < 0.8 * each


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
