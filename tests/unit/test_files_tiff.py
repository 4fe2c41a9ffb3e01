import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stream.files import open_recording
from stream.frame import CalibrationError, RecordingError

STACK = np.random.default_rng(4).integers(0, 4000, (5, 32, 40), dtype="u2")


def tiff(folder: Path, data: np.ndarray = STACK, **options: Any) -> Path:
    path = folder / "a.tif"
    tifffile.imwrite(path, data, **{"photometric": "minisblack", **options})
    return path


@pytest.mark.parametrize(
    ("unit", "per_px", "pixel_size_nm"),
    [
        ("nm", 50.0, 0.02),
        ("\u00b5m", 5e4, 0.02),
        ("micron", 5e4, 0.02),
        ("pixel", 1.0, None),
        ("inch", 72.0, None),
    ],
)
def test_imagejs_unit_and_resolution(
    tmp_path: Path, unit: str, per_px: float, pixel_size_nm: float | None
) -> None:
    # ImageJ writes the micro sign as the six characters \u00B5
    metadata = {"unit": unit.replace("\u00b5", "\\u00B5"), "axes": "TYX", "finterval": 0.25}
    path = tiff(tmp_path, imagej=True, resolution=(per_px, per_px), metadata=metadata)
    with open_recording(path) as recording:
        assert recording.header.pixel_size_nm == (pixel_size_nm and pytest.approx(pixel_size_nm, rel=1e-6))
        assert recording.header.frame_period_s == 0.25


def test_omes_physical_size(tmp_path: Path) -> None:
    metadata = {
        "axes": "TYX",
        "PhysicalSizeX": 0.2,
        "PhysicalSizeXUnit": "\u00c5",
        "PhysicalSizeY": 2e-5,  # in OME's own unit, micrometres
        "TimeIncrement": 40.0,
        "TimeIncrementUnit": "ms",
    }
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, metadata=metadata)
    with open_recording(path) as recording:
        assert recording.header.pixel_size_nm == pytest.approx(0.02)
        assert recording.header.frame_period_s == pytest.approx(0.04)
        np.testing.assert_array_equal(recording.read(4), STACK[4])


def test_our_own_names_in_the_description(tmp_path: Path) -> None:
    with open_recording(tiff(tmp_path, metadata={"pixel_size_nm": 0.03})) as recording:
        assert recording.header.pixel_size_nm == 0.03
    with pytest.raises(CalibrationError, match="pixel_size_nm"):
        open_recording(tiff(tmp_path, metadata={"pixel_size_nm": -0.03}))


def test_dots_per_inch_are_no_calibration(tmp_path: Path) -> None:
    path = tiff(tmp_path, resolution=(300, 300), resolutionunit="INCH")
    with open_recording(path) as recording:
        assert recording.header.pixel_size_nm is None


def test_pixels_that_are_not_square_are_not_calibrated(tmp_path: Path) -> None:
    with open_recording(
        tiff(tmp_path, imagej=True, resolution=(50, 25), metadata={"unit": "nm"})
    ) as recording:
        assert recording.header.pixel_size_nm is None


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colour_of_8_bits_becomes_luminance_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, compression: str | None
) -> None:
    grey = (STACK >> 4).astype("u1")
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    rgb[0, 0, 0] = (255, 0, 0)
    path = tiff(tmp_path, rgb, photometric="rgb", compression=compression)
    with caplog.at_level(logging.INFO), open_recording(path) as recording:
        read = np.stack([recording.read(i) for i in range(5)])
    assert "luminance" in caplog.text
    assert read[0, 0, 0] == 76  # 0.299 of 255
    read[0, 0, 0] = grey[0, 0, 0]
    np.testing.assert_array_equal(read, grey)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (np.zeros((32, 40, 3), "u2"), {"photometric": "rgb"}, "samples of uint16"),
        (np.zeros((32, 40, 4), "u1"), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "4 samples"),
        (np.zeros((2, 3, 32, 40), "u2"), {"imagej": True, "metadata": {"axes": "TCYX"}}, "axes TCYX"),
        (np.zeros((32, 40), "u1"), {"photometric": "palette", "colormap": np.zeros((3, 256), "u2")}, "palette"),
        (np.zeros((2, 32, 40), "c8"), {}, "complex64"),
    ],
    ids=["deep colours", "transparency", "channels", "palette", "complex"],
)  # fmt: skip
def test_what_is_no_movie_is_refused(
    tmp_path: Path, data: np.ndarray, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecordingError, match=said):
        open_recording(tiff(tmp_path, data, **options))


def test_several_series_are_listed_and_can_be_chosen(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(STACK[:, :8, :8], photometric="minisblack")
        writer.write(STACK, photometric="minisblack")
    with pytest.raises(RecordingError, match=r"0: QYX \(5, 8, 8\) uint16, 1: QYX \(5, 32, 40\) uint16"):
        open_recording(tmp_path / "a.tif")
    with open_recording(tmp_path / "a.tif", "1") as recording:
        np.testing.assert_array_equal(recording.read(3), STACK[3])
    for wrong in ("2", "first"):
        with pytest.raises(RecordingError, match="no series"):
            open_recording(tmp_path / "a.tif", wrong)


def test_imagejs_stack_with_a_single_page_is_read_whole(tmp_path: Path) -> None:
    """So ImageJ writes what is larger than 4 GB: one page, the other frames behind it."""
    path = tmp_path / "a.tif"
    description = "ImageJ=1.54f\nimages=5\nslices=5\nunit=nm\n"
    tifffile.imwrite(
        path, STACK[0], description=description, metadata=None, byteorder=">", resolution=(50, 50)
    )
    with path.open("ab") as file:
        with tifffile.TiffFile(path) as one:
            start = one.pages.first.dataoffsets[0]
        file.truncate(start)
        file.seek(start)
        file.write(STACK.astype(">u2").tobytes())
    with open_recording(path) as recording:
        assert len(recording) == 5
        np.testing.assert_array_equal(recording.read(4), STACK[4])
    with path.open("r+b") as file:
        file.truncate(start + STACK.nbytes - 1)
    with pytest.raises(RecordingError, match="cut short"):
        open_recording(path)


@pytest.mark.parametrize("shape", [(3, 1, 40), (1, 32, 1), (1, 40)])
def test_a_side_of_one_pixel_is_kept(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = STACK.ravel()[: math.prod(shape)].reshape(shape)
    with open_recording(tiff(tmp_path, data, compression="zlib", metadata=None)) as recording:
        assert recording.header.shape_yx == shape[-2:]
        np.testing.assert_array_equal(recording.read(len(recording) - 1), data.reshape(-1, *shape[-2:])[-1])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_cut_anywhere_it_is_refused_or_has_all_its_frames(tmp_path: Path, compression: str | None) -> None:
    whole = tiff(tmp_path, compression=compression).read_bytes()
    path = tmp_path / "cut.tif"
    refused = 0
    cuts = [*range(0, len(whole) - 1, 331), len(whole) - 1]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        try:
            with open_recording(path) as recording:  # what was cut are tags that nobody needs
                read = np.stack([recording.read(i) for i in range(5)])
        except RecordingError:
            refused += 1
        else:
            np.testing.assert_array_equal(read, STACK)
    assert refused >= len(cuts) - 2


def test_wrong_bytes_never_hang_nor_escape_as_another_error(tmp_path: Path) -> None:
    whole = tiff(tmp_path, STACK[:3, :8, :8], compression="zlib").read_bytes()
    path = tmp_path / "wrong.tif"
    random = np.random.default_rng(11)
    refused = 0
    for _ in range(600):
        wrong = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 4)):
            wrong[at] = random.choice([0, 1, 20, 127, 128, 255])
        path.write_bytes(wrong)
        try:
            with open_recording(path) as recording:
                recording.read(len(recording) - 1)
        except (RecordingError, CalibrationError):
            refused += 1
    assert refused > 100


def test_pages_that_point_back_do_not_hang(tmp_path: Path) -> None:
    path = tiff(tmp_path, STACK[:3], metadata=None, compression="zlib")
    with tifffile.TiffFile(path) as good:
        first, last = good.pages[0].offset, good.pages[2].offset
        tags = len(good.pages[2].tags)
    with path.open("r+b") as file:
        file.seek(last + 2 + 12 * tags)  # the offset of the page after the last
        file.write(first.to_bytes(4, "little"))
    with pytest.raises(RecordingError, match=f"page 3 lies at byte {first} as one before"):
        open_recording(path)
