"""The ruler in the picture: nets of known crystals are found at any scale and turn, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.manifest import ZoneAxis
from stream.frame import CalibrationError
from stream.scale import estimate_scale
from stream.spectrum import spectrum_peaks
from tests.helpers.lattices import DISULPHIDE, GOLD, GRAPHENE, MX2, amorphous, columns, counted, knowing

AXES = {axis.name: axis for axis in GOLD.zone_axes}


def crystal(
    axis: ZoneAxis,
    pixel_size_nm: float,
    turn_rad: float = 0.3,
    shape_yx: tuple[int, int] = (320, 320),
    contrast: float = 0.1,
    orders: tuple[tuple[int, int], ...] = ((1, 0), (0, 1), (1, 1), (1, -1)),
) -> np.ndarray:
    """Expected intensity of the lowest orders of a zone axis, 1 on average: (ny, nx) f8."""
    first, second = (1 / d for d in axis.spacings_nm)
    angle = np.deg2rad(axis.angle_deg)
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]] * pixel_size_nm
    image = np.ones(shape_yx)
    for h, k in orders:
        g = (h * first + k * second * np.exp(1j * angle)) * np.exp(1j * turn_rad)
        image += contrast * np.cos(2 * np.pi * (g.real * x + g.imag * y))
    return image


@settings(max_examples=25, deadline=None)
@given(
    axis=st.sampled_from([axis for axis in GOLD.zone_axes if axis.columns]),
    pixel_size_nm=st.floats(0.013, 0.045),
    turn_rad=st.floats(0, 3.1),
    seed=st.integers(0, 1000),
)
def test_a_crystal_is_measured_at_any_scale_and_turn(
    axis: ZoneAxis, pixel_size_nm: float, turn_rad: float, seed: int
) -> None:
    # as many orders as a microscope resolves: to 0.1 nm, and what the camera can show
    orders = [
        (h, k)
        for h, k in ((1, 0), (0, 1), (1, 1), (1, -1))
        if abs(h / axis.spacings_nm[0] + k / axis.spacings_nm[1] * np.exp(1j * np.deg2rad(axis.angle_deg)))
        < min(1 / 0.1, 0.45 / pixel_size_nm)
    ]
    image = crystal(axis, pixel_size_nm, turn_rad, orders=tuple(orders))
    scale = estimate_scale([counted(image, seed=seed)], GOLD)
    assert scale.pixel_size_nm == pytest.approx(pixel_size_nm, rel=0.01)
    assert abs(scale.pixel_size_nm / pixel_size_nm - 1) < 4 * scale.relative_error
    assert scale.zone_axes == axis.name
    assert f"{scale.pixel_size_nm:.4g} nm/px" in str(scale)


def test_turned_and_mirrored_pictures_measure_the_same() -> None:
    image = counted(crystal(AXES["Au <110>"], 0.02, shape_yx=(300, 400)))
    sizes = [
        estimate_scale([turned], GOLD).pixel_size_nm
        for turned in (image, image.T, image[::-1], np.rot90(image))
    ]
    assert sizes == pytest.approx([sizes[0]] * 4, rel=1e-3)


def test_an_oblique_net_is_known_from_both_sides() -> None:
    oblique = ZoneAxis(name="oblique", spacings_nm=(0.25, 0.18), angle_deg=75)
    image = counted(crystal(oblique, 0.02))
    for seen in (image, image[:, ::-1]):
        assert estimate_scale([seen], knowing(oblique)).pixel_size_nm == pytest.approx(0.02, rel=0.01)


def test_a_crystal_of_which_one_corner_is_full_is_enough() -> None:
    image = np.ones((1024, 1024))
    image[100:400, 600:900] = crystal(AXES["Au <100>"], 0.02, shape_yx=(300, 300))
    assert estimate_scale([counted(image)], GOLD).pixel_size_nm == pytest.approx(0.02, rel=0.01)


def test_large_pictures_are_read_in_pieces() -> None:
    image = counted(crystal(GRAPHENE, 0.02, shape_yx=(300, 2500)))
    peaks = spectrum_peaks([image])
    assert peaks.bin == pytest.approx(1 / 300)
    assert estimate_scale([image], knowing(GRAPHENE)).pixel_size_nm == pytest.approx(0.02, rel=0.01)


def test_frames_that_show_too_little_alone_do_together() -> None:
    faint = [counted(crystal(AXES["Au <110>"], 0.02, contrast=0.012), 10, seed) for seed in range(8)]
    with pytest.raises(CalibrationError):
        estimate_scale(faint[:1], GOLD)
    assert estimate_scale(faint, GOLD).pixel_size_nm == pytest.approx(0.02, rel=0.01)


def test_bad_and_hot_pixels_and_nan_do_no_harm() -> None:
    image = counted(crystal(AXES["Au <110>"], 0.02)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    bad[::37, ::41] = True
    image[bad] = 65535
    image[100, 100:120] = np.nan
    assert estimate_scale([image], GOLD, bad).pixel_size_nm == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_noise_shows_nothing(seed: int) -> None:
    with pytest.raises(CalibrationError, match=r"cannot be estimated.*--pixel-size-nm"):
        estimate_scale([np.random.default_rng(seed).poisson(9, (384, 384))], GOLD)


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.full((64, 96), np.nan), np.ones((20, 300))])
def test_a_picture_of_nothing_is_refused_in_words(image: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match="no peak above the noise"):
        estimate_scale([image], GOLD)


def test_planes_without_a_net_are_no_ruler() -> None:
    fringes = crystal(AXES["Au <110>"], 0.02, orders=((1, 0), (2, 0)))
    with pytest.raises(CalibrationError, match=r"2 peaks \(the strongest at periods of 11\.8, 5\.\d+ px\)"):
        estimate_scale([counted(fringes)], GOLD)


def test_a_net_of_another_shape_is_no_gold() -> None:
    rectangle = ZoneAxis(name="rectangle", spacings_nm=(0.3, 0.19), angle_deg=90)
    with pytest.raises(CalibrationError, match="cannot be"):
        estimate_scale([counted(crystal(rectangle, 0.02))], GOLD)


def test_an_engine_without_a_lattice_says_so() -> None:
    with pytest.raises(CalibrationError, match=r"knows no lattice.*--pixel-size-nm"):
        estimate_scale([counted(crystal(GRAPHENE, 0.02))], knowing())


def test_gold_beside_ceria_is_measured_by_both() -> None:
    both = np.ones((320, 320))
    both[:200] = crystal(AXES["Au <111>"], 0.02, shape_yx=(200, 320))
    both[200:] = crystal(AXES["CeO2 <110>"], 0.02, 1.1, (120, 320), contrast=0.2)
    scale = estimate_scale([counted(both, 40)], GOLD)
    assert scale.pixel_size_nm == pytest.approx(0.02, rel=0.01)
    assert scale.zone_axes in ("Au <111> + CeO2 <110>",)


def test_two_scales_that_explain_alike_are_refused_and_named() -> None:
    """Two hexagonal materials of which the picture shows one: nothing can tell which."""
    other = ZoneAxis(name="other", spacings_nm=(0.284, 0.284), angle_deg=60)
    with pytest.raises(CalibrationError, match="about as well") as refused:
        estimate_scale([counted(crystal(GRAPHENE, 0.02))], knowing(GRAPHENE, other))
    assert "0.02" in str(refused.value)
    assert "graphene" in str(refused.value)
    assert "other" in str(refused.value)


def test_peaks_lie_at_their_frequencies_to_a_tenth_of_a_bin() -> None:
    y, x = np.mgrid[:256, :300]
    q = 0.1234 + 0.0567j
    image = 1 + 0.2 * np.cos(2 * np.pi * (q.real * x + q.imag * y))
    peaks = spectrum_peaks([counted(image)])
    assert abs(peaks.q[0] - q) < 0.1 * peaks.bin
    assert (np.diff(peaks.strength) <= 0).all()


@pytest.mark.parametrize("pixel_size_nm", [0.012, 0.02, 0.03, 0.045, 0.068])
@pytest.mark.parametrize("seed", range(3))
def test_graphene_under_a_film_is_measured_in_one_grain_or_three(pixel_size_nm: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grains = [crystal(GRAPHENE, pixel_size_nm, turn, contrast=0.03) for turn in rng.uniform(0, np.pi / 3, 3)]
    for parts in (1, 3):
        image = np.concatenate([grains[i % parts][i * 100 : i * 100 + 100] for i in range(3)])
        image += 0.06 * amorphous(image.shape, 0.3 / pixel_size_nm, seed)
        scale = estimate_scale([counted(image, 100, seed)], knowing(GRAPHENE))
        assert scale.pixel_size_nm == pytest.approx(pixel_size_nm, rel=0.015)


@pytest.mark.parametrize("constant_nm", [0.316, 0.329, 0.352])
@pytest.mark.parametrize("pixel_size_nm", [0.012, 0.025, 0.04])
def test_a_disulphide_of_any_constant_is_measured_within_the_range(
    constant_nm: float, pixel_size_nm: float
) -> None:
    bond_px = constant_nm / np.sqrt(3) / pixel_size_nm
    scale = estimate_scale([counted(columns(DISULPHIDE, bond_px, 0.7) + 0.1)], knowing(MX2))
    assert scale.pixel_size_nm == pytest.approx(pixel_size_nm, rel=0.065)
    middle_nm = MX2.spacings_nm[0] / (np.sqrt(3) / 2) * np.sqrt(0.942 * 1.062)
    assert scale.pixel_size_nm * constant_nm / middle_nm == pytest.approx(pixel_size_nm, rel=0.005)
    assert 0.03 < scale.relative_error < 0.045  # the constant, known to 6 % either way


def test_materials_of_one_range_are_not_rivals() -> None:
    """Two nets whose constants overlap are one scale as far as anyone can tell; two grains of one are not."""
    other = MX2.model_copy(update={"name": "other", "spacings_nm": (0.27, 0.27)})
    image = counted(columns(DISULPHIDE, 8, 0.7) + 0.1)
    assert estimate_scale([image], knowing(MX2, other)).margin > 8
    rigid = other.model_copy(update={"spacings_nm": (0.24, 0.24), "constant_range": (1.0, 1.0)})
    with pytest.raises(CalibrationError, match="about as well"):
        estimate_scale([image], knowing(MX2, rigid))


def test_a_scan_that_wanders_is_measured_in_pieces() -> None:
    image = columns(DISULPHIDE, 13, 0.5, (768, 768)) + 0.1
    y = np.arange(768)
    wander_px = 14 * np.sin(2 * np.pi * y / 700) + 8 * np.sin(2 * np.pi * y / 233)
    image = np.stack([np.roll(row, round(by)) for row, by in zip(image, wander_px, strict=True)])
    expected_nm = MX2.spacings_nm[0] * np.sqrt(0.942 * 1.062) / (1.5 * 13)
    scale = estimate_scale([counted(image)], knowing(MX2))
    assert scale.pixel_size_nm == pytest.approx(expected_nm, rel=0.03)


@pytest.mark.parametrize("axis", [GRAPHENE, MX2])
@pytest.mark.parametrize("seed", range(3))
def test_a_film_or_vacuum_or_fringes_are_no_sheet(axis: ZoneAxis, seed: int) -> None:
    film = 1 + 0.2 * amorphous((256, 256), 6, seed)
    vacuum = np.ones((256, 256))
    fringes = crystal(axis, 0.03, shape_yx=(256, 256), orders=((1, 0), (2, 0)))
    for image in (film, vacuum, fringes, film + fringes):
        with pytest.raises(CalibrationError, match="cannot be estimated"):
            estimate_scale([counted(image, 60, seed)], knowing(axis))
