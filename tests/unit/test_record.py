"""What the recorder writes, and what it does when it cannot."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the filters
import numpy as np
import pytest

from stream import crashsafe
from stream.codecs import encode
from stream.frame import Algorithm, Encoding, Frame, Gap, RecordingError, SeriesEnd, SeriesHeader
from stream.nexus import ALGORITHMS, KINDS, REASONS, read_header, read_ledger
from stream.record import Recorder

SHAPE = (24, 40)
U2 = np.dtype("<u2")
COUNTS = np.random.default_rng(5).poisson(30, (8, *SHAPE)).astype(U2)
HEADER = SeriesHeader(3, SHAPE, U2, frame_period_s=0.02, pixel_size_nm=0.05)


def frame(
    index: int,
    algorithm: Algorithm = "none",
    *,
    counts: np.ndarray | None = None,
    t_ns: int | None = 0,
    payload: bytes | None = None,
    series_id: int = 3,
) -> Frame:
    image = COUNTS[index % len(COUNTS)] if counts is None else counts
    content = encode(image, algorithm) if payload is None else payload
    encoding = Encoding((image.shape[0], image.shape[1]), image.dtype, algorithm)
    return Frame(series_id, index, t_ns, time.monotonic_ns(), memoryview(content), encoding)


def record(directory: Path, *items: Frame | Gap, header: SeriesHeader = HEADER, **settings) -> Recorder:
    recorder = Recorder(directory, min_free_mib=0, **settings)
    for item in (header, *items, SeriesEnd(3)):
        recorder.put(item)
    recorder.close()
    return recorder


def open_last(recorder: Recorder) -> h5py.File:
    assert recorder.path is not None
    return h5py.File(recorder.path, "r")


@pytest.mark.parametrize(
    ("algorithm", "filter_id"), [("none", None), ("lz4", 32004), ("bslz4", 32008)], ids=str
)
def test_chunks_are_the_payloads(tmp_path: Path, algorithm: Algorithm, filter_id: int | None) -> None:
    sent = [frame(i, algorithm) for i in range(6)]
    recorder = record(tmp_path, *sent)
    with open_last(recorder) as file:
        frames = file["entry/data/frames"]
        plist = frames.id.get_create_plist()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        assert filters == ([filter_id] if filter_id else [])
        for row, item in enumerate(sent):
            mask, chunk = frames.id.read_direct_chunk((row, 0, 0))
            assert (mask, bytes(chunk)) == (0, bytes(item.payload))
        np.testing.assert_array_equal(frames[:], COUNTS[:6])  # HDF5's own filters read them
    assert (recorder.frames, recorder.frames_total, recorder.unrecorded) == (6, 6, 0)
    assert recorder.bytes_written == sum(len(item.payload) for item in sent)


@pytest.mark.parametrize("first", ["none", "lz4", "bslz4"])
def test_a_change_of_algorithm_changes_no_count(tmp_path: Path, first: Algorithm) -> None:
    order: list[Algorithm] = [first, "none", "lz4", "bslz4", first]
    recorder = record(tmp_path, *[frame(i, algorithm) for i, algorithm in enumerate(order)])
    with open_last(recorder) as file:
        np.testing.assert_array_equal(file["entry/data/frames"][:], COUNTS[:5])
        mask, chunk = file["entry/data/frames"].id.read_direct_chunk((1, 0, 0))
        assert (mask, bytes(chunk)) == (int(first != "none"), COUNTS[1].tobytes())
        names = [
            name
            for code in file["entry/ledger"]["algorithm"]
            for name in ALGORITHMS
            if ALGORITHMS[name] == code
        ]
        assert names == order


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<u4", "<i2", "<f4"])
def test_every_dtype_is_kept(tmp_path: Path, dtype: str) -> None:
    counts = COUNTS[0].astype(dtype)
    for algorithm in ("none", "bslz4"):
        header = SeriesHeader(3, SHAPE, counts.dtype)
        recorder = record(tmp_path, frame(0, algorithm, counts=counts), header=header)
        with open_last(recorder) as file:
            stored = file["entry/data/frames"]
            assert stored.dtype == counts.dtype
            np.testing.assert_array_equal(stored[0], counts)


def test_another_shape_begins_another_part(tmp_path: Path) -> None:
    small = COUNTS[0, :8, :8].copy()
    recorder = record(tmp_path, frame(0), frame(1, counts=small), frame(2, counts=small))
    first, second = sorted(tmp_path.glob("*.nxs"))
    assert recorder.path == second
    assert (recorder.frames, recorder.frames_total) == (2, 3)
    assert (read_header(first).shape_yx, read_header(second).shape_yx) == (SHAPE, (8, 8))


def test_the_ledger_has_a_row_for_every_frame_and_gap(tmp_path: Path) -> None:
    items = [Gap(3, 0, 4, "wire"), frame(4, t_ns=80), Gap(3, 5, 2, "ring-full"), frame(7, t_ns=None)]
    recorder = record(tmp_path, *items)
    assert recorder.path is not None
    ledger = read_ledger(recorder.path)
    assert ledger["index"].tolist() == [0, 4, 5, 7]
    assert ledger["count"].tolist() == [4, 1, 2, 1]
    assert ledger["row"].tolist() == [-1, 0, -1, 1]
    assert ledger["t_ns"].tolist() == [-1, 80, -1, -1]
    assert ledger["bytes"].tolist() == [0, COUNTS[0].nbytes, 0, COUNTS[0].nbytes]
    assert ledger["kind"].tolist() == [KINDS[k] for k in ("gap", "frame", "gap", "frame")]
    assert ledger["reason"].tolist() == [REASONS[r] for r in ("wire", "ok", "ring-full", "ok")]
    assert ledger["recv_ns"][1] == items[1].recv_ns  # type: ignore[union-attr]


def test_a_payload_that_cannot_be_a_frame_is_only_noted(tmp_path: Path) -> None:
    good = encode(COUNTS[0], "bslz4")
    lying = bytes([255]) + good[1:]
    bad = [frame(1, "bslz4", payload=lying), frame(2, payload=b"short"), frame(3, "lz4", payload=good[:12])]
    recorder = record(tmp_path, frame(0, "bslz4"), *bad, frame(4, "bslz4"))
    assert recorder.alarm is None
    assert (recorder.frames, recorder.unrecorded) == (2, 3)
    assert recorder.path is not None
    ledger = read_ledger(recorder.path)
    assert ledger["row"].tolist() == [0, -1, -1, -1, 1]
    assert ledger["reason"].tolist() == [0] + [REASONS["decode"]] * 3 + [0]
    with open_last(recorder) as file:
        np.testing.assert_array_equal(file["entry/data/frames"][:], COUNTS[[0, 4]])


def test_a_series_of_nothing_but_gaps_is_on_record(tmp_path: Path) -> None:
    recorder = record(tmp_path, Gap(3, 0, 99, "wire"))
    assert recorder.path is not None
    assert read_ledger(recorder.path)["count"].tolist() == [99]


def test_a_series_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    assert record(tmp_path).path is None
    assert not list(tmp_path.glob("*.nxs"))


def test_header_and_settings_are_copied_in(tmp_path: Path) -> None:
    bad = np.zeros(SHAPE, bool)
    bad[3, 5] = True
    header = SeriesHeader(
        3, SHAPE, U2, 0.02, 0.019, 0.05, 3e5, 1.5e6, bad, 10, {"gain": np.float32(2), "µ": [1, {"a": b"x"}]}
    )
    recorder = record(tmp_path, frame(0), header=header, settings_toml="[record]\nenabled = true\n")
    assert recorder.path is not None
    kept = read_header(recorder.path)
    assert kept.bad_pixels is not None
    np.testing.assert_array_equal(kept.bad_pixels, bad)
    for name in ("series_id", "shape_yx", "dtype", "frame_period_s", "exposure_s", "pixel_size_nm"):
        assert getattr(kept, name) == getattr(header, name)
    assert (kept.beam_energy_ev, kept.dose_rate_e_nm2_s, kept.frames_expected) == (3e5, 1.5e6, 10)
    assert kept.metadata == {"gain": 2.0, "µ": [1, {"a": "b'x'"}]}
    with open_last(recorder) as file:
        entry = file["entry"]
        assert entry["settings"][()].decode() == "[record]\nenabled = true\n"
        energy = entry["instrument/beam/incident_energy"]
        assert (energy[()], energy.attrs["units"]) == (3e5, "eV")
        assert entry["instrument/detector/count_time"][()] == 0.019
        assert entry["end_time"][()] > entry["start_time"][()]
        assert entry["stopped"][()] == b""


@pytest.mark.parametrize(
    ("period_s", "t_ns", "units", "expected"),
    [
        (0.02, [7, 8, 9], "s", [0, 0.02, 0.08]),
        (None, [1000, 3000, 9000], "s", [0, 2e-6, 8e-6]),
        (None, [None, None, None], "frame", [0, 1, 4]),
    ],
)
def test_the_time_axis(tmp_path: Path, period_s, t_ns, units, expected) -> None:
    header = SeriesHeader(3, SHAPE, U2, frame_period_s=period_s)
    recorder = record(
        tmp_path, *[frame(i, t_ns=t) for i, t in zip((10, 11, 14), t_ns, strict=True)], header=header
    )
    with open_last(recorder) as file:
        assert file["entry/data/time"].attrs["units"] == units
        np.testing.assert_allclose(file["entry/data/time"][:], expected)
        assert file["entry/data/y"].attrs["units"] == "px"


def test_files_are_never_overwritten(tmp_path: Path) -> None:
    first = record(tmp_path, frame(0)).path
    second = record(tmp_path, frame(1)).path
    named = [record(tmp_path, frame(0), name="walk").path for _ in range(2)]
    assert first is not None
    assert second is not None
    assert (first.name[-11:], second.name[-11:]) == ("_part-1.nxs", "_part-2.nxs")
    assert first.name[:-11] == second.name[:-11]
    assert [p.name for p in named if p] == ["walk_part-1.nxs", "walk_part-2.nxs"]


def test_a_second_recorder_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = Recorder(tmp_path)
    with pytest.raises(RecordingError, match=r"process \d+ on .* stop that one"):
        Recorder(tmp_path)
    holder.close()
    Recorder(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match=r"set record\.directory"):
        Recorder(tmp_path / "file" / "folder")


def test_the_reserve_of_the_disk_stops_recording_and_nothing_else(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, min_free_mib=1 << 40)
    recorder.put(HEADER)
    for i in range(5):
        recorder.put(frame(i))
    recorder.put(Gap(3, 5, 1, "wire"))
    recorder.put(SeriesEnd(3))
    recorder.tick()
    assert recorder.alarm is not None
    assert "is full" in recorder.alarm
    assert (recorder.frames, recorder.unrecorded) == (0, 5)
    recorder.close()
    with open_last(recorder) as file:
        assert file["entry/stopped"][()].decode().startswith("recording stopped: the disk of")


def test_a_disk_that_fills_up_keeps_what_it_has(tmp_path: Path, monkeypatch) -> None:
    recorder = Recorder(tmp_path, min_free_mib=1)
    recorder.put(HEADER)
    monkeypatch.setattr(Recorder, "_free", lambda self: (3 << 20) - self.bytes_written)
    sent = 0
    while recorder.alarm is None:
        recorder.put(frame(sent))
        sent += 1
        assert sent < 10_000
    assert recorder.unrecorded == 1
    assert (2 << 20) - COUNTS[0].nbytes < recorder.bytes_written <= 2 << 20
    recorder.close()
    with open_last(recorder) as file:
        assert len(file["entry/data/frames"]) == sent - 1
        np.testing.assert_array_equal(file["entry/data/frames"][-1], COUNTS[(sent - 2) % 8])


def test_an_error_of_the_disk_is_an_alarm_and_the_file_is_whole(tmp_path: Path, monkeypatch) -> None:
    recorder = Recorder(tmp_path, min_free_mib=0)
    for item in (HEADER, frame(0), frame(1)):
        recorder.put(item)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(crashsafe.CrashSafeFile, "claim", broken)
    for i in range(2, 5):
        recorder.put(frame(i))
    assert recorder.alarm is not None
    assert "Input/output error" in recorder.alarm
    assert (recorder.frames, recorder.frames_total, recorder.unrecorded) == (2, 2, 3)
    recorder.close()
    with open_last(recorder) as file:
        np.testing.assert_array_equal(file["entry/data/frames"][:], COUNTS[:2])
        assert "Input/output error" in file["entry/stopped"][()].decode()
        assert len(file["entry/ledger"]) == 2


def test_frames_are_on_disk_soon_and_ticks_bring_the_last_ones(tmp_path: Path, monkeypatch) -> None:
    recorder = Recorder(tmp_path, min_free_mib=0)
    recorder.put(HEADER)
    recorder.put(frame(0))

    def on_disk() -> int:
        assert recorder.path is not None
        copy = tmp_path / "copy.nxs"  # one process has one view of a file
        copy.write_bytes(recorder.path.read_bytes())
        with h5py.File(copy, "r") as file:
            assert len(file["entry/ledger"]) == len(file["entry/data/frames"])
            return len(file["entry/ledger"])

    assert on_disk() == 0
    monkeypatch.setattr(crashsafe, "FLUSH_S", 0.0)
    recorder.tick()
    assert on_disk() == 1
    recorder.put(frame(1))
    assert on_disk() == 2
    recorder.close()
