"""Linking: the assignment against the paper's own matrix, gaps, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from stream import linking
from stream.linking import Linker, assign, link_points
from tests.helpers.walkers import same_tracks, walkers

FORBIDDEN = 1e9


def papers_cost(l_ij: np.ndarray, b: float, d: float) -> float:
    """The least cost of Jaqaman's matrix, built in full; FORBIDDEN where points cannot be linked."""
    n, m = l_ij.shape
    lower = min(b, d, l_ij.min())
    full = np.full((n + m, m + n), FORBIDDEN)
    full[:n, :m] = l_ij
    full[:n, m:][np.eye(n, dtype=bool)] = d
    full[n:, :m][np.eye(m, dtype=bool)] = b
    full[n:, m:] = np.where(l_ij.T < FORBIDDEN, lower, FORBIDDEN)
    return full[linear_sum_assignment(full)].sum()


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "sparse"])
@pytest.mark.parametrize("seed", range(8))
def test_links_cost_what_the_papers_matrix_costs(seed, dense, monkeypatch):
    if not dense:
        monkeypatch.setattr(linking, "_DENSE", 0)
    rng = np.random.default_rng(seed)
    l_ij = rng.random((12, 9)) ** 2
    l_ij[rng.random(l_ij.shape) < 0.6] = FORBIDDEN
    b, d = 0.3 * rng.random(2) + 0.1
    i, j = np.nonzero(l_ij < FORBIDDEN)
    linked = assign(i, j, l_ij[i, j], b, d, lower=min(b, d, l_ij.min()))
    assert len(set(i[linked])) == len(set(j[linked])) == linked.sum() > 0
    ours = l_ij[i, j][linked].sum() + b * (9 - linked.sum()) + d * (12 - linked.sum())
    ours += linked.sum() * min(b, d, l_ij.min())
    assert ours == pytest.approx(papers_cost(l_ij, b, d), rel=1e-12)


def test_a_gap_is_as_long_as_the_frames_that_went_by():
    frame = np.array([1, 2, 3, 5, 6, 9])  # 4, 7 and 8 were empty or not received
    yx = np.zeros((6, 2))
    assert link_points(frame, yx, 1.0, gap_frames=1).tolist() == [0, 0, 0, 1, 1, 2]
    assert link_points(frame, yx, 1.0, gap_frames=2).tolist() == [0, 0, 0, 0, 0, 1]
    assert link_points(frame, yx, 1.0, gap_frames=3).tolist() == [0] * 6
    linker = Linker(1.0, gap_frames=2)
    assert [int(linker.update(int(k), np.zeros((1, 2)))[0]) for k in frame] == [0, 0, 0, 0, 0, 1]


def test_walkers_in_a_thin_crowd_are_followed_without_a_switch():
    frame, yx, who = walkers(3, count=30, frames=200, step=0.3, side=300.0, missed=0.1)
    track = link_points(frame, yx, 3.0, gap_frames=6, b_gap=9.0, d_gap=9.0)
    assert same_tracks(track, who)


def test_the_global_choice_beats_the_nearest():
    """Both points are nearest to the first: taking it greedily would leave the other without partner."""
    track = link_points(np.array([0, 0, 1, 1]), np.array([[0, 0], [0, 2], [0, 1.1], [0, 3.2]]), 1.5)
    assert track.tolist() == [0, 1, 0, 1]


def test_nothing_is_linked_of_nothing():
    assert link_points(np.empty(0), np.empty((0, 2)), 1.0).shape == (0,)
    linker = Linker(1.0)
    assert linker.update(3, np.empty((0, 2))).shape == (0,)
    assert linker.update(4, np.zeros((1, 2))).tolist() == [0]


def test_what_cannot_be_linked_is_refused():
    with pytest.raises(ValueError, match="1 of 2 points are not finite"):
        link_points(np.zeros(2), np.array([[0.0, 1.0], [0.0, np.nan]]), 1.0)
    with pytest.raises(ValueError, match="radius > 0, got -1"):
        link_points(np.zeros(1), np.zeros((1, 2)), -1)
    linker = Linker(1.0)
    linker.update(7, np.empty((0, 2)))
    with pytest.raises(ValueError, match="frame 7 came after frame 7"):
        linker.update(7, np.zeros((1, 2)))
