"""How far apart columns lie is read off any lattice, faint sublattices included, and off nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from stream.frame import CalibrationError
from stream.spacing import estimate_spacing
from tests.helpers.lattices import (
    DISULPHIDE,
    HEXAGONAL,
    OBLIQUE,
    PEROVSKITE,
    SQUARE,
    amorphous,
    columns,
    counted,
)  # fmt: skip

NETS = {
    "square": SQUARE, "hexagonal": HEXAGONAL, "oblique": OBLIQUE, "perovskite": PEROVSKITE, "disulphide": DISULPHIDE,
}  # fmt: skip


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("electrons", "nearest_px"), [(3, 6.0), (30, 4.5)])
def test_columns_are_as_far_apart_as_they_were_put(net: str, electrons: int, nearest_px: float) -> None:
    rng = np.random.default_rng([len(net), electrons])
    for spacing_px in (nearest_px, *rng.uniform(nearest_px, 18, 2)):
        image = 0.2 + columns(NETS[net], spacing_px, rng.uniform(0, np.pi))
        found = estimate_spacing([counted(image, electrons)])
        assert found.spacing_px == pytest.approx(spacing_px, rel=0.05)
        repeats = min(np.hypot(*one) for one in NETS[net][0])
        assert found.repeats_px == pytest.approx(repeats * spacing_px, rel=0.03)
        assert f"{found.spacing_px:.4g} px apart" in str(found)


def test_columns_too_faint_for_small_tiles_are_found_in_large_ones() -> None:
    """Without its faint sublattice the lattice would be one of columns √3 times as far apart."""
    image = 0.2 + columns(DISULPHIDE, 4.5, 1.1)
    assert estimate_spacing([counted(image, 3)]).spacing_px == pytest.approx(4.5, rel=0.06)


@pytest.mark.parametrize("spacing_px", [8.0, 10.0, 16.0])
def test_a_lattice_in_step_with_the_pixels_is_no_trap(spacing_px: float) -> None:
    found = estimate_spacing([counted(columns(SQUARE, spacing_px, 0.0))])
    assert found.spacing_px == pytest.approx(spacing_px, rel=0.01)


def test_turned_and_mirrored_pictures_measure_the_same() -> None:
    image = counted(columns(PEROVSKITE, 9.3, shape_yx=(260, 340)))
    found = [estimate_spacing([one]).spacing_px for one in (image, image.T, image[::-1], np.rot90(image))]
    assert found == pytest.approx([9.3] * 4, rel=0.03)


def test_grains_and_empty_places_do_no_harm() -> None:
    image = columns(HEXAGONAL, 9, 0.1, (400, 400))
    image[:, 220:] = columns(HEXAGONAL, 9, 0.5, (400, 180))
    image[:100] = 0.3
    found = estimate_spacing([counted(image + 0.1)])
    assert found.spacing_px == pytest.approx(9, rel=0.03)
    assert found.tiles < found.tiles_seen


def test_faint_columns_show_in_several_frames() -> None:
    image = 1 + 0.3 * columns(SQUARE, 12)
    frames = [counted(image, 4, seed) for seed in range(8)]
    assert estimate_spacing(frames).spacing_px == pytest.approx(12, rel=0.04)


def test_bad_and_hot_pixels_and_a_slope_do_no_harm() -> None:
    image = counted(columns(SQUARE, 10) + np.linspace(0, 5, 300)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    bad[::37, ::41] = True
    image[bad] = 65535
    image[100, 100:120] = np.nan
    assert estimate_spacing([image], bad).spacing_px == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("period_px", [5.0, 12.0])
def test_an_amorphous_film_has_no_spacing(seed: int, period_px: float) -> None:
    image = 1 + 0.2 * amorphous((300, 300), period_px, seed)
    with pytest.raises(CalibrationError, match=r"cannot be estimated: expected a lattice.*--spacing-px"):
        estimate_spacing([counted(image, 100, seed)])


@pytest.mark.parametrize(
    "image", [np.zeros((64, 64)), np.full((64, 96), np.nan), np.random.default_rng(0).poisson(9, (300, 300))]
)
def test_vacuum_has_no_spacing(image: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match="no peak above the noise"):
        estimate_spacing([image])


def test_fringes_are_no_columns() -> None:
    y, x = np.mgrid[:300, :300]
    fringes = (
        1 + 0.3 * np.cos(2 * np.pi * (0.09 * x + 0.04 * y)) + 0.1 * np.cos(4 * np.pi * (0.09 * x + 0.04 * y))
    )
    with pytest.raises(CalibrationError, match="in two directions"):
        estimate_spacing([counted(fringes)])


@pytest.mark.parametrize("net", ["perovskite", "disulphide", "square"])
def test_dark_columns_are_measured_as_well(net: str) -> None:
    found = estimate_spacing([counted(1.5 - columns(NETS[net], 9, width=0.2))])
    assert found.contrast == "dark"
    assert found.spacing_px == pytest.approx(9, rel=0.04)


def test_a_honeycomb_too_blurred_to_show_its_columns_is_refused() -> None:
    """Its holes look like dark columns of a hexagonal lattice, √3 times as far apart."""
    cell, (one, other) = DISULPHIDE
    equal = (cell, (one, (*other[:2], 1.0)))
    assert estimate_spacing([counted(columns(equal, 9, width=0.25))]).spacing_px == pytest.approx(9, rel=0.04)
    with pytest.raises(
        CalibrationError, match=r"maxima [89]\S* px apart and minima 1[56]\S* px, and either may be"
    ):
        estimate_spacing([counted(columns(equal, 9, width=0.5))])


def test_parts_that_differ_are_refused_and_named() -> None:
    image = columns(SQUARE, 7, shape_yx=(400, 400))
    image[:, 200:] = columns(SQUARE, 10, shape_yx=(400, 200))
    with pytest.raises(
        CalibrationError, match=r"expected one in all parts of the picture, got [67]\.?\d*, .*, (9|10)"
    ):
        estimate_spacing([counted(image)])
