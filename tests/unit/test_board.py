"""The board keeps the newest of everything; each viewer gets it once."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import numpy as np
import pytest

from stream.overlay.board import EVENTS_KEPT, Board, Viewer
from stream.wire.results import pack
from tests.helpers.fake_results import FakeSession
from tests.helpers.page import read_message


@pytest.fixture
def session() -> FakeSession:
    return FakeSession(4, side_px=64, hops_per_frame=3)


@pytest.fixture
def board(session: FakeSession) -> Board:
    made = Board()
    made.take(pack(session.series()))
    return made


def part(parts: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    found = [p for p in parts if p["part"] == name]
    assert len(found) < 2
    return found[0] if found else None


def test_a_frame_reaches_a_viewer_as_it_was_sent(board: Board, session: FakeSession) -> None:
    sent = session.frame()
    sent["p_occupied"][0] = math.nan
    board.take(pack(sent))
    now, parts = read_message(Viewer(board).message())
    got = part(parts, "frame")
    assert got is not None
    assert now["series"]["engine"] == "au-on-oxide-hrtem"
    assert got["index"] == sent["index"]
    for name in ("yx_px", "site_yx_px", "site_p", "site_proposed", "p_occupied", "picture"):
        assert np.array_equal(got[name], sent[name], equal_nan=name == "p_occupied"), name


def test_a_slow_viewer_gets_only_the_newest_frame_but_every_event(board: Board, session: FakeSession) -> None:
    viewer = Viewer(board)
    read_message(viewer.message())
    sent = [session.frame() for _ in range(5)]
    for frame in sent:
        board.take(pack(frame))
    assert viewer.has_news
    now, parts = read_message(viewer.message())
    frame = part(parts, "frame")
    assert frame is not None
    assert frame["index"] == 4
    expected = [e["frame"] for f in sent for e in f["events"]]
    assert expected
    assert [e["frame"] for e in reversed(now["events"])] == expected
    assert not viewer.has_news
    now, parts = read_message(viewer.message())
    assert (now["events"], parts, "series" in now) == ([], [], False)


def test_every_viewer_gets_everything_and_of_the_maps_the_one_it_shows(
    board: Board, session: FakeSession
) -> None:
    board.take(pack(session.frame()))
    for message in session.maps():
        board.take(pack(message))
    viewers = Viewer(board), Viewer(board)
    for viewer, name in zip(viewers, ("events", "rate"), strict=True):
        shown, frame = read_message(viewer.message(name))[1]
        assert (shown["part"], shown["name"], frame["part"]) == ("map", name, "frame")
    viewer = viewers[0]
    assert read_message(viewer.message("events"))[1] == []
    assert [p["name"] for p in read_message(viewer.message("residence"))[1]] == ["residence"]
    board.take(pack(session.maps()[0]))
    for unknown in ("", "no such map", "residence"):
        assert read_message(viewer.message(unknown))[1] == []
    assert [p["name"] for p in read_message(viewer.message("events"))[1]] == ["events"]


def test_events_are_bounded(board: Board, session: FakeSession) -> None:
    while session.events <= EVENTS_KEPT:
        board.take(pack(session.frame()))
    now, _ = read_message(Viewer(board).message())
    assert len(now["events"]) == EVENTS_KEPT
    assert now["events"][0]["n"] == session.events


def test_a_frame_without_a_picture_does_not_take_the_picture_away(board: Board, session: FakeSession) -> None:
    viewer = Viewer(board)
    with_picture, without = session.frame(), session.frame()
    del without["picture"], without["picture_stride"]
    board.take(pack(with_picture))
    board.take(pack(without))
    frame = part(read_message(viewer.message())[1], "frame")
    assert frame is not None
    assert frame["index"] == 0
    assert board.report()["frames_ready"] == 2


def test_frames_are_shown_without_pictures_where_none_come(board: Board, session: FakeSession) -> None:
    message = session.frame()
    del message["picture"]
    board.take(pack(message))
    frame = part(read_message(Viewer(board).message())[1], "frame")
    assert frame is not None
    assert "picture" not in frame


def test_a_new_series_forgets_maps_and_events_and_the_same_series_does_not(
    board: Board, session: FakeSession
) -> None:
    board.take(pack(session.maps()[0]))
    while not session.events:
        board.take(pack(session.frame()))
    board.take(pack(session.series()))  # said again after the analysis was restarted
    now, parts = read_message(Viewer(board).message("events"))
    assert part(parts, "map")
    assert now["events"]
    board.take(pack(session.series(series=8)))
    now, parts = read_message(Viewer(board).message("events"))
    assert part(parts, "map") is None
    assert now["events"] == []


def test_latency_is_measured_for_every_frame(board: Board, session: FakeSession) -> None:
    assert board.report()["latency_ms"] == {"p50": None, "p99": None}
    for _ in range(10):
        message = session.frame()
        message["recv_ns"] = time.monotonic_ns() - 40_000_000
        board.take(pack(message))
    report = board.report()
    assert report["frames_ready"] == 10
    for figures in (report["latency_ms"], report["recent_latency_ms"]):
        assert 39 < figures["p50"] <= figures["p99"]


def test_a_frame_from_the_future_has_no_latency(board: Board, session: FakeSession) -> None:
    message = session.frame()
    message["recv_ns"] = time.monotonic_ns() + 60_000_000_000
    board.take(pack(message))
    report = board.report()
    assert report["latency_ms"]["p50"] is None
    assert report["faults"] == {"clock": 1}
    assert report["frames_ready"] == 1


def test_bad_messages_are_counted_and_logged_once(
    board: Board, session: FakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            board.take(b"from a port scanner")
        board.take(pack(session.status()))
        board.take(pack(session.frame()))
    assert board.report()["faults"] == {"bad message": 3, "unexpected message": 1}
    assert len(caplog.records) == 2
    assert part(read_message(Viewer(board).message())[1], "frame")


def test_figures_that_are_no_numbers_are_null(board: Board) -> None:
    board.take_status({"type": "status", "frames_per_s": math.nan, "alarms": [{"since_s": math.inf}]})
    now, _ = read_message(Viewer(board).message())
    assert now["status"]["frames_per_s"] is None
    assert now["status"]["alarms"] == [{"since_s": None}]


def test_ages_are_null_before_anything_came_and_grow_afterwards(session: FakeSession) -> None:
    board = Board()
    assert board.figures()["frame_age_s"] is None
    assert board.figures()["status_age_s"] is None
    board.take(pack(session.frame()))
    board.take_status(session.status())
    first, second = board.figures(), board.figures()
    assert 0 <= first["frame_age_s"] <= second["frame_age_s"]
    assert 0 <= first["status_age_s"] <= second["status_age_s"]


def test_the_viewers_are_woken_for_news_only(session: FakeSession) -> None:
    woken = []
    board = Board(changed=lambda: woken.append(1))
    board.take(b"nonsense")
    board.take_status(session.status())
    assert woken == []
    board.take(pack(session.series()))
    board.take(pack(session.frame()))
    assert len(woken) == 2
