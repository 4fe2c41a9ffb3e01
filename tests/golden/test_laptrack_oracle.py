"""Our linking against laptrack's, which is tested against TrackMate."""

from __future__ import annotations

import numpy as np
import pytest

from stream.linking import link_points
from tests.helpers.walkers import same_tracks, walkers

oracle = pytest.importorskip("laptrack", reason="the oracle, laptrack, is not installed")
networkx = pytest.importorskip("networkx", reason="laptrack's graphs")

CASES = {
    "sparse": ({"side": 200.0, "step": 1.0}, {"radius": 5.0}),
    "crowded": ({"count": 120, "side": 60.0, "step": 1.5}, {"radius": 8.0}),
    "one group": ({"count": 60, "side": 20.0, "step": 1.0}, {"radius": 15.0}),
    "gaps of one": ({"missed": 0.3}, {"radius": 5.0, "gap_frames": 2}),
    "long gaps, further": ({"missed": 0.4}, {"radius": 3.0, "gap_frames": 5, "gap_radius": 8.0}),
    "lost frames": ({"lost_frames": 0.3}, {"radius": 5.0, "gap_frames": 4}),
    "no gaps closed": ({"missed": 0.3}, {"radius": 5.0, "gap_frames": 1}),
    "costs told": (
        {"missed": 0.3, "count": 80, "side": 60.0},
        {"radius": 6.0, "gap_frames": 3, "b": 9.0, "d": 4.0, "b_gap": 20.0, "d_gap": 30.0},
    ),
}


def laptracks(frame: np.ndarray, yx: np.ndarray, told: dict[str, float]) -> np.ndarray:
    """The oracle's track of each point."""
    reach = told.get("gap_radius", told["radius"])
    gap_frames = int(told.get("gap_frames", 3))
    tracker = oracle.LapTrack(
        cutoff=told["radius"] ** 2,
        gap_closing_cutoff=reach**2 if gap_frames > 1 else False,
        gap_closing_max_frame_count=gap_frames,
        track_start_cost=told.get("b"),
        track_end_cost=told.get("d"),
        segment_start_cost=told.get("b_gap"),
        segment_end_cost=told.get("d_gap"),
        # the least of all alternatives is an element of its matrix, though nothing splits or merges
        no_splitting_cost=told.get("b_gap"),
        no_merging_cost=told.get("d_gap"),
    )
    rows = [np.flatnonzero(frame == k) for k in range(frame.min(), frame.max() + 1)]
    tree = tracker.predict([yx[r].reshape(-1, 2) for r in rows])
    track = np.full(len(frame), -1)
    for number, nodes in enumerate(networkx.weakly_connected_components(tree)):
        for at, index in nodes:
            track[rows[at][index]] = number
    return track


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_the_same_tracks_as_laptrack(case: str, seed: int) -> None:
    how, told = CASES[case]
    frame, yx, _ = walkers(seed, **how)
    assert same_tracks(link_points(frame, yx, **told), laptracks(frame, yx, told))
