"""Evidence from pictures whose sites, noise and occupancy are known: it must come near the best test there is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from stream.appearance import Appearance
from stream.picture import Picture, look_by

SPACING_PX = 12.0
LAG = 4


class World:
    """Columns as dark discs on a background of their own, in white or blurred noise."""

    def __init__(self, rng: np.random.Generator, contrast: float, blur_px: float = 0.0) -> None:
        self.rng, self.blur_px = rng, blur_px
        grid = np.stack(np.mgrid[2:10, 2:10], -1).reshape(-1, 2) * 1.5 * SPACING_PX
        self.yx_px = grid + rng.uniform(-2, 2, grid.shape)
        self.shape = (210, 210)
        self.background = 3.0 * gaussian_filter(rng.normal(size=self.shape), 3.0)
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        width = rng.uniform(2.0, 3.0, len(grid))
        self.discs = np.array([
            -contrast * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * w * w))
            for (cy, cx), w in zip(self.yx_px, width, strict=True)
        ])  # fmt: skip

    def picture(self, occupied: np.ndarray) -> Picture:
        noise = self.rng.normal(size=self.shape)
        if self.blur_px:
            noise = gaussian_filter(noise, self.blur_px)
            noise /= noise.std()
        image = self.background + np.tensordot(occupied.astype(float), self.discs, 1) + noise
        return Picture(image.astype(np.float32))


def followed(world: World, frames: int, told_p: float = 1.0) -> tuple[Appearance, np.ndarray, np.ndarray]:
    """Show `frames` pictures with columns that come and go; evidence and occupancy of the last quarter."""
    rng, n = world.rng, len(world.yx_px)
    looks = Appearance(LAG)
    looks.add(n)
    occupied, past, ratios, truth = rng.random(n) < 0.5, [], [], []
    for frame in range(frames):
        occupied = occupied ^ (rng.random(n) < 0.1)
        past.append(occupied)
        ratio, _ = looks.log_ratio(world.picture(occupied), world.yx_px, np.ones(n, bool), SPACING_PX)
        if len(past) > LAG:
            looks.learn(np.where(past[-1 - LAG], told_p, 1 - told_p))
        if frame >= 0.75 * frames:
            ratios.append(ratio)
            truth.append(occupied)
    return looks, np.array(ratios), np.array(truth)


@pytest.mark.parametrize(("blur_px", "contrast"), [(0.0, 0.6), (1.0, 2.0)])
def test_evidence_comes_near_the_best_possible_test(blur_px, contrast):
    """The bound is that of a matched filter that knows the disc, in the noise the world was given.

    White noise of unit variance: d'² = Σ disc². Blurred: whitened in the spectrum.
    """
    world = World(np.random.default_rng(1), contrast=contrast, blur_px=blur_px)
    _, ratio, occupied = followed(world, 600)
    error = float(np.mean((ratio > 0) != occupied))
    spectrum = 1.0
    if blur_px:
        noise = gaussian_filter(np.eye(1, 210 * 210).reshape(210, 210), blur_px, mode="wrap")
        spectrum = np.abs(np.fft.fft2(noise)) ** 2 / (noise**2).sum()
    power = np.abs(np.fft.fft2(world.discs)) ** 2 / np.maximum(spectrum, 1e-3) / 210**2
    bound = float(norm.cdf(-0.5 * np.sqrt(power.sum(axis=(1, 2)))).mean())
    assert 0.5 * bound < error < 1.5 * bound + 0.01


def test_evidence_is_as_strong_as_it_says():
    """Log-likelihood ratios that are true satisfy mean = ± half their variance, and a logistic slope of one."""
    world = World(np.random.default_rng(2), contrast=0.45)
    _, ratio, occupied = followed(world, 800)
    bins = np.digitize(ratio.ravel(), np.linspace(-4, 4, 9))
    for b in range(1, 9):
        inside = bins == b
        odds = np.log((occupied.ravel()[inside].sum() + 0.5) / ((~occupied.ravel()[inside]).sum() + 0.5))
        assert odds == pytest.approx(ratio.ravel()[inside].mean(), abs=0.9)


def test_half_sure_labels_teach_as_well():
    world = World(np.random.default_rng(3), contrast=0.8)
    _, ratio, occupied = followed(world, 400, told_p=0.8)
    assert (
        np.mean((ratio > 0) != occupied) < 0.15
    )  # the means are drawn together by labels of 0.8: 0.10 was seen


def test_what_was_never_seen_empty_is_expected_to_change_as_the_others_do():
    world = World(np.random.default_rng(4), contrast=1.0)
    rng, n = world.rng, len(world.yx_px)
    always = np.arange(n) < 10
    looks = Appearance(LAG)
    looks.add(n)
    past = []
    for _ in range(200):
        past.append(always | (rng.random(n) < 0.5))
        ratio, told = looks.log_ratio(world.picture(past[-1]), world.yx_px, np.ones(n, bool), SPACING_PX)
        if len(past) > LAG:
            looks.learn(past[-1 - LAG].astype(float))
    assert (told[always] > 4).all()
    assert (ratio[always] > 0).mean() > 0.9
    gone = np.zeros(n, bool)
    ratio, _ = looks.log_ratio(world.picture(gone), world.yx_px, np.ones(n, bool), SPACING_PX)
    assert (ratio[always] < 0).mean() > 0.9


def test_nothing_is_said_while_nothing_is_known_and_of_what_is_out_of_view():
    world = World(np.random.default_rng(5), contrast=1.0)
    n = len(world.yx_px)
    looks = Appearance(LAG)
    looks.add(n)
    ratio, told = looks.log_ratio(world.picture(np.ones(n, bool)), world.yx_px, np.ones(n, bool), SPACING_PX)
    assert not ratio.any()
    assert not told.any()
    looks, _, _ = followed(world, 200)
    in_view = np.arange(n) % 2 == 0
    ratio, _ = looks.log_ratio(world.picture(np.ones(n, bool)), world.yx_px, in_view, SPACING_PX)
    assert not ratio[~in_view].any()
    assert ratio[in_view].all()


def test_columns_that_never_differ_are_no_evidence():
    world = World(np.random.default_rng(6), contrast=0.0)
    n = len(world.yx_px)
    looks = Appearance(LAG)
    looks.add(n)
    for _ in range(300):
        ratio, told = looks.log_ratio(
            world.picture(np.ones(n, bool)), world.yx_px, np.ones(n, bool), SPACING_PX
        )
        looks.learn((world.rng.random(n) < 0.5).astype(float))
    assert np.median(told) < 1.0
    assert np.abs(ratio).mean() < 0.5


def test_goes_on_from_its_state():
    world = World(np.random.default_rng(7), contrast=0.8)
    looks, _, _ = followed(world, 150)
    other = Appearance(LAG)
    other.restore(looks.state())
    picture, all_seen = world.picture(np.ones(64, bool)), np.ones(64, bool)
    for a, b in zip(
        looks.log_ratio(picture, world.yx_px, all_seen, SPACING_PX),
        other.log_ratio(picture, world.yx_px, all_seen, SPACING_PX),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # sums may be taken in another order


@pytest.mark.parametrize("step", [1, 2, 3])
def test_patches_are_means_over_squares_at_any_position(step):
    """Of a plane, the mean over a square is the plane's value in its middle, whatever the fraction of a pixel."""
    y, x = np.mgrid[:80, :80].astype(np.float32)
    yx = np.random.default_rng(8).uniform(30, 50, (20, 2))
    patches = np.empty((20, 25), np.float32)
    look_by(step)(3 * y - 2 * x, yx, np.ones(20, bool), patches)
    grid = step * np.stack(np.mgrid[-2:3, -2:3], -1).reshape(-1, 2)
    at = yx[:, None] + grid
    np.testing.assert_allclose(patches, 3 * at[..., 0] - 2 * at[..., 1], atol=1e-3)
    counts = np.zeros((80, 80), np.float32)
    counts[40, 40] = 1
    look_by(step)(counts, np.array([[40.3, 39.6]]), np.ones(1, bool), patches[:1])
    assert patches[0].sum() == pytest.approx(1 / step**2)


def test_beyond_the_border_its_pixels_stand_for_what_is_not_there():
    image = np.random.default_rng(9).normal(size=(60, 70)).astype(np.float32)
    yx = np.random.default_rng(10).uniform((-3, -3), (63, 73), (300, 2))
    patches, wanted = np.empty((2, 300, 25), np.float32), np.ones(300, bool)
    look_by(3)(image, yx, wanted, patches[0])
    look_by(3)(np.pad(image, 20, mode="edge"), yx + 20, wanted, patches[1])
    np.testing.assert_allclose(patches[0], patches[1], atol=1e-5)


def test_a_coarser_picture_is_looked_at_in_the_right_place():
    picture = Picture(np.zeros((10, 10), np.float32), (2.0, 4.0))
    np.testing.assert_allclose(picture.to_image_px(np.array([[0.5, 1.5], [4.5, 9.5]])), [[0, 0], [2, 2]])


def test_a_site_in_more_noise_than_the_others_says_no_more_than_it_knows():
    """A likelihood ratio spreads, in either state, by as much as its means in both lie apart, whatever the noise."""
    world = World(np.random.default_rng(9), contrast=1.2)
    rng, n = world.rng, len(world.yx_px)
    flickering = np.arange(n) < 8
    still = world.discs.copy()
    looks = Appearance(LAG)
    looks.add(n)
    occupied, past, ratios = rng.random(n) < 0.5, [], []
    for _ in range(600):
        occupied = occupied ^ (rng.random(n) < 0.1)
        past.append(occupied)
        flicker = np.where(flickering, rng.normal(0, 0.5, n), 0.0)
        world.discs = still * np.where(occupied, 1 + flicker, flicker)[:, None, None]
        ratio, _ = looks.log_ratio(world.picture(np.ones(n, bool)), world.yx_px, np.ones(n, bool), SPACING_PX)
        ratios.append(ratio)
        if len(past) > LAG:
            looks.learn(past[-1 - LAG].astype(float))
    ratios, truth = np.array(ratios[300:]), np.array(past[300:])
    for k in np.flatnonzero(flickering):
        full, empty = ratios[truth[:, k], k], ratios[~truth[:, k], k]
        assert 0.5 * (full.var() + empty.var()) < 1.5 * (full.mean() - empty.mean())


def test_columns_that_never_leave_are_not_held_for_empty_for_being_thinner_than_those_that_come_and_go():
    world = World(np.random.default_rng(10), contrast=3.0)
    rng, n = world.rng, len(world.yx_px)
    coming, never = np.arange(n) < 7, np.arange(n) >= n - 10
    always = ~coming & ~never
    world.discs[always] *= rng.uniform(0.3, 0.45, np.count_nonzero(always))[:, None, None]
    looks = Appearance(LAG)
    looks.add(n)
    past = []
    for _ in range(90):
        past.append(always | (coming & (rng.random(n) < 0.5)))
        ratio, _ = looks.log_ratio(world.picture(past[-1]), world.yx_px, np.ones(n, bool), SPACING_PX)
        if len(past) > LAG:
            looks.learn(past[-1 - LAG].astype(float))
            if looks.strange.size and ratio.any():
                assert (ratio[always] > 0).mean() > 0.95
    assert (ratio[always] > 0).all()
