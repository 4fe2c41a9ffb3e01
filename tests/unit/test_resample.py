"""Resampling: positions survive, nothing is aliased, bad pixels take no part."""

from __future__ import annotations

import numpy as np
import pytest

from stream.resample import Resampler

SAMPLINGS = [(0.01, 0.02), (0.011, 0.02), (0.0199, 0.0213), (0.03, 0.02), (0.0023, 0.02)]


@pytest.mark.parametrize(("size_nm", "target_nm"), SAMPLINGS)
def test_positions_come_back_to_where_they_were(size_nm: float, target_nm: float) -> None:
    shape = (300, 377)
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = np.array([[117.3, 201.8]])
    width = 3 * max(1.0, target_nm / size_nm)
    image = np.exp(-((y - truth[0, 0]) ** 2 + (x - truth[0, 1]) ** 2) / 2 / width**2).astype("f4")
    resampler = Resampler(shape, size_nm, target_nm)
    small = resampler(image)
    assert small.shape == resampler.shape_yx
    assert small.dtype == np.float32
    at = [(small * index).sum() / small.sum() for index in np.indices(small.shape)]
    np.testing.assert_allclose(resampler.to_input_px(np.array([at])), truth, atol=0.01)


def test_corners_map_to_corners() -> None:
    resampler = Resampler((100, 60), 0.01, 0.02)
    corners = np.array([[-0.5, -0.5], [49.5, 29.5]], np.float32)
    back = resampler.to_input_px(corners)
    np.testing.assert_allclose(back, [[-0.5, -0.5], [99.5, 59.5]], atol=1e-6)
    assert back.dtype == np.float32


@pytest.mark.parametrize(("size_nm", "target_nm"), SAMPLINGS)
def test_a_constant_stays_constant_to_the_border(size_nm: float, target_nm: float) -> None:
    small = Resampler((64, 91), size_nm, target_nm)(np.full((64, 91), 7, np.uint16))
    np.testing.assert_allclose(small, 7, rtol=1e-6)


def test_what_the_coarse_image_cannot_hold_is_gone() -> None:
    x = np.arange(400)
    image = np.tile(100 + 50 * np.cos(np.pi * x * 0.9), (400, 1)).astype("f4")  # near Nyquist
    small = Resampler((400, 400), 0.01, 0.03)(image)
    assert np.abs(small[5:-5, 5:-5] - 100).max() < 1.0
    assert np.abs(image[::3, ::3] - 100).max() > 45  # which picking pixels would have kept


def test_equal_sampling_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 60000, (33, 44), dtype=np.uint16)
    resampler = Resampler(image.shape, 0.02, 0.02)
    assert resampler.identity
    np.testing.assert_array_equal(resampler(image), image)
    points = np.array([[3.2, 7.9]])
    np.testing.assert_array_equal(resampler.to_input_px(points), points)


def test_there_and_back_is_the_same_image() -> None:
    y, x = np.mgrid[:128, :128]
    image = (np.sin(y / 9) + np.cos(x / 11)).astype("f4")
    finer = Resampler(image.shape, 0.02, 0.01)
    back = Resampler(finer.shape_yx, 0.01, 0.02)(finer(image))
    assert np.abs(back - image)[4:-4, 4:-4].max() < 0.01


@pytest.mark.parametrize("target_nm", [0.02, 0.01, 0.008])
def test_bad_pixels_take_no_part(target_nm: float) -> None:
    image = np.full((120, 120), 50.0, np.float32)
    bad = np.zeros(image.shape, bool)
    bad[40] = bad[80:100, 80:100] = bad[7, 7] = True
    image[bad] = 1e6
    small = Resampler(image.shape, 0.01, target_nm)(image, bad)
    known = np.isfinite(small)
    np.testing.assert_allclose(small[known], 50, rtol=1e-4)
    scale = 0.01 / target_nm
    assert np.isnan(small[int(90 * scale), int(90 * scale)])
    assert known.mean() > 0.9


def test_pixels_that_are_not_finite_do_not_become_numbers() -> None:
    image = np.full((64, 64), 5.0, np.float32)
    image[32, 32] = np.nan
    small = Resampler(image.shape, 0.01, 0.02)(image)
    assert np.isnan(small[16, 16])
    assert np.isfinite(small[:10]).all()


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i4", "f2", "f8"])
def test_any_integer_or_real_dtype(dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, 200, (50, 60))
    resampler = Resampler(image.shape, 0.01, 0.017)
    np.testing.assert_allclose(resampler(image.astype(dtype)), resampler(image.astype("f4")), rtol=1e-6)


def test_bad_arguments_are_refused() -> None:
    resampler = Resampler((20, 20), 0.01, 0.02)
    with pytest.raises(ValueError, match="impossible pixel size"):
        Resampler((20, 20), 0.0, 0.02)
    with pytest.raises(ValueError, match="impossible pixel size"):
        Resampler((20, 20), 0.01, np.nan)
    with pytest.raises(ValueError, match="not an image's shape"):
        Resampler((0, 20), 0.01, 0.02)
    with pytest.raises(ValueError, match="cannot resample"):
        resampler(np.zeros((20, 21)))
    with pytest.raises(ValueError, match="cannot resample"):
        resampler(np.zeros((20, 20), bool))
    with pytest.raises(ValueError, match="mask does not fit"):
        resampler(np.zeros((20, 20)), np.zeros((20, 20), np.uint8))
