"""What every format's reader promises, whatever the format."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
import tifffile
from PIL import Image

from stream.files import READABLE, open_recording
from stream.frame import Encoding, Frame, Gap, RecordingError, SeriesEnd, SeriesHeader
from stream.record import Recorder
from tests.helpers.data import data_path
from tests.helpers.dm_writer import image, write_dm

SHAPE_YX = (12, 20)
COUNTS = np.random.default_rng(5).integers(0, 60_000, (6, *SHAPE_YX), dtype="u2")


def write_own(folder: Path) -> Path:
    recorder = Recorder(folder, name="own")
    recorder.put(SeriesHeader(4, SHAPE_YX, np.dtype("<u2"), pixel_size_nm=0.02))
    for index, counts in enumerate(COUNTS, 7):
        encoding = Encoding(SHAPE_YX, np.dtype("<u2"))
        recorder.put(Frame(4, index, index * 1000, 1, memoryview(counts.tobytes()), encoding))
    recorder.put(SeriesEnd(4))
    recorder.close()
    assert recorder.path is not None
    return recorder.path


def write_h5(folder: Path, **options: object) -> Path:
    path = folder / "stack.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/frames", data=COUNTS, **options)
        file["a/frame_index"] = np.array([2, 3, 5, 6, 10, 11])
    return path


def write_tiff(folder: Path, **options: object) -> Path:
    tifffile.imwrite(folder / "stack.tif", COUNTS, photometric="minisblack", **options)
    return folder / "stack.tif"


def write_npy(folder: Path) -> Path:
    np.save(folder / "stack.npy", COUNTS)
    return folder / "stack.npy"


def write_picture(folder: Path, suffix: str) -> Path:
    Image.fromarray((COUNTS[0] >> 8).astype("u1")).save(folder / f"picture{suffix}")
    return folder / f"picture{suffix}"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "own recording": write_own,
    "HDF5, plain": write_h5,
    "HDF5, bitshuffled": lambda folder: write_h5(
        folder, chunks=(1, *SHAPE_YX), **hdf5plugin.Bitshuffle(cname="lz4")
    ),
    "HDF5, zstd": lambda folder: write_h5(folder, chunks=(1, *SHAPE_YX), **hdf5plugin.Zstd()),
    "HDF5, chunks across frames": lambda folder: write_h5(folder, chunks=(4, 5, 6), compression="gzip"),
    "TIFF": write_tiff,
    "TIFF, deflated": lambda folder: write_tiff(folder, compression="zlib"),
    "BigTIFF, big-endian": lambda folder: write_tiff(folder, bigtiff=True, byteorder=">"),
    "TIFF of ImageJ": lambda folder: write_tiff(folder, imagej=True),
    "DM3": lambda folder: write_dm(folder / "a.dm3", [image(COUNTS)], version=3),
    "DM4": lambda folder: write_dm(folder / "a.dm4", [image(COUNTS)]),
    "npy": write_npy,
    "PNG": lambda folder: write_picture(folder, ".png"),
    "BMP": lambda folder: write_picture(folder, ".bmp"),
}
REAL = [
    ("si_walk_movie.h5", (256, 256), "<f4", 48, None),
    ("au_particles_750C_movie.tif", (369, 369), "u1", 194, None),
    ("graphene_hrtem/graphene_731px_0.01196nm.tif", (731, 731), "<f4", 1, 0.01196),
    ("wse2_ti/1028_ADF1_2.dm4", (512, 512), "<u4", 1, 0.0399),
    ("formats/example_Se_implanted_MoS2.dm3", (1024, 1024), "<u4", 1, 0.0127),
    ("atomid/000.bmp", (1024, 1024), "u1", 1, None),
    ("graphene_contamination/images/2014_0104_Gr_FS_005_layer_0015.png", (256, 256), "u1", 1, None),
]


def keeps_its_promises(path: Path) -> list[np.ndarray]:
    """Check a file against the contract; its frames."""
    with open_recording(path) as recording:
        header = recording.header
        items = list(recording)
        assert items[0] is header
        assert items[-1] == SeriesEnd(header.series_id)
        body = items[1:-1]
        covered: list[int] = []
        frames: list[Frame] = []
        for item in body:
            assert isinstance(item, Frame | Gap)
            assert item.series_id == header.series_id
            if isinstance(item, Frame):
                covered.append(item.index)
                frames.append(item)
            else:
                covered.extend(range(item.first, item.first + item.count))
        assert covered == list(range(covered[0], covered[0] + len(covered))), "each index once, in order"
        assert [frame.index for frame in frames] == recording.indices.tolist()
        assert len(frames) == len(recording)

        for position, frame in enumerate(frames):
            assert frame.encoding.shape_yx == header.shape_yx
            assert frame.encoding.dtype == header.dtype == frame.counts.dtype
            assert not frame.counts.flags.writeable
            np.testing.assert_array_equal(recording.read(position), frame.counts)
        kept = [frame.counts.copy() for frame in frames]

        again = [item for item in recording if isinstance(item, Frame)]
        assert [bytes(frame.payload) for frame in again] == [bytes(frame.payload) for frame in frames]
        for out_of_range in (-1, len(recording)):
            with pytest.raises(IndexError):
                recording.read(out_of_range)
    recording.close()
    with pytest.raises(RecordingError, match="closed"):
        recording.read(0)
    for frame, counts in zip(frames, kept, strict=True):  # frames outlive the file
        np.testing.assert_array_equal(frame.counts, counts)
    return kept


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format(tmp_path: Path, writer: str) -> None:
    frames = keeps_its_promises(WRITERS[writer](tmp_path))
    expected = [(COUNTS[0] >> 8).astype("u1")] if writer in ("PNG", "BMP") else list(COUNTS)
    np.testing.assert_array_equal(np.stack(frames), np.stack(expected))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape_yx", "dtype", "count", "pixel_size_nm"), REAL, ids=lambda v: str(v)[:40]
)
def test_real_files(
    name: str, shape_yx: tuple[int, int], dtype: str, count: int, pixel_size_nm: float | None
) -> None:
    path = data_path(*name.split("/"))
    frames = keeps_its_promises(path)
    with open_recording(path) as recording:
        header = recording.header
    assert (header.shape_yx, header.dtype, len(frames)) == (shape_yx, np.dtype(dtype), count)
    assert header.pixel_size_nm == (pixel_size_nm and pytest.approx(pixel_size_nm, rel=2e-3))


@pytest.mark.data
def test_the_gaps_of_the_real_movie() -> None:
    path = data_path("si_walk_movie.h5")
    with open_recording(path) as recording, h5py.File(path) as plain:
        assert [(gap.first, gap.count, gap.reason) for gap in recording.gaps] == [
            (18, 1, "wire"),
            (28, 1, "wire"),
            (46, 1, "wire"),
        ]
        assert recording.indices[[0, -1]].tolist() == [2, 52]
        np.testing.assert_array_equal(recording.read(20), plain["frames"][20])


@pytest.mark.parametrize("name", ["movie.ser", "movie.tif.exe", "movie"])
def test_an_unknown_format_is_told_what_is_readable(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(RecordingError) as refused:
        open_recording(tmp_path / name)
    assert all(suffix in str(refused.value) for suffix in READABLE)


@pytest.mark.parametrize("suffix", READABLE)
def test_what_is_not_what_its_name_says(tmp_path: Path, suffix: str) -> None:
    for content in (
        b"",
        b"\0" * 4000,
        b"%PDF-1.4 and then some",
        b"\x89HDF\r\n\x1a\n",
        b"II*\0",
        b"MM\0*" + b"\xff" * 90,
    ):
        path = tmp_path / f"false{suffix}"
        path.write_bytes(content)
        with pytest.raises(RecordingError, match="false"):
            open_recording(path)


@pytest.mark.parametrize("suffix", [".h5", ".tif"])
def test_there_is_no_such_file(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        open_recording(tmp_path / f"absent{suffix}")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_a_movie_larger_than_the_memory_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    large = np.lib.format.open_memmap(path, "w+", "u2", (600, 512, 512))  # 315 MB, sparse
    large[::50] = 7
    del large
    script = (
        "import resource, sys\n"
        "from stream.files import open_recording\n"
        "from stream.frame import Frame\n"
        "with open_recording(sys.argv[1]) as recording:\n"
        "    recording.read(0)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    total = sum(int(item.counts.sum()) for item in recording if isinstance(item, Frame))\n"
        "print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    total, grown_kib = map(int, done.stdout.split())
    assert total == 12 * 512 * 512 * 7
    assert grown_kib < 60_000
