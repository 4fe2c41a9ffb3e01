"""What must hold of tracks whatever the points: each in one track, once per frame, in any order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.linking import Linker, link_points
from tests.helpers.walkers import same_tracks, walkers

steady = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def once_per_frame(frame: np.ndarray, track: np.ndarray) -> bool:
    return len(np.unique(np.column_stack([frame, track]), axis=0)) == len(frame)


def steps(frame: np.ndarray, yx: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames and distance from each point to the next of its track."""
    order = np.lexsort((frame, track))
    same = np.diff(track[order]) == 0
    ahead, far = np.diff(frame[order]), np.hypot(*np.diff(yx[order], axis=0).T)
    return ahead[same], far[same]


def linked_online(frame: np.ndarray, yx: np.ndarray, linker: Linker) -> np.ndarray:
    track = np.full(len(frame), -1)
    for k in np.unique(frame):
        track[frame == k] = linker.update(int(k), yx[frame == k])
    return track


@steady
@given(
    seeds,
    st.integers(1, 60),
    st.integers(1, 12),
    st.floats(1.0, 60.0),
    st.integers(0, 4),
    st.floats(0.1, 2.0),
)
def test_every_point_is_in_one_track_and_no_track_twice_in_a_frame(seed, count, frames, side, gap, further):
    frame, yx, _ = walkers(seed, count, frames, side=side, missed=0.2, lost_frames=0.2)
    radius = 3.0
    for track in (
        link_points(frame, yx, radius, gap_frames=gap, gap_radius=radius * further),
        linked_online(frame, yx, Linker(radius * max(further, 1.0), gap_frames=gap)),
    ):
        assert set(track) == set(range(len(np.unique(track))))
        assert once_per_frame(frame, track)
        ahead, far = steps(frame, yx, track)
        assert (ahead >= 1).all()
        assert (ahead <= max(gap, 1)).all()
        assert (far <= radius * max(further, 1.0)).all()


@steady
@given(seeds, st.floats(5.0, 60.0), st.booleans())
def test_the_order_of_points_does_not_matter(seed, side, on_a_grid):
    frame, yx, _ = walkers(seed, 30, 8, side=side, missed=0.2)
    if on_a_grid:  # many equal costs
        yx = np.round(yx)
        _, first = np.unique(np.column_stack([frame, yx]), axis=0, return_index=True)
        frame, yx = frame[first], yx[first]
    shuffle = np.random.default_rng(seed).permutation(len(frame))
    for link in (
        lambda frame, yx: link_points(frame, yx, 4.0, gap_frames=3),
        lambda frame, yx: linked_online(frame, yx, Linker(4.0, gap_frames=3)),
    ):
        np.testing.assert_array_equal(link(frame, yx)[shuffle], link(frame[shuffle], yx[shuffle]))


@steady
@given(seeds, st.integers(1, 5))
def test_online_and_batch_agree_and_are_right_where_there_is_no_choice(seed, gap):
    rng = np.random.default_rng(seed)
    places = 20.0 * np.argwhere(np.ones((5, 5)))  # further apart than a walker may come
    frame, who = np.nonzero(rng.random((25, 25)) < 0.8)
    yx = places[who] + rng.uniform(-3, 3, (len(who), 2))
    radius = 10.0
    batch = link_points(frame, yx, radius, gap_frames=gap, b_gap=radius**2, d_gap=radius**2)
    online = linked_online(frame, yx, Linker(radius, gap_frames=gap))
    assert same_tracks(batch, online)
    pauses = np.zeros(len(frame), np.int64)  # a walker unseen for longer is another track
    for k in range(25):
        rows = np.flatnonzero(who == k)
        pauses[rows[1:]] = np.cumsum(np.diff(frame[rows]) > max(gap, 1))
    assert same_tracks(batch, who * 100 + pauses)


def test_memory_of_a_linker_is_that_of_its_last_frames():
    rng = np.random.default_rng(5)
    linker = Linker(1.0, gap_frames=3)
    for frame in range(200):
        linker.update(frame, rng.random((50, 2)) * 1000)
        assert len(linker._track) == len(linker._last) == len(linker._yx) <= 4 * 50


def test_points_that_blink_keep_their_identity_better_when_paused_tracks_compete():
    """Crowded walkers, three in ten missed: links to another walker, of the two ways of linking."""
    wrong = {"batch": 0, "online": 0}
    for seed in range(5):
        frame, yx, who = walkers(seed, 100, 60, step=0.5, side=60.0, missed=0.3)
        for name, track in (
            ("batch", link_points(frame, yx, 3.0, b_gap=9.0, d_gap=9.0)),
            ("online", linked_online(frame, yx, Linker(3.0))),
        ):
            order = np.lexsort((frame, track))
            same = np.diff(track[order]) == 0
            wrong[name] += np.count_nonzero(np.diff(who[order])[same])
    assert wrong["online"] < 0.8 * wrong["batch"]
