"""Pairs of departures and arrivals: against every matching written out, and what a crowd is spared."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from stream.pairing import best, probabilities


def by_hand(weight: np.ndarray, alone: float = 1e-3) -> np.ndarray:
    d, a = weight.shape
    total, share = 0.0, np.zeros((d, a))
    for size in range(min(d, a) + 1):
        for rows in combinations(range(d), size):
            for columns in permutations(range(a), size):
                product = alone ** (d + a - 2 * size) * np.prod(weight[rows, columns])
                total += product
                share[rows, columns] += product
    return share / total


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (2, 2), (3, 4), (4, 3)])
def test_a_pair_has_its_share_of_all_matchings(shape):
    rng = np.random.default_rng(2)
    for _ in range(20):
        weight = np.where(rng.random(shape) < 0.6, np.exp(-2.0 * rng.integers(0, 3, shape)), 0.0)
        np.testing.assert_allclose(probabilities(weight), by_hand(weight), rtol=1e-9, atol=1e-12)


def test_what_is_far_apart_does_not_compete():
    weight = np.zeros((30, 30))
    np.fill_diagonal(weight, 1.0)
    np.testing.assert_allclose(probabilities(weight), np.eye(30), atol=1e-5)


def test_in_a_crowd_no_event_has_more_than_one_partner():
    share = probabilities(np.random.default_rng(3).random((14, 15)))
    assert share.sum(axis=0).max() < 1
    assert share.sum(axis=1).max() < 1
    assert share.min() > 0


def test_the_most_pairs_and_of_those_the_likeliest():
    assert best(np.array([[0.1, 1.0], [0.0, 0.1]])) == [(0, 0), (1, 1)]
    assert best(np.array([[0.1, 1.0], [1.0, 0.1]])) == [(0, 1), (1, 0)]
    assert best(np.zeros((2, 0))) == []
