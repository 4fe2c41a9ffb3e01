"""Real movies: the silicon atom that walks in graphene, and gold particles that drift at 750 °C.

`python -m tests.golden.test_real_tracks` prints the figures.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from stream.files import open_recording
from stream.follow import Followed, follow
from stream.matching import match
from stream.motion import common_shift
from tests.helpers.data import data_path

LAGS = (1, 2, 5, 20, 50, 100)
SHAPE = (369, 369)
BLANK = 177  # the gold movie's frame without an image


def silicon(path: Path) -> tuple[Followed, np.ndarray]:
    """The tracks, and how far the nearest point of each labelled frame is from the label, px."""
    with open_recording(path) as recording:
        done = follow(recording, "bright-atoms")
    with h5py.File(path, "r") as file:
        atoms = file["atoms"][()]  # type: ignore[index]
    labels = atoms[atoms["element"] == b"Si"]  # type: ignore[index]
    apart = [
        np.hypot(*(done.points.yx_px[done.points.frame == row["frame"]] - [row["y"], row["x"]]).T).min(
            initial=np.inf
        )
        for row in labels
    ]
    return done, np.array(apart)


def gold(path: Path) -> Followed:
    with open_recording(path) as recording:
        return follow(recording, "dark-particles")


def switches(done: Followed) -> tuple[int, set[int]]:
    """Identities checked without the tracks between: how many, and the tracks found to disagree.

    Two frames, up to 100 apart, are laid over each other by their common shift. Where a particle of one
    lies on a particle of the other, the two must be of one track; or of two, if one ended before the
    other began: it broke. Else the identity went to another particle.
    """
    points, track = done.points, done.track
    rows = {int(k): np.flatnonzero(points.frame == k) for k in np.unique(points.frame)}
    last, first = np.zeros(track.max() + 1, np.int64), np.full(track.max() + 1, 1 << 40)
    np.maximum.at(last, track, points.frame)
    np.minimum.at(first, track, points.frame)
    checked, wrong = 0, set()
    for lag in LAGS:
        for k in rows.keys() & {k - lag for k in rows}:
            one, other = rows[k], rows[k + lag]
            shift = common_shift(points.yx_px[other], points.yx_px[one], SHAPE, 90.0, done.period_px / 4)
            assert shift is not None
            partner = match(points.yx_px[other] - shift, points.yx_px[one], done.period_px / 4)
            found = partner >= 0
            was, now = track[one[partner[found]]], track[other[found]]
            checked += len(was)
            wrong |= set(was[(was != now) & (last[was] >= first[now])].tolist())
    return checked, wrong


@pytest.mark.data
def test_the_silicon_atom_is_one_track_over_the_missing_frames() -> None:
    done, apart = silicon(data_path("si_walk_movie.h5"))
    assert len(apart) == done.frames == 48
    assert np.mean(apart <= 2.0) >= 0.95
    assert len(np.unique(done.track)) == 1
    assert len(done.track) == done.frames, "once in each frame, and nothing else"


@pytest.mark.data
def test_gold_particles_are_followed_over_194_frames_without_an_identity_switch() -> None:
    done = gold(data_path("au_particles_750C_movie.tif"))
    assert (done.frames, done.lost, done.drifts) == (194, [BLANK], 192)
    length = np.bincount(done.track)
    assert length[done.track][length[done.track] >= 100].size > 0.9 * len(done.track)
    checked, wrong = switches(done)
    assert checked > 500_000
    # one pair of particles overlaps, and is seen as one until frame 25: of two, either may be the one
    assert len(wrong) <= 1


def main() -> None:
    done, apart = silicon(data_path("si_walk_movie.h5"))
    print(f"silicon: {np.count_nonzero(apart <= 2)} of {len(apart)} within 2 px, worst {apart.max():.2f} px")
    print(f"  {done.summary()}")
    done = gold(data_path("au_particles_750C_movie.tif"))
    length = np.bincount(done.track)
    checked, wrong = switches(done)
    print(f"gold: {done.summary()}")
    print(f"  tracks of 190 frames and more {np.count_nonzero(length >= 190)}, of one {(length == 1).sum()}")
    print(f"  points in tracks of 100 frames and more {length[length >= 100].sum() / length.sum():.3f}")
    print(f"  identities checked {checked}, tracks that disagree {sorted(wrong)}")


if __name__ == "__main__":
    main()
