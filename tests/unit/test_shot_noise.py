"""Counts are Poisson, to the tails, and interpolation puts them where they belong."""

import numpy as np
import pytest
from scipy import stats

from stream.shot_noise import ShotNoise


def _counts(noise: ShotNoise, intensity: float, keys: range) -> np.ndarray:
    scene = np.full((517, 517), intensity, np.float32)
    frames = [noise.expose(scene, (512, 512), np.array([2.0, 2.0]), key) for key in keys]
    return np.concatenate(frames, axis=None).astype(np.int64)


@pytest.mark.parametrize("counts_per_unit", [0.4, 12.4, 60.0, 400.0])
@pytest.mark.parametrize("intensity", [0.2, 0.5371, 1.0, 1.3, 2.9])
def test_counts_follow_poisson_to_the_tails(counts_per_unit: float, intensity: float) -> None:
    noise = ShotNoise(counts_per_unit, 3.2)
    counts = _counts(noise, intensity, range(4))
    mean = counts_per_unit * intensity
    n = counts.size
    seen = np.bincount(counts)
    expected = n * stats.poisson.pmf(np.arange(len(seen)), mean)
    usual = expected > 10
    low, high = np.flatnonzero(usual)[[0, -1]]
    bins = np.concatenate([[seen[:low].sum()], seen[usual], [seen[high + 1 :].sum()]])
    ideal = np.concatenate(
        [[n * stats.poisson.cdf(low - 1, mean)], expected[usual], [n * stats.poisson.sf(high, mean)]]
    )
    real = ideal > 0
    assert stats.chisquare(bins[real], ideal[real] * bins[real].sum() / ideal[real].sum()).pvalue > 1e-3
    assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / n))
    # tails: about as many beyond the 1e-5 quantiles as there should be
    above = stats.poisson.ppf(1 - 1e-5, mean)
    rare = n * stats.poisson.sf(above, mean)
    assert abs((counts > above).sum() - rare) < 5 * np.sqrt(rare) + 1


def test_no_light_no_counts() -> None:
    noise = ShotNoise(12.4, 2.0)
    assert _counts(noise, 0.0, range(1)).max() == 0


def test_brighter_than_announced_is_cut_not_garbage() -> None:
    noise = ShotNoise(12.4, 2.0)
    assert _counts(noise, 50.0, range(1)).mean() == pytest.approx(12.4 * 2.0, rel=0.02)


def test_neighbouring_pixels_and_frames_are_independent() -> None:
    noise = ShotNoise(12.4, 2.0)
    first, second = (_counts(noise, 1.0, range(k, k + 1)).reshape(512, 512) - 12.4 for k in (10, 11))
    limit = 4.5 * 12.4 / 512
    assert abs((first * second).mean()) < limit
    assert abs((first[:, 1:] * first[:, :-1]).mean()) < limit
    assert abs((first[1:] * first[:-1]).mean()) < limit


@pytest.mark.parametrize(("dy", "dx"), [(0.0, 0.0), (0.5, 0.5), (0.31, 0.87)])
def test_view_interpolates_between_pixels(dy: float, dx: float) -> None:
    y, x = np.mgrid[:60, :70].astype(float)
    wave = lambda y, x: 1 + 0.5 * np.sin(2 * np.pi * (y / 10 + x / 12))  # noqa: E731
    noise = ShotNoise(10.0, 2.0)
    seen = noise.view(wave(y, x).astype(np.float32), (40, 50), np.array([7 + dy, 9 + dx]))
    np.testing.assert_allclose(seen, wave(y + 7 + dy, x + 9 + dx)[:40, :50], atol=1.5e-3)


def test_frame_beyond_the_scene_is_refused() -> None:
    noise = ShotNoise(10.0, 2.0)
    scene = np.ones((50, 50), np.float32)
    for corner in ([1.0, 5.0], [5.0, 1.9], [8.0, 5.0]):
        with pytest.raises(ValueError, match="inside"):
            noise.expose(scene, (40, 40), np.array(corner), 0)


@pytest.mark.parametrize("dose", [0.0, -1.0, np.nan, 1e5])
def test_doses_that_cannot_be_counted_are_refused(dose: float) -> None:
    with pytest.raises(ValueError, match="dose"):
        ShotNoise(dose, 2.0)
