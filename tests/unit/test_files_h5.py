from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from stream.codecs import encode
from stream.files import open_recording
from stream.frame import CalibrationError, Frame, Gap, RecordingError

STACK = np.random.default_rng(2).integers(0, 4000, (4, 16, 24), dtype="u2")


def h5(path: Path, **datasets: object) -> h5py.File:
    file = h5py.File(path, "w")
    for name, data in datasets.items():
        file[name.replace("__", "/")] = data
    return file


def test_calibration_from_the_stack_wins_over_the_files(tmp_path: Path) -> None:
    with h5(tmp_path / "a.h5", frames=STACK) as file:
        file.attrs.update(pixel_size_nm=0.5, frame_period_s=np.array([0.04]), unrelated="x")
        file["frames"].attrs.update(pixel_size_nm=0.02, dose_rate_e_nm2_s=1e5, beam_energy_ev=3e5)
    with open_recording(tmp_path / "a.h5") as recording:
        header = recording.header
    assert (header.pixel_size_nm, header.frame_period_s) == (0.02, 0.04)
    assert (header.dose_rate_e_nm2_s, header.beam_energy_ev) == (1e5, 3e5)
    assert header.exposure_s is None


@pytest.mark.parametrize("wrong", [0.0, -0.02, np.nan, np.inf, "0.02 nm", [0.02, 0.03]])
def test_an_impossible_calibration_is_refused(tmp_path: Path, wrong: object) -> None:
    with h5(tmp_path / "a.h5", frames=STACK) as file:
        file["frames"].attrs["pixel_size_nm"] = wrong
    with pytest.raises(CalibrationError, match="pixel_size_nm must be a positive number"):
        open_recording(tmp_path / "a.h5")


def test_several_stacks_are_listed_and_can_be_chosen(tmp_path: Path) -> None:
    with h5(tmp_path / "a.h5", one=STACK, deep__two=STACK[:2].astype("f4"), deep__frame_index=[3, 9]):
        pass
    with pytest.raises(RecordingError) as refused:
        open_recording(tmp_path / "a.h5")
    assert "/deep/two (2, 16, 24) float32" in str(refused.value)
    assert "/one (4, 16, 24) uint16" in str(refused.value)
    with open_recording(tmp_path / "a.h5", "deep/two") as recording:
        assert recording.gaps == [Gap(1, 4, 5, "wire")]
        np.testing.assert_array_equal(recording.read(1), STACK[1])
    with pytest.raises(RecordingError, match="no stack of frames 'three'; it has"):
        open_recording(tmp_path / "a.h5", "three")


def test_stacks_are_numbers_only_and_images_count_where_there_is_no_stack(tmp_path: Path) -> None:
    with h5(tmp_path / "a.h5", image=STACK[0], complex=STACK.astype("c8"), line=[1, 2, 3]):
        pass
    with open_recording(tmp_path / "a.h5") as recording:
        np.testing.assert_array_equal(recording.read(0), STACK[0])
    with h5(tmp_path / "b.h5", line=[1, 2, 3]):
        pass
    with pytest.raises(RecordingError, match="no dataset"):
        open_recording(tmp_path / "b.h5")


@pytest.mark.parametrize(
    "index",
    [[0, 1, 2], [0, 1, 1, 2], [3, 2, 1, 0], [-1, 0, 1, 2], [0.0, 1.0, 2.0, 3.0]],
    ids=["too few", "twice", "backwards", "negative", "no integers"],
)
def test_frame_numbers_that_cannot_be(tmp_path: Path, index: list[float]) -> None:
    with h5(tmp_path / "a.h5", frames=STACK, frame_index=np.array(index)):
        pass
    with pytest.raises(RecordingError, match="frame_index beside /frames must"):
        open_recording(tmp_path / "a.h5")


def test_times_and_bad_pixels_lie_beside(tmp_path: Path) -> None:
    bad = np.zeros((16, 24), bool)
    bad[3, 4] = True
    with h5(tmp_path / "a.h5", frames=STACK, t_ns=np.arange(4) * 10**7, bad_pixels=bad):
        pass
    with open_recording(tmp_path / "a.h5") as recording:
        assert [item.t_ns for item in recording if isinstance(item, Frame)] == [
            0,
            10**7,
            2 * 10**7,
            3 * 10**7,
        ]
        np.testing.assert_array_equal(recording.header.bad_pixels, bad)
    with h5(tmp_path / "b.h5", frames=STACK, bad_pixels=bad.T):
        pass
    with pytest.raises(RecordingError, match=r"bad_pixels beside /frames must be \(16, 24\)"):
        open_recording(tmp_path / "b.h5")


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<f4", ">f8"])
def test_a_bitshuffled_chunk_is_handed_out_as_it_is(tmp_path: Path, dtype: str) -> None:
    stack = STACK.astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", data=stack, chunks=(1, 16, 24), **hdf5plugin.Bitshuffle(cname="lz4"))
    with open_recording(tmp_path / "a.h5") as recording:
        frame = recording.frame(2)
    assert frame.encoding.algorithm == "bslz4"
    assert bytes(frame.payload) == encode(stack[2], "bslz4")
    np.testing.assert_array_equal(frame.counts, stack[2])


def test_other_filters_are_decoded_by_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", data=STACK, chunks=(1, 16, 24), shuffle=True, **hdf5plugin.LZ4())
        file.create_dataset(
            "zstd/frames", data=STACK, chunks=(1, 16, 24), **hdf5plugin.Bitshuffle(cname="zstd")
        )
    for name in ("frames", "zstd/frames"):
        with open_recording(tmp_path / "a.h5", name) as recording:
            frame = recording.frame(3)
            assert frame.encoding.algorithm == "none"
            np.testing.assert_array_equal(frame.counts, STACK[3])


def test_a_damaged_frame_is_a_gap_and_the_rest_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        frames = file.create_dataset("frames", data=STACK, chunks=(1, 16, 24), compression="gzip")
        offset = frames.id.get_chunk_info(1).byte_offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 40)
    with open_recording(path) as recording:
        body = list(recording)[1:-1]
        with pytest.raises(RecordingError, match="frame 1 of"):
            recording.read(1)
    assert body[1] == Gap(1, 1, 1, "decode")
    assert [item.index for item in body if isinstance(item, Frame)] == [0, 2, 3]
    assert "1 of 4 frames" in caplog.text


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    with h5(tmp_path / "a.h5", frames=np.zeros((20, 64, 64))):
        pass
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="is it complete"):
        open_recording(tmp_path / "a.h5")


def test_the_phantoms_movie_is_calibrated(tmp_path: Path) -> None:
    from stream.phantom import Phantom
    from stream.phantom_movie import write_movie

    phantom = Phantom(seed=3, shape_px=128, frames=3)
    write_movie(tmp_path / "movie.h5", phantom)
    with open_recording(tmp_path / "movie.h5") as recording:
        header = recording.header
        for name in (
            "shape_yx",
            "dtype",
            "pixel_size_nm",
            "frame_period_s",
            "dose_rate_e_nm2_s",
            "beam_energy_ev",
        ):
            assert getattr(header, name) == getattr(phantom.header, name)
        assert recording.frame(1).encoding.algorithm == "bslz4"
        np.testing.assert_array_equal(recording.read(2), phantom.render(2))
