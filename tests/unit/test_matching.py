"""Nearest neighbours by cells, against a k-d tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from stream.matching import crowded, match, nearest, neighbours, pairs, spacing


def points(seed: int, n: int, clustered: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    yx = rng.random((n, 2)) * 100
    if clustered and n:
        yx[: n // 2] = yx[0] + rng.normal(0, 0.5, (n // 2, 2))
        yx[-1] += 1e4  # one far away must not cost memory or find others
    return yx


steady = settings(deadline=None, derandomize=True, max_examples=60)
cases = given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.integers(0, 60) | st.integers(100, 300),
    st.floats(0.01, 200.0),
    st.booleans(),
)


@steady
@cases
def test_nearest_agrees_with_a_tree(seed, n, m, radius, clustered):
    yx, reference = points(seed, n, clustered), points(seed + 1, m, clustered)
    index, distance2 = nearest(yx, reference, radius)
    if m == 0:
        assert (index == -1).all()
        assert np.isinf(distance2).all()
        return
    distance, expected = cKDTree(reference).query(yx) if n else (np.empty(0), np.empty(0, int))
    within = distance <= radius
    np.testing.assert_array_equal(index, np.where(within, expected, -1))
    np.testing.assert_allclose(np.sqrt(distance2[within]), distance[within])
    assert np.isinf(distance2[~within]).all()


@steady
@cases
def test_match_gives_each_reference_to_the_nearest_that_chose_it(seed, n, m, radius, clustered):
    yx, reference = points(seed, n, clustered), points(seed + 1, m, clustered)
    chosen, distance2 = nearest(yx, reference, radius)
    partner = match(yx, reference, radius)
    for j in range(m):
        wooers = np.flatnonzero(chosen == j)
        winners = np.flatnonzero(partner == j)
        assert len(winners) == min(len(wooers), 1)
        if len(wooers):
            assert distance2[winners[0]] == distance2[wooers].min()


@steady
@cases
def test_pairs_are_all_that_are_close(seed, n, m, radius, clustered):
    yx, reference = points(seed, n, clustered), points(seed + 1, m, clustered)
    i, j, distance2 = pairs(yx, reference, radius)
    distance = np.hypot(*(yx[:, None] - reference).transpose(2, 0, 1))
    close = np.zeros((n, m), bool)
    close[i, j] = True
    assert np.count_nonzero(close) == len(i), "a pair twice"
    np.testing.assert_array_equal(close, distance <= radius)
    np.testing.assert_allclose(np.sqrt(distance2), distance[i, j])


@steady
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.floats(0.01, 60.0), st.booleans())
def test_neighbours_and_crowded_agree_with_distances(seed, n, radius, clustered):
    yx = points(seed, n, clustered)
    distance = np.hypot(*(yx[:, None] - yx).transpose(2, 0, 1))
    close = (distance <= radius) & ~np.eye(n, dtype=bool)
    np.testing.assert_array_equal(crowded(yx, radius), np.tril(close).any(axis=1))
    found = neighbours(yx, radius, 4)
    for i in range(n):
        expected = np.flatnonzero(close[i])
        expected = expected[np.argsort(distance[i, expected])][:4]
        np.testing.assert_allclose(distance[i, found[i, found[i] >= 0]], distance[i, expected])


def test_spacing_is_the_median_distance_to_the_nearest():
    square = 7.0 * np.argwhere(np.ones((20, 20)))
    assert spacing(square) == pytest.approx(7.0)
    line = np.column_stack([np.zeros(30), 3.0 * np.arange(30)])  # much sparser than its bounding square
    assert spacing(line) == pytest.approx(3.0)
    assert np.isnan(spacing(square[:1]))
    assert np.isnan(spacing(np.empty((0, 2))))
