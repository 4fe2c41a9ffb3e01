"""Normalization: the exact reference against its definition, and the fast way against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stream.normalize import Normalizer, normalize_exact


def particle(shape_yx: tuple[int, int], seed: int = 0, dose: float = 100.0) -> np.ndarray:
    """Counts (u2) of a lattice in a disc, beside a step and on a slope."""
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]]
    inside = np.hypot(y - shape_yx[0] / 2, x - shape_yx[1] / 3) < min(shape_yx) / 3
    lattice = 1 + 0.4 * np.cos(y / 1.7) * np.cos(x / 1.6 + y / 9) * inside
    uneven = 1 + 0.7 * (y > 0.4 * shape_yx[0]) + 0.3 * x / shape_yx[1]
    return np.random.default_rng(seed).poisson(dose * lattice * uneven).astype(np.uint16)


def by_definition(stack: np.ndarray, sigma_px: float) -> np.ndarray:
    """Equations 2 and 3 of Madsen et al. 2018, with a mirrored border, word for word."""

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, sigma_px, mode="reflect", truncate=8)

    stack = stack.astype(np.float64)
    flat = stack - blur(stack.mean(axis=0))
    return flat / np.sqrt(blur((flat**2).mean(axis=0)))


def test_the_reference_is_the_papers_definition() -> None:
    stack = np.stack([particle((96, 120), seed) * (1 + seed) for seed in range(3)])
    np.testing.assert_allclose(normalize_exact(stack, 9.0), by_definition(stack, 9.0), atol=2e-5)
    np.testing.assert_allclose(normalize_exact(stack[1], 9.0), by_definition(stack[1:2], 9.0)[0], atol=2e-5)


def test_a_stack_keeps_its_relative_intensities() -> None:
    one = particle((64, 64)).astype(np.float64)
    normalized = normalize_exact(np.stack([one, one + 200]), 8.0)
    assert (normalized[1] - normalized[0]).min() > 0.5


@pytest.mark.parametrize(
    ("shape_yx", "sigma_px"),
    [((512, 512), 50.0), ((513, 400), 20.0), ((256, 300), 7.3), ((64, 64), 50.0), ((7, 300), 30.0)],
)
def test_the_fast_way_agrees_with_the_reference(shape_yx: tuple[int, int], sigma_px: float) -> None:
    image = particle(shape_yx)
    difference = np.abs(Normalizer(shape_yx, sigma_px)(image) - normalize_exact(image, sigma_px))
    assert difference.mean() < 1e-3
    assert difference.max() < 1e-2  # of a pixel that is several deviations from its mean


def test_the_fast_way_agrees_around_bad_pixels_and_never_reads_them() -> None:
    image = particle((256, 256))
    bad = np.random.default_rng(1).random(image.shape) < 0.01
    bad[:, 100:104] = True
    spiked = np.where(bad, 65535, image).astype(np.uint16)
    fast = Normalizer(image.shape, 20.0)(spiked, bad)
    exact = normalize_exact(spiked, 20.0, bad)
    assert np.abs(fast - exact).mean() < 1e-3
    assert np.abs(fast - exact).max() < 1e-2
    assert (fast[bad] == 0).all()
    assert (exact[bad] == 0).all()
    other = np.where(bad, 0, image).astype(np.uint16)
    np.testing.assert_array_equal(Normalizer(image.shape, 20.0)(other, bad), fast)


@pytest.mark.parametrize(("shape_yx", "sigma_px"), [((256, 300), 50.0), ((129, 200), 20.0), ((64, 80), 6.0)])
def test_a_stack_shares_mean_and_deviation_as_in_the_reference(
    shape_yx: tuple[int, int], sigma_px: float
) -> None:
    stack = np.stack([particle(shape_yx, seed, dose=100.0 * (1 + seed)) for seed in range(3)])
    bad = np.random.default_rng(1).random(shape_yx) < 0.01
    broken = stack.astype(np.float32)
    broken[1, 10:14, 20:30] = np.nan  # in one image alone
    normalizer = Normalizer(shape_yx, sigma_px, channels=3)
    for images, mask in ((stack, None), (stack, bad), (broken, None)):
        fast, exact = normalizer(images, mask), normalize_exact(images, sigma_px, mask)
        assert fast.shape == (3, *shape_yx)
        assert np.abs(fast - exact).mean() < 1e-3
        assert np.abs(fast - exact).max() < 1e-2
    assert (normalizer(broken)[1, 10:14, 20:30] == 0).all()
    assert (normalizer(np.full(stack.shape, 7.0)) == 0).all()


def test_a_stack_of_one_is_the_image() -> None:
    image, out = particle((90, 70)), np.empty((1, 90, 70), np.float32)
    normalizer = Normalizer(image.shape, 9.0)
    assert normalizer(image[None], out=out) is out
    np.testing.assert_array_equal(out[0], normalizer(image))


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i4", "u4", "i8", "f2", "f4", ">f4", "f8"])
def test_any_integer_or_real_dtype(dtype: str) -> None:
    image = particle((64, 80), dose=60)
    wanted = Normalizer(image.shape, 10.0)(image.clip(0, 255))
    got = Normalizer(image.shape, 10.0)(image.clip(0, 255).astype(dtype))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_brightness_and_contrast_do_not_matter() -> None:
    image = particle((128, 128)).astype(np.float32)
    normalizer = Normalizer(image.shape, 15.0)
    np.testing.assert_allclose(normalizer(3 * image + 1000), normalizer(image), atol=1e-3)


def test_pixels_that_are_not_finite_are_bad() -> None:
    image = particle((128, 128)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    bad[5, 5] = bad[60:70, 60:70] = True
    broken = np.where(bad, np.nan, image)
    broken[5, 5] = -np.inf
    got = Normalizer(image.shape, 12.0)(broken)
    np.testing.assert_array_equal(got, Normalizer(image.shape, 12.0)(image, bad))
    np.testing.assert_allclose(normalize_exact(broken, 12.0), normalize_exact(image, 12.0, bad))


@pytest.mark.parametrize("value", [0.0, 1.0, 30000.0, 1e-30, 1e30, np.nan])
def test_a_dead_flat_image_becomes_zeros(value: float) -> None:
    image = np.full((130, 75), value, np.float32)
    assert (Normalizer(image.shape, 11.0)(image) == 0).all()
    assert (normalize_exact(image, 11.0) == 0).all()


def test_the_shadow_of_a_beam_stop_becomes_zeros() -> None:
    image = particle((200, 200))
    image[:, :120] = 0
    for normalized in (Normalizer(image.shape, 10.0)(image), normalize_exact(image, 10.0)):
        assert (normalized[:, :50] == 0).all()
        assert 0.9 < normalized[:, 150:].std() < 1.1


def test_all_bad_is_zeros() -> None:
    image = particle((40, 40))
    bad = np.ones(image.shape, bool)
    assert (Normalizer(image.shape, 5.0)(image, bad) == 0).all()
    assert (normalize_exact(image, 5.0, bad) == 0).all()


def test_it_writes_where_it_is_told() -> None:
    image = particle((64, 64))
    out = np.empty((64, 64), np.float32)
    normalizer = Normalizer(image.shape, 8.0)
    assert normalizer(image, out=out) is out
    np.testing.assert_array_equal(out, normalizer(image))


def test_counts_stay_as_they_are() -> None:
    image = particle((64, 64))
    image.flags.writeable = False
    before = image.copy()
    Normalizer(image.shape, 8.0)(image)
    np.testing.assert_array_equal(image, before)


def test_bad_arguments_are_refused() -> None:
    image = particle((32, 32))
    normalizer = Normalizer((32, 32), 8.0)
    with pytest.raises(ValueError, match="sigma_px > 0"):
        Normalizer((32, 32), 0.0)
    with pytest.raises(ValueError, match="sigma_px > 0"):
        normalize_exact(image, np.nan)
    with pytest.raises(ValueError, match="another shape"):
        normalizer(image[:30])
    with pytest.raises(ValueError, match="unusable dtype"):
        normalizer(image.astype(complex))
    with pytest.raises(ValueError, match="mask does not fit"):
        normalizer(image, np.zeros((32, 31), bool))
    with pytest.raises(ValueError, match="mask does not fit"):
        normalize_exact(image, 8.0, np.zeros((32, 32)))
    with pytest.raises(ValueError, match="cannot write"):
        normalizer(image, out=np.empty((32, 32)))
    with pytest.raises(ValueError, match="not an image"):
        normalize_exact(image[0], 8.0)
