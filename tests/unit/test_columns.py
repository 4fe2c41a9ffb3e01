"""Maps to columns: positions, plateaus, borders, and agreement with the papers' watershed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from engines.files import list_engines
from engines.runtime import open_engine
from stream.columns import Columns, find_columns, find_columns_watershed, lowest_height, weighed
from stream.normalize import Normalizer
from stream.phantom import Phantom


def as_maps(*foregrounds: np.ndarray) -> np.ndarray:
    """(k, ny, nx) f4 with the background first."""
    return np.stack([1 - np.sum(foregrounds, axis=0), *foregrounds]).astype(np.float32)


def gaussians(shape_yx: tuple[int, int], yx: np.ndarray, width: float, height: float = 1.0) -> np.ndarray:
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]]
    total = np.zeros(shape_yx)
    reach = int(6 * width) + 2
    for cy, cx in yx:
        box = np.s_[
            max(int(cy) - reach, 0) : int(cy) + reach + 1, max(int(cx) - reach, 0) : int(cx) + reach + 1
        ]
        total[box] += height * np.exp(-((y[box] - cy) ** 2 + (x[box] - cx) ** 2) / 2 / width**2)
    return total.clip(0, 1)


def crystal(side: int, spacing: float, rng: np.random.Generator, radius: float | None = None) -> np.ndarray:
    """A slightly disordered triangular lattice, (n, 2), in all of a square image or in a disc."""
    steps = np.arange(int(side / spacing) + 3) - 1
    yx = np.array([(0.93 * spacing * i, spacing * (j + i % 2 / 2)) for i in 1.1 * steps for j in steps])
    yx += rng.uniform(0, spacing, 2) + rng.normal(0, 0.03 * spacing, yx.shape)
    if radius is not None:
        return yx[np.hypot(*(yx - side / 2).T) < radius]
    return yx[((yx > 0) & (yx < side - 1)).all(axis=1)]


def erring(foreground: np.ndarray, width: float, rng: np.random.Generator) -> np.ndarray:
    """A network's errors: smooth in the logit, over a column's width, and a little noise."""
    smooth = gaussian_filter(rng.normal(size=foreground.shape), width)
    p = foreground.clip(1e-4, 1 - 1e-4)
    p = 1 / (1 + (1 - p) / p * np.exp(-0.05 * smooth / smooth.std()))
    return (p + 1e-3 * rng.normal(size=p.shape)).clip(0, 1)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_gaussian_is_found_where_it_is(stride: int) -> None:
    truth = np.array([[20.0, 31.3], [47.6, 12.4], [44.5, 50.5]])  # map pixels
    columns = find_columns(as_maps(gaussians((64, 70), truth, 1.4, 0.9)), stride)
    assert len(columns) == len(truth)
    distance, _ = cKDTree(columns.yx_px).query((truth + 0.5) * stride - 0.5)
    assert distance.max() < 2e-3 * stride
    np.testing.assert_allclose(columns.sigma_px, 1.4 * stride, rtol=1e-3)
    assert (columns.score > 0.75).all()
    assert (columns.score <= 0.9).all()
    assert [a.dtype for a in (columns.yx_px, columns.sigma_px, columns.score, columns.kind)] == [
        "f4",
        "f4",
        "f4",
        "u1",
    ]


@pytest.mark.parametrize(
    ("side", "spacing", "width", "stride"), [(1024, 23.0, 5.5, 1), (512, 11.5, 2.25, 2), (512, 10.4, 2.25, 2)]
)
@pytest.mark.parametrize("shape", ["sheet", "particle"])
def test_the_fast_way_agrees_with_the_papers(
    side: int, spacing: float, width: float, stride: int, shape: str
) -> None:
    rng = np.random.default_rng(5)
    truth = crystal(side, spacing, rng, None if shape == "sheet" else 0.35 * side)
    on_map = (truth + 0.5) / stride - 0.5
    n = side // stride
    maps = as_maps(erring(gaussians((n, n), on_map, width / stride), width / stride, rng))
    fast = find_columns(maps, stride, min_distance_px=0.4 * spacing)
    papers = find_columns_watershed(maps, stride)
    assert len(truth) > (1500 if shape == "sheet" else 500)
    distance, partner = cKDTree(fast.yx_px).query(papers.yx_px)
    agreed = distance < spacing / 2
    assert agreed.mean() >= 0.995
    assert (cKDTree(papers.yx_px).query(fast.yx_px)[0] < spacing / 2).mean() >= 0.995
    # at the border a segment is cut, and with it its centre of mass
    agreed &= ((papers.yx_px > 2 * width) & (papers.yx_px < side - 1 - 2 * width)).all(axis=1)
    rms = np.sqrt(((fast.yx_px[partner[agreed]] - papers.yx_px[agreed]) ** 2).mean())
    assert rms <= 0.1
    error, _ = cKDTree(truth).query(fast.yx_px)
    assert np.sqrt((error**2).mean() / 2) <= 0.1


@pytest.mark.parametrize("name", [name for name in list_engines() if name.startswith("au-on-oxide")])
def test_they_agree_on_the_maps_of_real_engines_and_are_as_near_to_the_truth(name: str) -> None:
    apart: list[np.ndarray] = []  # of each way, from the truth
    apart_papers: list[np.ndarray] = []
    with open_engine(name, threads=1) as engine:
        manifest = engine.manifest
        for seed in (11, 12, 13):
            phantom = Phantom(seed=seed, frames=2, dose_e_nm2=310_000)
            sigma_px = manifest.normalize_sigma_nm / phantom.truth.pixel_size_nm
            image = Normalizer(phantom.truth.shape_yx, sigma_px)(phantom.render(0))
            maps = engine.run(image[None, None])[0]
            distance_px = manifest.min_distance_nm / phantom.truth.pixel_size_nm
            fast = find_columns(maps, manifest.stride, min_distance_px=distance_px)
            papers = find_columns_watershed(maps, manifest.stride)
            distance, partner = cKDTree(fast.yx_px).query(papers.yx_px)
            agreed = distance < distance_px
            assert len(fast) > 300
            assert agreed.mean() >= 0.995
            assert (cKDTree(papers.yx_px).query(fast.yx_px)[0] < distance_px).mean() >= 0.995
            difference = (fast.yx_px[partner[agreed]] - papers.yx_px[agreed]) / manifest.stride
            assert np.sqrt((difference**2).mean()) <= 0.1  # map pixels
            truth = cKDTree(phantom.truth.columns(0))
            apart.append(truth.query(fast.yx_px[partner[agreed]])[0])
            apart_papers.append(truth.query(papers.yx_px[agreed])[0])
    rms, rms_papers = (np.sqrt((np.concatenate(some) ** 2).mean()) for some in (apart, apart_papers))
    assert rms < 1.03 * rms_papers


def test_a_plateau_is_one_column_at_its_middle() -> None:
    p = np.full((30, 40), 0.1)
    p[5:8, 10:13] = 0.8
    p[20, 5:10] = 0.7
    p[25, 30] = p[26, 31] = p[25, 32] = 0.9  # a V: no two of its upper ends are neighbours
    columns = find_columns(as_maps(p))
    assert len(columns) == 3
    found = columns.yx_px[np.argsort(columns.yx_px[:, 0])]
    np.testing.assert_allclose(found[:2], [[6, 11], [20, 7]], atol=0.05)
    assert np.hypot(*(found[2] - [25.3, 31])) < 1


def test_a_shoulder_is_no_column() -> None:
    p = np.full((20, 20), 0.1)
    p[8:10, 8:14] = 0.7
    p[8, 14] = 0.8  # the plateau has a higher neighbour
    columns = find_columns(as_maps(p))
    assert len(columns) == 1
    assert columns.score[0] == pytest.approx(0.8)


def test_a_map_of_one_value_is_at_most_one_column() -> None:
    assert len(find_columns(as_maps(np.full((16, 16), 0.9)))) == 1
    assert len(find_columns(as_maps(np.full((16, 16), 0.4)))) == 0
    assert len(find_columns(as_maps(np.full((1, 1), 0.9)))) == 1


def test_columns_at_borders_are_found_and_stay_on_the_image() -> None:
    truth = np.array([[0.0, 20.0], [20.2, 0.3], [39.4, 20.0], [20.0, 49.0], [0.2, 0.1], [39.2, 49.3]])
    columns = find_columns(as_maps(gaussians((40, 50), truth, 1.5)))
    distance, partner = cKDTree(columns.yx_px).query(truth)
    assert len(columns) == len(truth)
    assert len(set(partner)) == len(truth)
    assert distance.max() < 0.1
    assert (columns.yx_px >= -0.5).all()
    assert (columns.yx_px <= [39.5, 49.5]).all()


def test_a_column_moves_by_one_map_pixel_at_most() -> None:
    p = np.zeros((9, 9))
    p[4, 4], p[4, 5], p[4, 6] = 0.9, 0.8999, 0.8998
    p[3, 4:7] = p[5, 4:7] = 0.5
    columns = find_columns(as_maps(p))
    assert len(columns) == 1
    assert np.abs(columns.yx_px[0] - [4, 4]).max() <= 1.0


def test_a_lone_pixel_stays_where_it_is_without_a_width() -> None:
    p = np.zeros((9, 9))
    p[4, 5] = 0.9
    columns = find_columns(as_maps(p))
    np.testing.assert_array_equal(columns.yx_px, [[4, 5]])
    assert np.isnan(columns.sigma_px[0])


def test_the_kind_is_the_most_probable_class() -> None:
    first = gaussians((40, 60), np.array([[10.0, 10.0], [30, 40]]), 2.0, 0.6)
    second = gaussians((40, 60), np.array([[10.0, 40.0], [30, 40]]), 2.0, 0.3)
    third = gaussians((40, 60), np.array([[10.0, 40.0]]), 2.0, 0.5)
    maps = as_maps(first, second, third)
    for columns in (find_columns(maps), find_columns_watershed(maps)):
        order = np.lexsort((columns.yx_px[:, 1], columns.yx_px[:, 0].round()))
        assert columns.kind[order].tolist() == [1, 3, 1]
        np.testing.assert_allclose(columns.score[order], [0.6, 0.8, 0.9], atol=1e-3)


def test_of_close_columns_the_best_stays() -> None:
    truth = np.array([[10.0, 10.0], [10.0, 16.0], [10.0, 22.0], [30.0, 30.0]])
    heights = [0.7, 0.9, 0.8, 0.6]
    p = sum(gaussians((48, 48), truth[i : i + 1], 1.2, heights[i]) for i in range(4))
    maps = as_maps(np.asarray(p))
    assert len(find_columns(maps, stride=2, min_distance_px=11.5)) == 4
    kept = find_columns(maps, stride=2, min_distance_px=12.5)
    np.testing.assert_allclose(kept.yx_px, truth[[1, 3]] * 2 + 0.5, atol=0.02)


def test_suppression_leaves_no_close_pair_and_nothing_alone_out() -> None:
    p = gaussian_filter(np.random.default_rng(3).random((200, 200)), 1.0)
    maps = as_maps((p - p.min()) / np.ptp(p))
    every, kept = find_columns(maps, threshold=0.3), find_columns(maps, threshold=0.3, min_distance_px=9.0)
    assert len(every) > 1.3 * len(kept) > 100
    assert cKDTree(kept.yx_px).query(kept.yx_px, k=2)[0][:, 1].min() >= 9.0
    assert cKDTree(kept.yx_px).query(every.yx_px)[0].max() < 9.0


def test_a_tiny_distance_costs_nothing() -> None:
    maps = as_maps(gaussians((64, 64), np.array([[10.0, 10.0], [50, 50]]), 1.5))
    assert len(find_columns(maps, min_distance_px=1e-9)) == 2


def test_the_threshold_is_a_probability() -> None:
    maps = as_maps(gaussians((32, 32), np.array([[16.0, 16.0]]), 2.0, 0.6))
    assert len(find_columns(maps, threshold=0.61)) == 0
    assert len(find_columns(maps, threshold=0.59)) == 1
    faint = as_maps(gaussians((32, 32), np.array([[16.2, 15.7]]), 2.0, 0.02))
    np.testing.assert_allclose(find_columns(faint, threshold=0.01).yx_px, [[16.2, 15.7]], atol=0.02)


def test_nan_is_no_column() -> None:
    maps = as_maps(gaussians((32, 32), np.array([[8.0, 8.0], [24, 24]]), 2.0))
    maps[:, 20:28, 20:28] = np.nan
    columns = find_columns(maps)
    assert np.isfinite(columns.yx_px).all()
    assert np.hypot(*(columns.yx_px - 8).T).min() < 0.05
    assert len(find_columns(np.full((2, 8, 8), np.nan, np.float32))) == 0


def test_no_column_gives_empty_arrays() -> None:
    for columns in (
        find_columns(as_maps(np.zeros((8, 8)))),
        find_columns_watershed(as_maps(np.zeros((8, 8)))),
    ):
        assert isinstance(columns, Columns)
        assert len(columns) == 0
        assert columns.yx_px.shape == (0, 2)


def test_bad_arguments_are_refused() -> None:
    maps = as_maps(np.zeros((8, 8)))
    with pytest.raises(ValueError, match="not probability maps"):
        find_columns(maps[0])
    with pytest.raises(ValueError, match="not probability maps"):
        find_columns(maps[:1])
    with pytest.raises(ValueError, match="not probability maps"):
        find_columns_watershed(maps.astype(np.float64))
    with pytest.raises(ValueError, match="impossible stride"):
        find_columns(maps, stride=0)
    with pytest.raises(ValueError, match="impossible threshold"):
        find_columns(maps, threshold=0.0)
    with pytest.raises(ValueError, match="impossible distance"):
        find_columns(maps, min_distance_px=float("nan"))


def test_wide_peaks_score_higher_than_narrow_ones_of_the_same_height() -> None:
    truth = np.array([[15.0, 15.0], [15.0, 45.0], [45.0, 15.0]])
    widths = (1.2, 1.6, 2.4)
    p = sum(gaussians((60, 60), truth[i : i + 1], width, 0.5) for i, width in enumerate(widths))
    columns = find_columns(as_maps(p), threshold=0.1, usual_sigma_px=1.6)
    by_width = np.argsort(columns.sigma_px)
    # odds of 1 at the maximum, times the width: 0.75, 1 and 1.5
    np.testing.assert_allclose(columns.score[by_width], [0.75 / 1.75, 0.5, 1.5 / 2.5], atol=2e-3)
    assert len(find_columns(as_maps(p), threshold=0.45, usual_sigma_px=1.6)) == 2
    plain = find_columns(as_maps(p), threshold=0.1)
    np.testing.assert_array_equal(plain.score, np.full(3, 0.5, np.float32))
    np.testing.assert_array_equal(plain.yx_px, columns.yx_px)


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.95])
def test_no_column_is_lost_by_its_height_that_its_width_would_keep(threshold: float) -> None:
    rng = np.random.default_rng(3)
    n = 4000
    score, width = rng.uniform(1e-3, 1, n).astype(np.float32), rng.uniform(0.2, 9, n).astype(np.float32)
    width[::7] = np.nan
    every = Columns(np.zeros((n, 2), np.float32), width, score, np.ones(n, np.uint8))
    kept = weighed(every, 2.0, threshold)
    assert 0 < len(kept) < n
    assert (kept.score >= threshold).all()
    low = score < lowest_height(threshold, 2.0)
    below = Columns(every.yx_px[low], width[low], score[low], every.kind[low])
    assert len(weighed(below, 2.0, threshold)) == 0
    usual = np.isnan(width)
    alone = Columns(every.yx_px[usual], width[usual], score[usual], every.kind[usual])
    np.testing.assert_allclose(weighed(alone, 2.0, 0.0).score, score[usual], rtol=1e-5)
