"""Empty places of lattices whose every place is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stream.lattice import empty_places, lattice_steps
from stream.phantom import Phantom


def test_the_free_places_of_a_particle_are_found_and_no_other_near_it():
    truth = Phantom(seed=3, frames=1).truth
    rng = np.random.default_rng(1)
    there = truth.occupancy[0] & (rng.random(len(truth.height)) < 0.97)  # with vacancies inside
    yx = np.ascontiguousarray(truth.yx_nm[there] + rng.normal(0, 0.005, (there.sum(), 2)))
    found = empty_places(yx, yx, 0.25)
    beside = cKDTree(yx).query_ball_point(truth.yx_nm[~there], 0.31, return_length=True) >= 2
    apart, _ = cKDTree(found).query(truth.yx_nm[~there][beside])
    assert (apart < 0.03).mean() > 0.97
    nearest_column, _ = cKDTree(yx).query(found)
    assert nearest_column.min() > 0.2
    assert nearest_column.max() < 0.32


def test_known_places_are_not_proposed_again():
    truth = Phantom(seed=3, frames=1).truth
    there = truth.occupancy[0]
    yx = np.ascontiguousarray(truth.yx_nm[there])
    found = empty_places(yx, yx, 0.25)
    assert len(found)
    assert not len(empty_places(yx, np.concatenate([yx, found]), 0.25))


@pytest.mark.parametrize("count", [5, 400])
def test_where_there_is_no_lattice_of_columns_nothing_is_proposed(count):
    yx = np.random.default_rng(2).uniform(0, 5, (count, 2))
    spacing = float(np.median(cKDTree(yx).query(yx, 2)[0][:, 1]))
    assert not len(empty_places(yx, yx, spacing))


BOND_NM = 0.142
_A, _B = BOND_NM * np.array([[3**0.5, 0.0], [0.75**0.5, 1.5]])


def honeycomb(turn_rad: float, reach: int = 40) -> np.ndarray:
    """Places (n, 2) in nm of graphene around an atom at 0."""
    a, b = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1, 1)
    turn = np.array([[np.cos(turn_rad), np.sin(turn_rad)], [-np.sin(turn_rad), np.cos(turn_rad)]])
    cell = a * _A + b * _B
    return np.concatenate([cell, cell + (_A + _B) / 3]) @ turn


def median_spacing(yx: np.ndarray) -> float:
    return float(np.median(cKDTree(yx).query(yx, 2)[0][:, 1]))


@pytest.mark.parametrize("seed", range(6))
def test_vacancies_and_the_rim_of_a_honeycomb_are_proposed_and_ring_middles_never(seed):
    rng = np.random.default_rng(seed)
    places = honeycomb(rng.uniform(0, np.pi))
    flake = np.hypot(*places.T) < rng.uniform(6, 14) * BOND_NM
    there = flake & (rng.random(len(places)) > 0.05)
    yx = places[there] + rng.normal(0, 0.05 * BOND_NM, (there.sum(), 2))
    found = empty_places(yx, yx, median_spacing(yx))
    assert cKDTree(places).query(found)[0].max() < 0.25 * BOND_NM, "each is a place of the lattice"
    bonded = cKDTree(places[there]).query(places)[0] < 1.1 * BOND_NM
    apart = cKDTree(found).query(places)[0] / BOND_NM
    assert (apart[flake & ~there & bonded] < 0.25).mean() > 0.95
    assert (apart[~flake & bonded] < 0.25).mean() > 0.8
    assert bonded[cKDTree(places).query(found)[1]].all(), "no place without a neighbour"
    assert not len(empty_places(yx, np.concatenate([yx, found]), median_spacing(yx)))


def test_a_grain_of_a_honeycomb_does_not_go_on_in_the_rings_of_another():
    rng, proposed = np.random.default_rng(7), 0
    for _ in range(5):
        grains = honeycomb(0.0), honeycomb(rng.uniform(0.2, 0.45))
        edge = 1.6 + 0.4 * BOND_NM * np.array([-1, 1])
        within = [(np.abs(grain) < 2.3).all(axis=1) for grain in grains]
        yx = np.concatenate(
            [
                grains[0][within[0] & (grains[0][:, 1] < edge[0])],
                grains[1][within[1] & (grains[1][:, 1] > edge[1])],
            ]
        )
        yx = yx[rng.random(len(yx)) > 0.03]
        yx += rng.normal(0, 0.05 * BOND_NM, yx.shape)
        found = empty_places(yx, yx, median_spacing(yx))
        beside = cKDTree(yx).query_ball_point(found, 1.35 * BOND_NM, return_length=True)
        assert beside.max() <= 4
        proposed += len(found)
    assert proposed > 200


CELLS = {
    "square": ((1.0, 0.0), (0.0, 1.0)),
    "hexagonal": ((1.0, 0.0), (0.5, 0.75**0.5)),
    "oblique": ((1.0, 0.0), (0.35, 1.2)),
    "long": ((1.0, 0.0), (0.0, 1.5)),
}


@pytest.mark.parametrize("name", CELLS)
def test_lattices_of_one_column_have_no_longer_steps_than_between_neighbours(name):
    cell = 0.25 * np.array(CELLS[name])
    a, b = np.mgrid[-9:10, -9:10].reshape(2, -1, 1)
    yx = (a * cell[0] + b * cell[1]).reshape(-1, 2)
    yx = yx[(np.hypot(*yx.T) < 1.9) & (np.random.default_rng(1).random(len(yx)) > 0.03)]
    steps = lattice_steps(yx, 0.25)
    among = [i * cell[0] + j * cell[1] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    expected = [step for step in among if np.hypot(*step) < 1.35 * 0.25]
    assert sorted(map(tuple, steps.round(9))) == sorted(tuple(step.round(9)) for step in expected)


def test_steps_come_in_opposite_pairs():
    truth = Phantom(seed=5, frames=1).truth
    steps = lattice_steps(np.ascontiguousarray(truth.yx_nm[truth.occupancy[0]]), 0.25)
    assert len(steps) == 6
    assert cKDTree(steps).query(-steps)[0].max() < 1e-6
    assert sorted(np.hypot(*steps.T)) == pytest.approx([0.2497] * 4 + [0.2884] * 2, abs=1e-3)
