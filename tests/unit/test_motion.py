"""Common shift and mean squared displacement, against what was put in."""

from __future__ import annotations

import numpy as np
import pytest

from stream.motion import common_shift, mean_squared_displacement
from tests.helpers.walkers import walkers

VIEW = (200, 200)


@pytest.mark.parametrize("seed", range(5))
def test_the_shift_most_points_share_is_found_although_many_come_and_go(seed):
    rng = np.random.default_rng(seed)
    specimen = rng.random((900, 2)) * 300
    jump = rng.uniform(-40, 40, 2)
    views = []
    for shift in (np.zeros(2), jump):
        yx = specimen + shift + rng.normal(0, 0.3, specimen.shape)
        inside = np.all((yx > 50) & (yx < 250), axis=1) & (rng.random(len(yx)) < 0.85)
        views.append(yx[inside] - 50)
    shift = common_shift(views[1], views[0], VIEW, 60.0, 2.0)
    assert shift is not None
    np.testing.assert_allclose(shift, jump, atol=0.1)


def test_foreign_or_few_points_share_no_shift():
    rng = np.random.default_rng(7)
    one, other = rng.random((2, 600, 2)) * 200
    assert common_shift(one, other, VIEW, 30.0, 2.0) is None
    assert common_shift(one[:4], one[:4], VIEW, 30.0, 2.0) is None
    assert common_shift(one, np.empty((0, 2)), VIEW, 30.0, 2.0) is None
    assert common_shift(one[::60] + 1.7, one, VIEW, 30.0, 2.0) is None, "a few of many"
    assert common_shift(one + 100, one, VIEW, 30.0, 2.0) is None, "out of reach"


def test_brownian_walkers_spread_as_their_steps_say():
    frame, yx, who = walkers(11, count=400, frames=60, step=0.5, missed=0.2)
    spread = np.nanmean(mean_squared_displacement(frame, yx, who, 5), axis=0)
    np.testing.assert_allclose(spread, 2 * 0.5**2 * np.arange(1, 6), rtol=0.05)


def test_lags_that_never_occur_are_not_numbers():
    frame, track = np.array([3, 5, 9, 4]), np.array([7, 7, 7, 2])
    yx = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [1.0, 1.0]])
    spread = mean_squared_displacement(frame, yx, track, 6)
    assert np.isnan(spread[0]).all()
    np.testing.assert_array_equal(spread[1], [np.nan, 25.0, np.nan, 0.0, np.nan, 25.0])
