"""Evidence read off the network's map at known sites."""

import numpy as np
import pytest

from stream.picture import Picture, highest
from stream.reading import Reading

SPACING_PX = 16.0


def a_map(heights: np.ndarray, stride: int = 2, side_px: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """1 - P(column) with a peak of each height (n,) on a grid, and where the peaks are in pixels of the image."""
    n = int(np.sqrt(len(heights)))
    yx_px = np.stack(np.meshgrid(*[20.0 + SPACING_PX * np.arange(n)] * 2, indexing="ij"), -1).reshape(-1, 2)
    at = (yx_px + 0.5) / stride - 0.5
    y, x = np.indices((side_px // stride, side_px // stride))
    apart2 = (y - at[:, 0, None, None]) ** 2 + (x - at[:, 1, None, None]) ** 2
    peaks = heights[:, None, None] * np.exp(-0.5 * apart2 / 1.2**2)
    return (1.0 - peaks.max(axis=0)).astype(np.float32), yx_px


def test_a_maximum_is_read_at_its_height_and_a_neighbours_skirt_not_at_all():
    heights = np.linspace(0.05, 0.95, 9)
    background, yx_px = a_map(heights)
    picture = Picture(np.zeros((128, 128), np.float32), (1.0, 1.0), background, 2)
    everywhere = np.ones(9, bool)
    off = yx_px + np.random.default_rng(0).uniform(-0.7, 0.7, yx_px.shape)  # sites are known that well
    read = highest(background, picture.to_map_px(off), everywhere, 1)
    np.testing.assert_allclose(read, heights, rtol=0.06)
    beside = picture.to_map_px(yx_px + np.array([0.0, 6.0]))  # between two columns: a slope, and no maximum
    assert not highest(background, beside, everywhere, 1).any()
    assert not highest(background, picture.to_map_px(yx_px), ~everywhere, 1).any()
    outside = np.array([[-30.0, 10.0], [10.0, 300.0], [np.inf, 0.0]])[:2]
    assert not highest(background, outside, np.ones(2, bool), 1).any()


def test_maps_are_read_in_pixels_of_the_frame_whatever_their_sampling():
    background, yx_px = a_map(np.full(9, 0.9))
    zoom = (2.0, 4.0)
    picture = Picture(np.zeros((128, 128), np.float32), zoom, background, 2)
    in_frame = (yx_px + 0.5) * zoom - 0.5
    np.testing.assert_allclose(picture.to_map_px(in_frame), (yx_px + 0.5) / 2 - 0.5)
    assert picture.map_px == pytest.approx(2 * np.sqrt(8.0))
    np.testing.assert_allclose(
        highest(background, picture.to_map_px(in_frame), np.ones(9, bool), 1), 0.9, rtol=0.06
    )


def session(reading: Reading, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns that come and go at 49 sites, of whose peaks half stay below any threshold; evidence and truth."""
    rng = np.random.default_rng(seed)
    n, lag = 49, len(reading._past) - 1
    occupied = rng.random(n) < 0.5
    truth, evidence = [], []
    for _ in range(frames):
        occupied = occupied ^ (rng.random(n) < 0.03)
        heights = np.where(occupied, rng.beta(3.0, 3.5, n), rng.beta(0.6, 8.0, n))
        background, yx_px = a_map(heights, side_px=160)
        picture = Picture(np.zeros((160, 160), np.float32), (1.0, 1.0), background, 2)
        evidence.append(reading.log_ratio(picture, yx_px, np.ones(n, bool), SPACING_PX))
        truth.append(occupied)
        if len(truth) > lag:
            reading.learn(truth[-1 - lag].astype(float))
    return np.array(evidence), np.array(truth)


def test_levels_tell_more_than_a_threshold_does_once_their_worth_is_learned():
    reading = Reading(5)
    reading.add(49)
    evidence, truth = session(reading, 500, 1)
    evidence, truth = evidence[200:], truth[200:]
    wrong = np.mean((evidence > 0) != truth)
    assert wrong < 0.13  # a threshold at 0.5 misses six of ten columns: 0.3 are wrong
    told = 1 / (1 + np.exp(-evidence))
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.0)):  # so many are columns as it says
        some = (told > low) & (told < high)
        assert told[some].mean() == pytest.approx(truth[some].mean(), abs=0.06)


def test_a_frame_without_a_map_is_not_learned_from_and_a_restored_reading_goes_on():
    a, b = Reading(3), Reading(3)
    a.add(49)
    b.add(49)
    session(a, 40, 2)
    session(b, 40, 2)
    before = a.emission.pooled
    for _ in range(4):
        a.skip()
    a.learn(np.ones(49))
    np.testing.assert_allclose(a.emission.pooled, before, atol=1e-4)  # a little is forgotten
    c = Reading(3)
    c.restore(b.state())
    b.forget(np.array([4]))
    c.forget(np.array([4]))
    np.testing.assert_array_equal(c.emission.hit, b.emission.hit)
    assert c.emission.hit[1, 4] != c.emission.hit[1, 5]
