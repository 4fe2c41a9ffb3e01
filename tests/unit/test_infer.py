"""From counts to columns, with a tiny engine that finds bright blobs: sampling, padding, bad pixels, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engines.manifest import EngineMismatch
from engines.runtime import Engine, open_engine
from stream.frame import CalibrationError
from stream.infer import STAGES, ColumnFinder
from stream.normalize import Normalizer
from tests.helpers.tiny_engine import make_tiny_engine

SPACING_NM, WIDTH_NM = 0.25, 0.04


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with open_engine(make_tiny_engine(tmp_path), threads=1) as engine:
        yield engine


def blobs(shape_yx: tuple[int, int], pixel_size_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts (u2) of a square lattice of bright blobs, slightly disordered, and their positions (n, 2) in px."""
    rng = np.random.default_rng(1)
    spacing, width = SPACING_NM / pixel_size_nm, WIDTH_NM / pixel_size_nm
    steps = [np.arange(spacing / 2, n - spacing / 4, spacing) for n in shape_yx]
    truth = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
    truth += rng.normal(0, 0.01 / pixel_size_nm, truth.shape)
    y, x = np.ogrid[: shape_yx[0], : shape_yx[1]]
    image = np.full(shape_yx, 50.0)
    reach = int(5 * width) + 1
    for cy, cx in truth:
        at_y, at_x = int(cy), int(cx)
        rows = slice(max(at_y - reach, 0), at_y + reach + 1)
        cols = slice(max(at_x - reach, 0), at_x + reach + 1)
        image[rows, cols] += 3000 * np.exp(-((y[rows] - cy) ** 2 + (x[:, cols] - cx) ** 2) / 2 / width**2)
    counts = rng.poisson(image).astype(np.uint16)
    counts.flags.writeable = False
    return counts, truth


@pytest.mark.parametrize(
    ("shape_yx", "pixel_size_nm", "seen_shape", "seen_nm"),
    [
        ((256, 256), 0.02, (256, 256), 0.02),
        ((251, 301), 0.0215, (251, 301), 0.0215),  # in the engine's range: as it is, padded
        ((512, 500), 0.01, (256, 250), 0.02),  # finer: shrunk
        ((700, 911), 0.006, (210, 273), 0.02),
        ((130, 170), 0.035, (228, 298), 0.02),  # coarser: enlarged
    ],
)
def test_columns_come_back_in_pixels_of_the_frame(
    engine: Engine,
    shape_yx: tuple[int, int],
    pixel_size_nm: float,
    seen_shape: tuple[int, int],
    seen_nm: float,
) -> None:
    counts, truth = blobs(shape_yx, pixel_size_nm)
    finder = ColumnFinder(engine, shape_yx, pixel_size_nm)
    columns, image = finder.find(counts)
    assert image.shape == seen_shape
    assert image.dtype == np.float32
    assert finder.pixel_size_nm == pytest.approx(seen_nm, rel=5e-3)
    assert len(columns) == len(truth)
    distance, partner = cKDTree(truth).query(columns.yx_px)
    assert len(set(partner)) == len(truth)
    assert np.sqrt((distance**2).mean()) * pixel_size_nm < 0.006
    inner = ((truth > 0.2 / pixel_size_nm) & (truth < np.array(shape_yx) - 0.2 / pixel_size_nm)).all(axis=1)
    bias = (columns.yx_px - truth[partner])[inner[partner]].mean(axis=0) * pixel_size_nm
    assert np.abs(bias).max() < 5e-4
    assert (columns.yx_px >= -0.5).all()
    assert (columns.yx_px <= np.array(shape_yx) - 0.5).all()
    assert 0.5 * WIDTH_NM < np.median(columns.sigma_px) * pixel_size_nm < 2 * WIDTH_NM


def test_the_image_is_the_normalized_one(engine: Engine) -> None:
    counts, _ = blobs((128, 128), 0.02)
    _, image = ColumnFinder(engine, counts.shape, 0.02).find(counts)
    np.testing.assert_array_equal(image, Normalizer(counts.shape, 50.0)(counts))


def test_the_same_frame_gives_the_same_columns_whatever_came_between(engine: Engine) -> None:
    counts, _ = blobs((125, 131), 0.02)
    finder = ColumnFinder(engine, counts.shape, 0.02)
    first, _ = finder.find(counts)
    finder.find(np.full(counts.shape, np.nan, np.float32))
    finder.find(counts[::-1])
    again, _ = finder.find(counts)
    np.testing.assert_array_equal(again.yx_px, first.yx_px)
    np.testing.assert_array_equal(again.score, first.score)


@pytest.mark.parametrize("pixel_size_nm", [0.02, 0.01])
def test_bad_pixels_make_no_columns(engine: Engine, pixel_size_nm: float) -> None:
    counts, truth = blobs((256, 256), pixel_size_nm)
    bad = np.zeros(counts.shape, bool)
    bad[:, 60] = bad[30, 30] = True
    spoilt = np.where(bad, 65535, counts).astype(np.uint16)
    finder = ColumnFinder(engine, counts.shape, pixel_size_nm)
    columns, image = finder.find(spoilt, bad)
    assert np.isfinite(image).all()
    away = np.abs(truth[:, 1] - 60) * pixel_size_nm > 0.1
    found, _ = cKDTree(columns.yx_px).query(truth[away])
    assert (found * pixel_size_nm < 0.03).all()
    assert cKDTree(truth).query(columns.yx_px)[0].max() * pixel_size_nm < 0.1


def test_a_blank_frame_has_no_columns(engine: Engine) -> None:
    finder = ColumnFinder(engine, (100, 100), 0.02)
    for blank in (np.zeros((100, 100), np.uint16), np.full((100, 100), np.nan, np.float32)):
        columns, image = finder.find(blank)
        assert len(columns) == 0
        assert (image == 0).all()


def test_the_threshold_is_the_engines_unless_told(engine: Engine) -> None:
    counts, truth = blobs((128, 128), 0.02)
    assert ColumnFinder(engine, counts.shape, 0.02).threshold == engine.manifest.threshold
    assert len(ColumnFinder(engine, counts.shape, 0.02, threshold=0.9999).find(counts)[0]) < len(truth)


def test_every_stage_is_timed(engine: Engine) -> None:
    finder = ColumnFinder(engine, (512, 512), 0.01)
    finder.find(np.random.default_rng(0).poisson(50, (512, 512)))
    assert tuple(finder.stage_ns) == STAGES
    assert all(ns > 0 for ns in finder.stage_ns.values())


def test_frames_that_cannot_be_made_to_fit_are_refused(engine: Engine) -> None:
    with pytest.raises(EngineMismatch, match=r"reads 0\.018 to 0\.022 nm/px.* got 0\.05 nm/px"):
        ColumnFinder(engine, (512, 512), 0.05)
    with pytest.raises(EngineMismatch, match=r"reads 0\.018 to 0\.022 nm/px.* got 2e-05 nm/px"):
        ColumnFinder(engine, (512, 512), 2e-5)


@pytest.mark.parametrize("pixel_size_nm", [0.0, -0.02, float("nan"), float("inf")])
def test_what_is_no_pixel_size_is_refused(engine: Engine, pixel_size_nm: float) -> None:
    with pytest.raises(CalibrationError, match="set pixel_size_nm"):
        ColumnFinder(engine, (512, 512), pixel_size_nm)


def test_bad_arguments_are_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="threshold"):
        ColumnFinder(engine, (128, 128), 0.02, threshold=1.0)
    finder = ColumnFinder(engine, (128, 128), 0.02)
    with pytest.raises(ValueError, match="another shape"):
        finder.find(np.zeros((128, 120), np.uint16))
    with pytest.raises(ValueError, match="mask does not fit"):
        finder.find(np.zeros((128, 128), np.uint16), np.zeros((128, 120), bool))
