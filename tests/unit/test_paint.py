"""Marks on pictures: where they are asked for, as large as asked for, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from stream.paint import paint_arrows, paint_discs

RED = np.array([255.0, 0.0, 0.0])


def black(side: int = 41) -> np.ndarray:
    return np.zeros((side, side, 3), np.uint8)


def test_a_disc_has_its_area_and_its_centre():
    picture = black()
    paint_discs(picture, np.array([[20.3, 18.6]]), 6.0, 0.0, RED, np.ones(1))
    cover = picture[..., 0] / 255
    assert cover.sum() == pytest.approx(np.pi * 36, rel=0.01)
    centre = [(cover * grid).sum() / cover.sum() for grid in np.indices(cover.shape)]
    np.testing.assert_allclose(centre, [20.3, 18.6], atol=0.02)
    assert picture[..., 1:].max() == 0


def test_a_ring_is_empty_inside_and_alpha_thins_it():
    picture, faint = black(), black()
    paint_discs(picture, np.array([[20.0, 20.0]]), 8.0, 2.0, RED, np.ones(1))
    paint_discs(faint, np.array([[20.0, 20.0]]), 8.0, 2.0, RED, np.array([0.5]))
    assert picture[20, 20, 0] == 0
    assert picture[20, 28, 0] == 255
    assert picture[..., 0].sum() / 255 == pytest.approx(2 * np.pi * 8 * 2, rel=0.02)
    assert faint[20, 28, 0] == pytest.approx(128, abs=1)


def test_a_dashed_ring_has_half_the_line_in_as_many_pieces():
    picture = black()
    paint_discs(picture, np.array([[20.0, 20.0]]), 12.0, 2.0, RED, np.ones(1), 5)
    assert picture[..., 0].sum() / 255 == pytest.approx(np.pi * 12 * 2, rel=0.03)
    assert label(picture[..., 0] > 60)[1] == 5


def test_an_arrow_goes_from_start_to_end_with_its_head_at_the_end():
    picture = black()
    paint_arrows(picture, np.array([[20.0, 8.0]]), np.array([[20.0, 32.0]]), 2.0, 6.0, RED, np.ones(1))
    assert (picture[20, 8:33, 0] == 255).all()
    assert picture[20, :6].max() == picture[20, 35:].max() == 0
    width = (picture[..., 0] > 100).sum(axis=0)
    assert width[28] > 6 > 4 > width[12], "the head is at the end"
    np.testing.assert_array_equal(picture[:20], picture[:20:-1])


@pytest.mark.parametrize("yx", [(-50.0, 20.0), (20.0, 1e6), (np.nan, 3.0)])
def test_what_is_out_of_the_picture_changes_nothing(yx):
    picture = black()
    paint_discs(picture, np.array([yx]), 5.0, 0.0, RED, np.ones(1))
    paint_arrows(picture, np.array([yx]), np.array([yx]), 2.0, 5.0, RED, np.ones(1))
    assert picture.max() == 0


def test_marks_over_the_edge_are_cut():
    picture = black()
    paint_discs(picture, np.array([[0.0, 40.0]]), 6.0, 0.0, RED, np.ones(1))
    assert picture[..., 0].sum() / 255 == pytest.approx(np.pi * 9, rel=0.25)
