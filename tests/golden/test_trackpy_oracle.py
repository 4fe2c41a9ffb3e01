"""trackpy reads our tracks, and its mean squared displacement of them is ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream.columns import Columns
from stream.export import export_result
from stream.frame import Gap, SeriesHeader
from stream.motion import mean_squared_displacement
from stream.pipeline import Seen
from stream.tables import ResultFile, read_table
from stream.tracking import Tracker

oracle = pytest.importorskip("trackpy", reason="the oracle, trackpy, is not installed")
pandas = pytest.importorskip("pandas", reason="trackpy's tables")

SHAPE = (160, 200)
HEADER = SeriesHeader(1, SHAPE, np.dtype("<u2"), frame_period_s=0.1, pixel_size_nm=0.02)
HOME = np.stack(np.meshgrid(np.arange(20, 150, 14), np.arange(20, 190, 14), indexing="ij"), -1).reshape(-1, 2)
FRAMES = 40
GAP = Gap(1, 20, 1, "wire")
WALKS_PX = 0.12  # per frame


def write_result(path: Path) -> None:
    """A lattice that drifts, columns that are missed at times, and one that walks between two rows."""
    rng = np.random.default_rng(8)
    drift = np.cumsum(rng.normal(0, 0.1, (FRAMES, 2)), axis=0)
    tracker = Tracker(SHAPE, 0.02, 0.1)
    home = np.delete(HOME, 61, axis=0)
    with ResultFile(path, header=HEADER, settings_toml="", engine_toml="") as result:
        for index in range(FRAMES):
            if index == GAP.first:
                result.add_gap(GAP)
            if GAP.first <= index < GAP.first + GAP.count:
                continue
            lattice = home[rng.random(len(home)) < 0.95]
            walker = HOME[61] + np.array([0.0, WALKS_PX * (index - FRAMES / 2)])
            yx = np.vstack([lattice, walker]) + drift[index] + rng.normal(0, 0.1, (len(lattice) + 1, 2))
            n = len(yx)
            yx_px, score = yx.astype(np.float32), rng.uniform(0.6, 1, n).astype(np.float32)
            columns = Columns(yx_px, np.full(n, 2, np.float32), score, np.ones(n, np.uint8))
            tracked = tracker.update(index, index * 10**8, yx_px, score)
            result.add_frame(Seen(index, index * 10**8, 0, columns, np.zeros((1, 1)), tracked, {}))
        tracker.finish()
        result.finish(tracker)


def test_trackpy_reads_the_tracks_of_a_result_and_finds_the_same_displacements(tmp_path: Path) -> None:
    write_result(tmp_path / "result.h5")
    export_result(tmp_path / "result.h5", None, None, tracks_csv=tmp_path / "tracks.csv")
    tracks = pandas.read_csv(tmp_path / "tracks.csv")
    columns = read_table(tmp_path / "result.h5", "columns")
    assert len(tracks) == len(columns)
    np.testing.assert_allclose(np.sort(tracks["y"]), np.sort(columns["y_px"]), rtol=1e-6)
    np.testing.assert_allclose(np.sort(tracks["mass"]), np.sort(columns["score"]), rtol=1e-6)
    assert not tracks.duplicated(["frame", "particle"]).any()
    long = tracks.groupby("particle").size()
    over = np.count_nonzero(long > 30)  # but for those missed on both sides of the gap
    assert over > 0.95 * len(HOME), "each column is one track, over the gap as well"

    tracks["y"] -= tracks["drift_y"]
    tracks["x"] -= tracks["drift_x"]
    kept = oracle.filter_stubs(tracks, 10).reset_index(drop=True)
    theirs = oracle.imsd(kept, mpp=0.02, fps=10, max_lagtime=8)
    yx = kept[["y", "x"]].to_numpy() * 0.02
    ours = mean_squared_displacement(kept["frame"].to_numpy(), yx, kept["particle"].to_numpy(), 8)
    assert list(theirs.columns) == sorted(kept["particle"].unique())
    np.testing.assert_allclose(ours.T, theirs.to_numpy(), rtol=1e-6, atol=1e-12)
    drift = oracle.compute_drift(kept).diff().dropna()
    assert np.hypot(drift["y"], drift["x"]).median() < 0.1, "what is left after our drift is taken away"
