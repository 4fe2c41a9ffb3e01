"""Movies as another program reads them: FFmpeg, by way of PyAV, and its every frame and time."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from stream.mp4 import Mp4File
from stream.webm import WebmFile

SHAPE = (96, 128)
TIMES_MS = [0, 33, 67, 100, 133, 300, 333, 6000, 6033, *range(6100, 6900, 33)]  # a gap, and one of seconds
END_MS = 7000
CONTAINERS = {"webm": WebmFile, "mp4": Mp4File}


def pictures() -> np.ndarray:
    """(k, ny, nx, 3) u1: a bright square that wanders over a slope, so that no two frames are alike."""
    frames = np.empty((len(TIMES_MS), *SHAPE, 3), np.uint8)
    frames[:] = np.linspace(20, 120, SHAPE[1]).astype(np.uint8)[:, None]
    for k, frame in enumerate(frames):
        frame[10:30, 3 * k : 3 * k + 20] = (230, 60, 40)
    return frames


@pytest.fixture(scope="module", params=CONTAINERS)
def movie(request, tmp_path_factory) -> Path:
    container, frames = CONTAINERS[request.param], pictures()
    path = tmp_path_factory.mktemp("movie") / f"m.{request.param}"
    with container(path, SHAPE) as out:
        for start in range(0, len(frames), container.group):
            part = slice(start, start + container.group)
            out.write(container.encode(frames[part]), TIMES_MS[part])
        out.finish(END_MS)
    return path


def test_every_frame_comes_back_at_its_time(movie: Path) -> None:
    with av.open(str(movie)) as opened:
        (stream,) = opened.streams.video
        decoded = list(opened.decode(stream))
        assert (stream.width, stream.height) == SHAPE[::-1]
        assert opened.duration == END_MS * 1000
    assert [round(1000 * float(f.pts * f.time_base)) for f in decoded] == TIMES_MS
    for frame, picture in zip(decoded, pictures(), strict=True):
        error = np.abs(frame.to_ndarray(format="rgb24").astype(float) - picture)
        assert error.mean() < 4, "the same picture, as well as it was coded"


@pytest.mark.parametrize("second", [0.2, 6.01, 6.5])
def test_a_player_can_jump_into_it(movie: Path, second: float) -> None:
    with av.open(str(movie)) as opened:
        (stream,) = opened.streams.video
        opened.seek(int(second * 1e6))
        first = next(opened.decode(stream))
    assert first.time <= second
    assert first.time >= second - 6.1 if movie.suffix == ".mp4" else first.time >= second - 1.0


def test_a_single_frame_is_a_movie_too(tmp_path: Path) -> None:
    for suffix, container in CONTAINERS.items():
        path = tmp_path / f"one.{suffix}"
        with container(path, SHAPE) as out:
            out.write(container.encode(pictures()[:1]), [0])
            out.finish(40)
        with av.open(str(path)) as opened:
            assert len(list(opened.decode(video=0))) == 1
