"""A small movie followed: drift, a jump, a blank frame, frames that are missing."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from stream.cli import app
from stream.files import open_recording
from stream.follow import follow
from stream.frame import CalibrationError
from tests.helpers.blob_movie import draw, triangular

SHAPE = (128, 128)
INDICES = [2, 3, 4, 6, 7, 8, 9, 10, 11, 12]  # 5 was not received
BLANK, JUMP = 8, 10


def write_movie(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Particles that shake by themselves on a specimen that drifts and once jumps; places and drift."""
    rng = np.random.default_rng(2)
    home = triangular(11.0, SHAPE) + rng.normal(0, 0.8, (len(triangular(11.0, SHAPE)), 2))
    home = home[np.hypot(*(home - 64).T) < 50]
    drift = np.array([[0.4, -0.3]]) * np.arange(len(INDICES))[:, None]
    drift[INDICES.index(JUMP) :] += [9.0, -7.0]
    frames = []
    for index, shift in zip(INDICES, drift, strict=True):
        yx = home + shift + rng.normal(0, 0.1, home.shape)
        image = np.zeros(SHAPE) if index == BLANK else 300 - draw(yx, 120.0, 2.2, SHAPE)
        frames.append(rng.poisson(image).astype(np.uint16))
    with h5py.File(path, "w") as file:
        file["frames"], file["frame_index"] = np.stack(frames), np.array(INDICES)
    return home, drift


def test_particles_keep_their_identity_through_drift_jump_blank_and_gap(tmp_path):
    home, drift = write_movie(tmp_path / "movie.h5")
    with open_recording(tmp_path / "movie.h5") as recording:
        done = follow(recording, "dark-particles")
    assert done.lost == [BLANK]
    assert done.drifts == len(INDICES) - 2
    assert (done.frames, BLANK in done.points.frame) == (len(INDICES), False)
    for index, shift in zip(INDICES, drift, strict=True):
        here = done.points.frame == index
        if index != BLANK:
            np.testing.assert_allclose(done.points.drift_yx_px[here][0], shift - drift[0], atol=0.15)
    where = done.points.yx_px - done.points.drift_yx_px - drift[0]
    who = np.argmin(np.hypot(*(where[:, None] - home).transpose(2, 0, 1)), axis=1)
    for track in range(len(home)):
        assert len(set(who[done.track == track])) == 1
        assert np.count_nonzero(done.track == track) == len(INDICES) - 1
    assert done.track.max() + 1 == len(home)


def test_the_command_writes_what_was_followed_and_refuses_a_taken_name(tmp_path):
    write_movie(tmp_path / "movie.h5")
    command = ["track", str(tmp_path / "movie.h5"), "--find", "dark-particles", "--json"]
    done = CliRunner().invoke(app, [*command, "--csv", str(tmp_path / "tracks.csv")])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    table = np.genfromtxt(tmp_path / "tracks.csv", delimiter=",", names=True)
    assert table.dtype.names == ("y", "x", "frame", "particle", "mass", "drift_y", "drift_x")
    assert len(table) == summary["points"]
    assert (summary["frames"], summary["lost"]) == (len(INDICES), [BLANK])
    again = CliRunner().invoke(app, [*command, "--csv", str(tmp_path / "tracks.csv")])
    assert "never overwritten" in str(again.exception)


def test_a_picture_without_a_period_asks_for_it(tmp_path):
    np.save(tmp_path / "noise.npy", np.random.default_rng(1).poisson(10, (4, 128, 128)).astype(np.uint16))
    with (
        open_recording(tmp_path / "noise.npy") as recording,
        pytest.raises(CalibrationError, match="--period-px"),
    ):
        follow(recording, "bright-atoms")
