"""Recordings of our own, read again."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from stream.codecs import encode
from stream.files import open_recording
from stream.frame import Algorithm, Encoding, Frame, Gap, RecordingError, SeriesEnd, SeriesHeader
from stream.record import Recorder

SHAPE_YX = (16, 24)
U2 = np.dtype("<u2")
COUNTS = np.random.default_rng(9).integers(0, 4000, (5, *SHAPE_YX)).astype(U2)
BAD = np.arange(16 * 24).reshape(SHAPE_YX) == 30
HEADER = SeriesHeader(
    8,
    SHAPE_YX,
    U2,
    frame_period_s=0.02,
    exposure_s=0.019,
    pixel_size_nm=0.02,
    beam_energy_ev=3e5,
    dose_rate_e_nm2_s=1.5e6,
    bad_pixels=BAD,
    frames_expected=9,
    metadata={"detector": "Eiger", "gain": [1, 2]},
)


def frame(position: int, index: int, algorithm: Algorithm, t_ns: int | None) -> Frame:
    payload = memoryview(encode(COUNTS[position], algorithm))
    return Frame(8, index, t_ns, 1, payload, Encoding(SHAPE_YX, U2, algorithm))


def record(folder: Path, *items: Frame | Gap) -> Path:
    recorder = Recorder(folder, name="session")
    for item in (HEADER, *items, SeriesEnd(8)):
        recorder.put(item)
    recorder.close()
    assert recorder.alarm is None
    assert recorder.path is not None
    return recorder.path


@pytest.mark.parametrize("algorithm", ["none", "lz4", "bslz4"])
def test_payloads_come_back_bit_for_bit(tmp_path: Path, algorithm: Algorithm) -> None:
    sent = [
        frame(0, 100, algorithm, 5_000),
        Gap(8, 101, 3, "ring-full"),
        frame(1, 104, algorithm, None),
        frame(2, 105, algorithm, 9_000),
    ]
    path = record(tmp_path, *sent)
    with open_recording(path) as recording:
        header, *body, end = list(recording)
    assert end == SeriesEnd(8)
    assert isinstance(header, SeriesHeader)
    for name in HEADER.__slots__:
        np.testing.assert_array_equal(getattr(header, name), getattr(HEADER, name))
    assert body[1] == sent[1]
    assert len(body) == len(sent)
    for got, original in zip(body, sent, strict=True):
        if isinstance(original, Frame):
            assert isinstance(got, Frame)
            assert (got.series_id, got.index, got.t_ns) == (8, original.index, original.t_ns)
            assert got.encoding == original.encoding
            assert bytes(got.payload) == bytes(original.payload)


def test_a_plain_payload_among_compressed_ones_stays_plain(tmp_path: Path) -> None:
    path = record(tmp_path, frame(0, 0, "bslz4", 1), frame(1, 1, "none", 2), frame(2, 2, "bslz4", 3))
    with open_recording(path) as recording:
        assert [recording.frame(i).encoding.algorithm for i in range(3)] == ["bslz4", "none", "bslz4"]
        for i in range(3):
            np.testing.assert_array_equal(recording.read(i), COUNTS[i])


def test_gaps_at_both_ends_and_a_payload_that_was_none(tmp_path: Path) -> None:
    broken = Frame(8, 3, 4, 1, memoryview(b"short"), Encoding(SHAPE_YX, U2, "bslz4"))
    gaps = [Gap(8, 0, 2, "wire"), Gap(8, 5, 2, "paused")]
    path = record(tmp_path, gaps[0], frame(0, 2, "bslz4", 1), broken, frame(1, 4, "bslz4", 5), gaps[1])
    with open_recording(path) as recording:
        body = list(recording)[1:-1]
        assert recording.indices.tolist() == [2, 4]
    assert [item for item in body if isinstance(item, Gap)] == [gaps[0], Gap(8, 3, 1, "decode"), gaps[1]]


def test_a_series_of_nothing_but_gaps(tmp_path: Path) -> None:
    with open_recording(record(tmp_path, Gap(8, 0, 4, "ring-full"))) as recording:
        assert len(recording) == 0
        assert list(recording)[1:] == [Gap(8, 0, 4, "ring-full"), SeriesEnd(8)]


def test_read_while_it_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, name="live")
    recorder.put(HEADER)
    for index in range(3):
        recorder.put(frame(index, index, "bslz4", index))
    assert recorder._part is not None
    recorder._part.flush()
    assert recorder.path is not None
    with open_recording(recorder.path) as recording:
        assert len(recording) == 3
        np.testing.assert_array_equal(recording.read(2), COUNTS[2])
    recorder.put(frame(3, 3, "bslz4", 3))
    recorder.close()
    assert recorder.alarm is None
    with open_recording(recorder.path) as recording:
        assert len(recording) == 4


def test_a_copy_taken_while_it_is_written_opens(tmp_path: Path) -> None:
    """As good as a kill: the file as it lies on the disk between two frames."""
    recorder = Recorder(tmp_path, name="killed")
    recorder.put(HEADER)
    recorder.put(frame(0, 0, "bslz4", 0))
    assert recorder._part is not None
    recorder._part.flush()
    recorder.put(frame(1, 1, "bslz4", 1))
    assert recorder.path is not None
    copy = Path(shutil.copy(recorder.path, tmp_path / "copy.nxs"))
    recorder.close()
    with open_recording(copy) as recording:
        assert len(recording) >= 1
        np.testing.assert_array_equal(recording.read(0), COUNTS[0])


@pytest.mark.parametrize(
    "header", ["{", '"text"', '{"series_id": 8}', '{"shape_yx": [3, 4], "dtype": "<u2", "series_id": 8}'],
    ids=["no JSON", "no object", "fields missing", "another shape"],
)  # fmt: skip
def test_a_recording_whose_header_is_damaged(tmp_path: Path, header: str) -> None:
    path = record(tmp_path, frame(0, 0, "bslz4", 0))
    with h5py.File(path, "r+") as file:
        del file["entry/header"]
        file["entry/header"] = header
    with pytest.raises(RecordingError, match="session"):
        open_recording(path)
