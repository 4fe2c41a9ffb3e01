import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stream.files import open_recording
from stream.frame import RecordingError

GREY = np.random.default_rng(6).integers(0, 256, (24, 30), dtype="u1")


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_grey_png_is_read_as_it_is(tmp_path: Path, dtype: str) -> None:
    counts = GREY.astype(dtype) * (1 if dtype == "u1" else 257)
    Image.fromarray(counts).save(tmp_path / "a.png")
    with open_recording(tmp_path / "a.png") as recording:
        assert recording.header.pixel_size_nm is None
        read = recording.read(0)
    np.testing.assert_array_equal(read, counts)
    assert read.dtype == ("u1" if dtype == "u1" else recording.header.dtype)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_colour_becomes_luminance_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    rgb = np.stack([GREY, np.roll(GREY, 1), np.roll(GREY, 2)], axis=-1)
    Image.fromarray(rgb).save(tmp_path / f"a{suffix}")
    with caplog.at_level(logging.INFO), open_recording(tmp_path / f"a{suffix}") as recording:
        read = recording.read(0)
    np.testing.assert_allclose(read, rgb @ [0.299, 0.587, 0.114], atol=0.51)
    assert "luminance" in caplog.text


def test_grey_in_the_guise_of_colour_keeps_its_values(tmp_path: Path) -> None:
    palette = Image.fromarray(GREY).convert("P")
    for name, picture in {
        "palette": palette,
        "rgb": Image.fromarray(np.repeat(GREY[..., None], 3, -1)),
        "opaque": Image.fromarray(GREY).convert("LA"),
    }.items():
        picture.save(tmp_path / f"{name}.png")
        with open_recording(tmp_path / f"{name}.png") as recording:
            np.testing.assert_array_equal(recording.read(0), GREY)


def test_holes_are_refused(tmp_path: Path) -> None:
    rgba = np.full((4, 4, 4), 200, "u1")
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with pytest.raises(RecordingError, match="transparent"):
        open_recording(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_cut_anywhere_it_is_refused(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GREY).save(tmp_path / f"a{suffix}")
    whole = (tmp_path / f"a{suffix}").read_bytes()
    for cut in range(0, len(whole) - 30, 13):
        (tmp_path / f"a{suffix}").write_bytes(whole[:cut])
        with pytest.raises(RecordingError, match="picture"):
            open_recording(tmp_path / f"a{suffix}")


def test_a_picture_that_claims_to_be_enormous_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    with pytest.raises(RecordingError, match="exceeds limit"):
        open_recording(path)


@pytest.mark.parametrize("dtype", ["?", "i1", ">u2", "<i4", "i8", "f2", ">f4", "f8"])
def test_arrays_of_every_real_type(tmp_path: Path, dtype: str) -> None:
    stack = (GREY[None] // np.array([1, 2, 3])[:, None, None]).astype(dtype)
    np.save(tmp_path / "a.npy", stack)
    with open_recording(tmp_path / "a.npy") as recording:
        assert recording.header.dtype.str[0] in "<|"
        assert len(recording) == 3
        for position, counts in enumerate(stack):
            np.testing.assert_array_equal(recording.read(position), counts)


def test_one_image_and_fortrans_order(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 4, dtype="u2").reshape(2, 3, 4)
    for name, array in {
        "image": stack[1],
        "transposed": stack[1].T,
        "fortran": np.asfortranarray(stack),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        with open_recording(tmp_path / f"{name}.npy") as recording:
            expected = array if array.ndim == 3 else array[None]
            read = np.stack([recording.read(i) for i in range(len(recording))])
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((2, 2, 2, 2)), "shape"),
        (np.zeros((0, 4, 4)), "shape"),
        (np.zeros((4, 4), "c16"), "complex128"),
        (np.array([[{"a": 1}]], dtype=object), "numpy array of numbers"),
    ],
    ids=["line", "four axes", "empty", "complex", "pickled"],
)  # fmt: skip
def test_arrays_that_are_no_frames(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(RecordingError, match=said):
        open_recording(tmp_path / "a.npy")


def test_an_array_cut_short_and_an_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    whole = (tmp_path / "a.npy").read_bytes()
    for cut in (3, 60, len(whole) - 1):
        (tmp_path / "a.npy").write_bytes(whole[:cut])
        with pytest.raises(RecordingError, match=r"a\.npy"):
            open_recording(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", a=GREY)
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    with pytest.raises(RecordingError, match="of an archive"):
        open_recording(tmp_path / "b.npy")


def test_there_is_nothing_to_choose_in_a_picture(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    with pytest.raises(RecordingError, match="there is no 'frames'"):
        open_recording(tmp_path / "a.npy", "frames")
