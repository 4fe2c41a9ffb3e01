"""Movies of a recording: what is drawn is where it was found, and missing frames stay missing."""

from __future__ import annotations

from pathlib import Path

import av
import h5py
import numpy as np
import pytest

from stream.frame import RecordingError
from stream.movie import write_movie
from tests.helpers.result import ABSENT, FRAMES, GAP, HEADER, SHAPE, SITES, WALKER, write_result

SEEN = [k for k in range(FRAMES) if not GAP.first <= k < GAP.first + GAP.count]
ZOOM = 768 / 200
VACANCY = WALKER - 25


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A result file, and the recording it could have been made of."""
    folder = tmp_path_factory.mktemp("movie")
    tracker = write_result(folder / "r.h5", VACANCY)
    assert tracker.sites.proposed.sum() == 1
    counts = np.random.default_rng(1).poisson(200, SHAPE).astype(HEADER.dtype)
    frames = np.repeat(counts[None], len(SEEN), axis=0)
    with h5py.File(folder / "m.h5", "w") as file:
        file["frames"], file["frame_index"] = frames, np.array(SEEN)
    return folder / "r.h5", folder / "m.h5"


@pytest.fixture(scope="module")
def decoded(
    made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[float, np.ndarray]]:
    """Time and picture of each frame of the movie."""
    out = tmp_path_factory.mktemp("out") / "m.webm"
    done: list[tuple[int, int]] = []
    write_movie(*made, out, on_frame=lambda n, total: done.append((n, total)))
    assert done[-1] == (len(SEEN), len(SEEN))
    assert [path.name for path in out.parent.iterdir()] == ["m.webm"]
    with av.open(str(out)) as movie:
        assert movie.duration == FRAMES * 100_000
        return [(float(f.time), f.to_ndarray(format="rgb24")) for f in movie.decode(video=0)]


def colour(picture: np.ndarray, site: int) -> np.ndarray:
    y, x = np.rint((SITES[site] + 0.5) * ZOOM - 0.5).astype(int)
    return picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0)


def yellow(picture: np.ndarray, site: int) -> np.ndarray:
    """How much yellower than grey it is around a site."""
    y, x = np.rint((SITES[site] + 0.5) * ZOOM - 0.5).astype(int)
    around = picture[y - 20 : y + 21, x - 20 : x + 21].astype(int)
    return around[..., 0] - around[..., 2]


def test_frames_have_their_times_and_a_gap_is_none(decoded) -> None:
    np.testing.assert_allclose([t for t, _ in decoded], np.array(SEEN) / 10, atol=1e-3)


def test_an_occupied_site_is_filled_and_an_empty_one_is_a_ring(decoded) -> None:
    during, after = decoded[SEEN.index(50)][1], decoded[SEEN.index(95)][1]
    for picture, site in ((during, 0), (during, WALKER - 1), (after, WALKER)):
        red, _, blue = colour(picture, site)
        assert blue > red + 60, "the filled dot is blue"
    red, _, blue = colour(during, WALKER)
    assert blue < red + 30, "nothing in the middle of the ring"
    assert 50 in ABSENT
    ring, proposed = (yellow(during, site) for site in (WALKER, VACANCY))
    assert (ring > 60).sum() > 40, "a yellow ring"
    assert 10 < (proposed > 30).sum() < (ring > 30).sum() / 2, "a smaller one, dashed"


def test_the_strip_below_changes_with_time(decoded) -> None:
    first, last = decoded[20][1], decoded[-1][1]
    assert first.shape == (round(160 * ZOOM / 2) * 2 + 36, 768, 3)
    strips = [picture[-36:, :380].astype(int) for picture in (first, last)]
    assert all(strip.max() > 200 for strip in strips)
    assert np.abs(strips[0] - strips[1]).max() > 150


def test_the_scale_bar_is_as_long_as_it_says(decoded) -> None:
    # 200 px at 0.02 nm are 4 nm: a bar of 0.5 nm
    picture = decoded[0][1]
    row = picture[-36 - 25].astype(int).min(axis=1)
    white = np.flatnonzero(row[:200] > 220)
    assert np.ptp(white) + 1 == pytest.approx(0.5 / 0.02 * ZOOM, abs=4)


def test_another_recording_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.ones((5, 64, 64), np.uint16))
    with pytest.raises(RecordingError, match="frames of"):
        write_movie(made[0], tmp_path / "other.npy", tmp_path / "m.webm")
    np.save(tmp_path / "short.npy", np.ones((5, *SHAPE), np.uint16))
    with pytest.raises(RecordingError, match="lacks 90 of the frames"):
        write_movie(made[0], tmp_path / "short.npy", tmp_path / "m.webm")
    with pytest.raises(RecordingError, match=r"\.webm or \.mp4"):
        write_movie(*made, tmp_path / "m.avi")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.npy", "short.npy"]


def test_a_movie_that_fails_leaves_nothing(made: tuple[Path, Path], tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_movie(*made, tmp_path / "m.mp4", on_frame=stop)
    assert list(tmp_path.iterdir()) == []
