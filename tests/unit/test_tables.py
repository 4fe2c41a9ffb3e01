"""A replay's result: documented tables, every index accounted for, and what other programs get of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from stream.export import export_result
from stream.frame import RecordingError
from stream.histories import Histories
from stream.hopping import Hop
from stream.tables import TABLES, ResultFile, _hop_rows, read_table
from stream.tracking import Tracker
from tests.helpers.detections import particle
from tests.helpers.endless_session import EndlessSession
from tests.helpers.result import ABSENT, FRAMES, GAP, HEADER, PIXEL_NM, SITES, WALKER, present, write_result


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tracker]:
    path = tmp_path_factory.mktemp("tables") / "result.h5"
    return path, write_result(path)


def test_every_field_of_every_table_says_what_it_is(written: tuple[Path, Tracker]) -> None:
    with h5py.File(written[0], "r") as file:
        for name in TABLES:
            table = file[name]
            assert table.attrs["description"]
            assert all(table.attrs[field] for field in table.dtype.names)  # pyright: ignore
        assert file.attrs["settings"] == "[a]\nb = 1\n"
        assert file.attrs["engine"] == 'name = "x"\n'
        assert json.loads(str(file.attrs["header"]))["series_id"] == 5


def test_the_ledger_holds_every_index_once(written: tuple[Path, Tracker]) -> None:
    ledger = read_table(written[0], "ledger")
    covered = [i for row in ledger for i in range(row["frame"], row["frame"] + row["count"])]
    assert covered == list(range(FRAMES))
    gap = ledger[ledger["frame"] == GAP.first][0]
    assert (gap["count"], gap["state"], gap["t_ns"]) == (5, b"wire", -1)
    analysed = ledger[ledger["state"] == b"analysed"]
    assert np.isfinite(analysed["residual_px"][1:]).mean() > 0.9
    np.testing.assert_allclose(analysed["residual_pm"], 1e3 * PIXEL_NM * analysed["residual_px"])
    assert analysed["columns"].tolist() == [len(present(i)) for i in analysed["frame"]]


def test_columns_are_those_put_in(written: tuple[Path, Tracker]) -> None:
    columns = read_table(written[0], "columns")
    for index in (0, 45, 99):
        here = columns[columns["frame"] == index]
        np.testing.assert_array_equal(np.stack([here["y_px"], here["x_px"]], 1), present(index))
    late = columns[columns["frame"] == 99]
    assert sorted(late["site"]) == list(range(len(SITES)))


def test_occupancy_follows_the_column_that_left(written: tuple[Path, Tracker]) -> None:
    path, tracker = written
    with h5py.File(path, "r") as file:
        p, frame = file["occupancy/p"][()], file["occupancy/frame"][()]  # pyright: ignore
    assert p.shape == (FRAMES - GAP.count, len(tracker.sites))
    assert np.isnan(p[0]).all(), "no site is known in the first frame"
    distance = np.hypot(*(tracker.sites.yx_nm - SITES[WALKER] * PIXEL_NM).T)
    walker = int(distance.argmin())
    assert (p[(frame > 35) & (frame < 60), walker] < 0.5).all()
    assert (p[frame > 65, walker] > 0.5).all()


def test_hops_hold_every_reading_of_an_event() -> None:
    events = [
        Hop(0, 0, -1, 2, 0.9),
        Hop(10**8, 1, 0, 1, 0.6, ((0, 2, 0.3), (2, 1, 0.1)), (0.6, 0.3, 0.1)),
        Hop(2 * 10**8, 2, 1, 0, 0.9, shares=(1.0,)),
    ]
    hops = _hop_rows(events, np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    assert hops["event"].tolist() == [1, 1, 1, 2]
    assert hops["best"].tolist() == [True, False, False, True]
    assert hops[["from_site", "to_site"]].tolist() == [(0, 1), (0, 2), (2, 1), (1, 0)]
    assert hops["probability"].sum() == pytest.approx(1.9)
    assert hops["to_y_nm"].tolist() == [0, 1, 0, 0]


def test_events_and_sites_tell_when_where_and_how_often(written: tuple[Path, Tracker]) -> None:
    events, sites = (read_table(written[0], name) for name in ("events", "sites"))
    assert events["kind"].tolist() == [b"disappear", b"appear"]
    assert events["frame"].tolist() == [ABSENT.start, ABSENT.stop]
    assert events["t_ns"].tolist() == [ABSENT.start * 10**8, ABSENT.stop * 10**8]
    where = np.stack([events["y_nm"], events["x_nm"]], 1)
    np.testing.assert_allclose(where, np.tile(SITES[WALKER] * PIXEL_NM, (2, 1)), atol=1e-3)
    (site,) = {*events["from_site"], *events["to_site"]} - {-1}
    busy = sites[(sites["appeared"] + sites["disappeared"]) > 0]
    assert busy["site"].tolist() == [site]
    assert 6.0 < busy["occupied_s"][0] < 7.5 < 9.0 < busy["observed_s"][0] < 10.1
    assert busy["event_rate_low_hz"][0] < busy["event_rate_hz"][0] < busy["event_rate_high_hz"][0]
    assert len(read_table(written[0], "hops")) == 0


def test_maps_know_where_they_are(written: tuple[Path, Tracker]) -> None:
    with h5py.File(written[0], "r") as file:
        events = file["maps/events"]
        scale, origin = float(events.attrs["nm_per_px"]), events.attrs["yx_origin_nm"]
        peak = np.array(np.unravel_index(np.argmax(events[()]), events.shape))  # pyright: ignore
        np.testing.assert_allclose(origin + peak * scale, SITES[WALKER] * PIXEL_NM, atol=scale)
        assert file["maps/occurrence"][()].max() <= 1.0  # pyright: ignore
        assert set(file["maps"]) == {"occurrence", "raw_events", "events", "rate", "residence"}
        assert all("meaning" in drawn.attrs for drawn in file["maps"].values())
        # the column that left and came back stayed for 3 s before, and has not left since
        assert 6.0 < file["maps/residence"][()].max() < 7.5  # pyright: ignore


def test_a_result_is_never_overwritten(written: tuple[Path, Tracker]) -> None:
    before = written[0].read_bytes()
    with pytest.raises(RecordingError, match="never overwritten"):
        ResultFile(written[0], header=HEADER, settings_toml="", engine_toml="")
    assert written[0].read_bytes() == before


def test_a_failed_replay_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.h5"

    def fail() -> None:
        with ResultFile(path, header=HEADER, settings_toml="", engine_toml="") as result:
            result.add_gap(GAP)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not path.exists()


def test_export_writes_what_trackpy_and_people_open(written: tuple[Path, Tracker], tmp_path: Path) -> None:
    files = export_result(written[0], tmp_path / "csv", tmp_path / "png")
    maps = ("occurrence", "raw_events", "events", "rate", "residence")
    assert {f.name for f in files} == {
        *(f"{name}.csv" for name in TABLES),
        *(f"{name}.png" for name in maps),
        "dwells.png",
    }
    with (tmp_path / "csv" / "columns.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {"y", "x", "frame", "particle", "size"} <= rows[0].keys()
    columns = read_table(written[0], "columns")
    assert len(rows) == len(columns)
    assert [float(rows[7]["y"]), float(rows[7]["x"])] == [columns["y_px"][7], columns["x_px"][7]]
    for name in maps:
        with Image.open(tmp_path / "png" / f"{name}.png") as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50, "a picture, not a blank"


def test_the_table_of_sites_says_which_were_proposed(tmp_path: Path) -> None:
    write_result(tmp_path / "r.h5", WALKER + 5)
    export_result(tmp_path / "r.h5", tmp_path, None)
    sites = read_table(tmp_path / "r.h5", "sites")
    (proposed,) = sites[sites["proposed"]]
    np.testing.assert_allclose([proposed["y_nm"], proposed["x_nm"]], SITES[WALKER + 5] * PIXEL_NM, atol=0.005)
    with (tmp_path / "sites.csv").open(newline="", encoding="utf-8") as file:
        said = [row["proposed"] for row in csv.DictReader(file)]
    assert said == [str(bool(value)) for value in sites["proposed"]]


def test_export_refuses_what_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(RecordingError, match="no result file"):
        export_result(path, tmp_path, None)
    with pytest.raises(RecordingError, match="no result file"):
        export_result(path, None, None, tmp_path / "tracks.csv")
    with pytest.raises(FileNotFoundError):
        export_result(tmp_path / "absent.h5", tmp_path, None)


def test_where_the_specimen_was_is_known_of_every_frame(tmp_path: Path) -> None:
    real, shifts = particle(60), []
    tracker = Tracker((512, 512), PIXEL_NM, 0.1)
    with h5py.File(tmp_path / "kept.h5", "w") as file:
        histories = Histories(file)
        for frame in range(12):
            seen = real[:0] if frame == 7 else real + 0.3 * frame
            tracked = tracker.update(frame, frame * 10**8, seen)
            histories.add(frame, frame * 10**8, tracked)
            shifts.append(tracked.shift)
        for row, shift in enumerate(shifts):
            kept = histories.shift(row)
            for name in ("yx_px", "turn_rad", "centre_yx_px", "residual_px", "matched", "measured", "lost"):
                np.testing.assert_array_equal(getattr(kept, name), getattr(shift, name), err_msg=name)
        assert [shift.lost for shift in shifts].count(True) == 1
        np.testing.assert_array_equal(histories.frame, range(12))


def test_sites_that_crept_are_looked_at_again_where_they_were(tmp_path: Path) -> None:
    """A particle grows by 12 % while columns of its rim hop: at its rim sites creep by 7 px."""
    session = EndlessSession(np.random.default_rng(3), 130, hop=0.02, pictures=True)
    tracker = Tracker(session.shape_yx, PIXEL_NM, 0.01)
    frames, middle, first = 900, np.array(session.shape_yx) / 2, session.yx_px.copy()
    shown, kept = [], []
    with h5py.File(tmp_path / "kept.h5", "w") as file:
        histories = Histories(file)
        for index, t_ns, yx_px, picture in session.frames(frames):
            tracked = tracker.update(index, t_ns, yx_px, None, picture)
            histories.add(index, t_ns, tracked)
            shown.append(session.occupied.copy())
            kept.append(picture)
            session.yx_px = middle + (first - middle) * (1 + 0.12 * index / frames)
        tracker.finish()
        now_px = tracker.sites.yx_nm / PIXEL_NM
        distance, true = cKDTree(session.yx_px).query(now_px)
        mine = np.flatnonzero((distance < 4) & (tracker.sites.retired_frame < 0))
        wrong = {True: [], False: []}
        for row in range(50, 300, 10):
            for then in (True, False):
                places = histories.site_yx_px(row) if then else None
                told = tracker.look_again(histories.shift(row), kept[row], places)[mine]
                known = np.isfinite(told)
                wrong[then].append(np.mean((told[known] > 0) != shown[row][true[mine][known]]))
    assert np.mean(wrong[True]) < 0.01
    assert np.mean(wrong[False]) > 0.05
