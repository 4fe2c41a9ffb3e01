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


@pytest.mark.parametrize("what", ["noise", "honeycomb", "few"])
def test_where_there_is_no_lattice_of_columns_nothing_is_proposed(what):
    rng = np.random.default_rng(2)
    if what == "honeycomb":
        a, b = np.mgrid[:12, :12]
        cell = np.stack([a.ravel() * 0.213 + 0.0, (b.ravel() + 0.5 * a.ravel()) * 0.246], 1)
        other = cell + np.array([0.142, 0.0])
        yx = np.concatenate([cell, other])
    else:
        yx = rng.uniform(0, 5, (400 if what == "noise" else 5, 2))
    yx = np.ascontiguousarray(yx)
    spacing = float(np.median(cKDTree(yx).query(yx, 2)[0][:, 1]))
    assert not len(empty_places(yx, yx, spacing))


def test_steps_come_in_opposite_pairs():
    truth = Phantom(seed=5, frames=1).truth
    steps = lattice_steps(np.ascontiguousarray(truth.yx_nm[truth.occupancy[0]]), 0.25)
    assert len(steps) == 6
    assert cKDTree(steps).query(-steps)[0].max() < 1e-6
    assert sorted(np.hypot(*steps.T)) == pytest.approx([0.2497] * 4 + [0.2884] * 2, abs=1e-3)
