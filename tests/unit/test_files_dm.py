from pathlib import Path

import numpy as np
import pytest

from stream.files import open_recording
from stream.files.dm_tags import read_tags
from stream.frame import Frame, RecordingError, SeriesEnd, SeriesHeader
from tests.helpers.dm_writer import PIXEL_TYPES, DmWriter, image, write_dm


def pixels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Counts of which no two rows, columns or frames are alike."""
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "ui" else None
    values = np.random.default_rng(1).integers(
        info.min if info else -1000, info.max if info else 1000, shape, dtype if info else "i8"
    )
    return values.astype(dtype)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", sorted(PIXEL_TYPES))
def test_every_pixel_type_in_both_versions_and_byte_orders(
    tmp_path: Path, version: int, order: str, dtype: str
) -> None:
    stack = pixels((3, 5, 7), dtype)
    path = write_dm(tmp_path / f"movie.dm{version}", [image(stack)], version=version, order=order)
    with open_recording(path) as recording:
        assert recording.header.shape_yx == (5, 7)
        assert recording.header.dtype == np.dtype(dtype)
        read = np.stack([recording.read(i) for i in range(len(recording))])
    np.testing.assert_array_equal(read, stack)


def test_small_and_large_arrays_are_both_found(tmp_path: Path) -> None:
    for side in (8, 600):  # in the tag itself, and left in the file
        single = pixels((side, side), "u2")
        with open_recording(write_dm(tmp_path / f"{side}.dm4", [image(single)])) as recording:
            np.testing.assert_array_equal(recording.read(0), single)


def test_the_header_says_what_the_tags_say(tmp_path: Path) -> None:
    tags = {
        "Microscope Info": {"Voltage": 300000.0},
        "Acquisition": {"Parameters": {"High Level": {"Exposure (s)": 0.04}}},
    }
    movie = image(
        pixels((4, 6, 6), "u2"), units=("\u00b5m", "\u00b5m", "ms"), scales=(2e-5, 2e-5, 50.0), tags=tags
    )
    with open_recording(write_dm(tmp_path / "movie.dm4", [movie])) as recording:
        header = recording.header
        assert [type(item) for item in recording] == [SeriesHeader, *[Frame] * 4, SeriesEnd]
    assert header.pixel_size_nm == pytest.approx(0.02)
    assert header.frame_period_s == pytest.approx(0.05)
    assert header.exposure_s == pytest.approx(0.04)
    assert header.beam_energy_ev == pytest.approx(300e3)
    assert header.frames_expected == 4


@pytest.mark.parametrize(
    ("unit", "scale", "pixel_size_nm"),
    [
        ("nm", 0.02, 0.02),
        ("\u00c5", 0.2, 0.02),
        ("pm", 20.0, 0.02),
        ("1/nm", 0.1, None),
        ("", 1.0, None),
        ("nm", -1.0, None),
    ],
)
def test_only_a_length_is_a_pixel_size(
    tmp_path: Path, unit: str, scale: float, pixel_size_nm: float | None
) -> None:
    entry = image(pixels((4, 4), "u2"), units=(unit, unit), scales=(scale, scale))
    with open_recording(write_dm(tmp_path / "a.dm3", [entry], version=3)) as recording:
        assert recording.header.pixel_size_nm == pytest.approx(pixel_size_nm)


def test_pixels_that_are_not_square_are_not_calibrated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = image(pixels((4, 4), "u2"), scales=(0.02, 0.03), units=("nm", "nm"))
    with open_recording(write_dm(tmp_path / "a.dm4", [entry])) as recording:
        assert recording.header.pixel_size_nm is None
    assert "0.03 x 0.02 nm" in caplog.text


def test_several_images_are_named_and_can_be_chosen(tmp_path: Path) -> None:
    first, second = pixels((4, 4), "u2"), pixels((2, 5, 6), "f4")
    path = write_dm(tmp_path / "two.dm4", [image(first), image(second)])
    with pytest.raises(RecordingError, match=r"1: \(4, 4\) u2; 2: \(2, 5, 6\) f4"):
        open_recording(path)
    with open_recording(path, "2") as recording:
        np.testing.assert_array_equal(recording.read(1), second[1])
    with pytest.raises(RecordingError, match="no image '7'"):
        open_recording(path, "7")


def test_an_image_that_is_only_a_thumbnail_of_itself_is_read(tmp_path: Path) -> None:
    single = pixels((4, 4), "u2")
    with open_recording(write_dm(tmp_path / "a.dm4", [image(single)], thumbnail=False)) as recording:
        np.testing.assert_array_equal(recording.read(0), single)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (image(pixels((3, 4, 4), "f4"), units=("nm", "nm", "eV")), "spectrum image"),
        (image(pixels((2, 3, 4, 4), "f4")), "no frame"),
        (image(pixels((4, 4), "f8"), data_type=3), "data type 3"),
        (image(pixels((4, 4), "u2"), data_type=11), "needs 16 pixels of 4 bytes, the file has 16 of 2"),
    ],
    ids=["spectra", "four axes", "complex", "lying type"],
)  # fmt: skip
def test_what_is_no_movie_is_refused(tmp_path: Path, entry: dict, said: str) -> None:
    with pytest.raises(RecordingError, match=said):
        open_recording(write_dm(tmp_path / "a.dm4", [entry]))


@pytest.mark.parametrize("version", [3, 4])
def test_cut_anywhere_it_is_an_error_that_says_where(tmp_path: Path, version: int) -> None:
    whole = write_dm(tmp_path / "whole.dm4", [image(pixels((200, 200), "u2"))], version=version).read_bytes()
    path = tmp_path / "cut.dm4"
    cuts = [
        *range(0, 700, 7),
        *range(700, len(whole) - 700, 4001),
        *range(len(whole) - 700, len(whole) - 8, 7),
    ]
    for cut in cuts:  # the last 8 bytes only mark the end
        path.write_bytes(whole[:cut])
        with pytest.raises(RecordingError, match="byte"):
            open_recording(path)


def test_wrong_bytes_never_hang_nor_escape_as_another_error(tmp_path: Path) -> None:
    whole = write_dm(tmp_path / "whole.dm4", [image(pixels((3, 8, 8), "u2"))]).read_bytes()
    path = tmp_path / "wrong.dm4"
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(600):
        wrong = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 4)):
            wrong[at] = random.choice([0, 1, 20, 127, 128, 255])
        path.write_bytes(wrong)
        try:
            with open_recording(path) as recording:
                recording.read(0)
        except RecordingError:
            refused += 1
    assert refused > 200


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    tree: dict = {}
    for _ in range(100):
        tree = {"deeper": tree}
    path = tmp_path / "deep.dm4"
    path.write_bytes(DmWriter().file(tree))
    with pytest.raises(RecordingError, match="deeper than 64"):
        read_tags(path)


def test_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.dm4"
    path.write_bytes(b"\0\0\0\5" + bytes(100))
    with pytest.raises(RecordingError, match="version 3 or 4 was expected, got 5"):
        open_recording(path)
