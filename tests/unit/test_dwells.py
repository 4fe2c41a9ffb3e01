"""Dwells: what censors them, what a gap does, and how many neighbours a column had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from stream.dwells import by_coordination, cut, seconds, site_dwells
from stream.frame import RecordingError
from stream.session import read_session
from tests.helpers.kinetics import session_of, tables_session, two_states


def told(dwells: np.ndarray) -> list[tuple[int, bool, int, int, bool, bool]]:
    """site, occupied, first and last frame, whether beginning and end were seen."""
    frame = {name: np.rint(dwells[name] / 1e8).astype(int) for name in ("begin_ns", "end_ns")}
    columns = (dwells["site"], dwells["occupied"], *frame.values(), dwells["begun"], dwells["ended"])
    return [tuple(row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def states(*spells: tuple[int, int], frames: int = 100, sites: int = 1) -> np.ndarray:
    """(frames, sites) bool; site 0 is occupied in the half-open spells, the others always."""
    state = np.ones((frames, sites), bool)
    state[:, 0] = False
    for first, stop in spells:
        state[first:stop, 0] = True
    return state


def test_the_first_dwell_has_no_beginning_and_the_last_no_end():
    dwells = site_dwells(session_of(states((20, 50), sites=2)))
    assert told(dwells) == [
        (0, False, 0, 20, False, True),
        (0, True, 20, 50, True, True),
        (0, False, 50, 99, True, False),
        (1, True, 0, 99, False, False),
    ]
    np.testing.assert_allclose(seconds(dwells), [2.0, 3.0, 4.9, 9.9])


def test_a_short_gap_is_bridged_and_a_long_one_censors_on_both_sides():
    seen = np.ones(100, bool)
    seen[30:33] = False  # three frames, within a dwell
    assert told(site_dwells(session_of(states((20, 50)), seen=seen)))[1] == (0, True, 20, 50, True, True)
    seen[30:34] = False
    assert told(site_dwells(session_of(states((20, 50)), seen=seen))) == [
        (0, False, 0, 20, False, True),
        (0, True, 20, 29, True, False),
        (0, True, 34, 50, False, True),
        (0, False, 50, 99, True, False),
    ]
    assert len(site_dwells(session_of(states((20, 50)), seen=seen), longest_gap=4)) == 3


def test_what_happened_in_a_long_gap_is_neither_event_nor_time():
    seen = np.ones(100, bool)
    seen[45:60] = False  # the column leaves unseen
    assert told(site_dwells(session_of(states((20, 50)), seen=seen))) == [
        (0, False, 0, 20, False, True),
        (0, True, 20, 44, True, False),
        (0, False, 60, 99, False, False),
    ]


def test_a_site_out_of_view_and_a_lost_frame_are_not_looked_at():
    session = session_of(states((20, 50)))
    away = session.drift_yx_px.copy()
    away[60:80] = -5000.0
    assert told(site_dwells(replace(session, drift_yx_px=away)))[2:] == [
        (0, False, 50, 59, True, False),
        (0, False, 80, 99, False, False),
    ]


def test_two_arrivals_in_a_row_leave_the_time_between_them_unknown():
    session = session_of(states((20, 50), (70, 90)))
    events = session.events[session.events["frame"] != 50]
    assert told(site_dwells(replace(session, events=events))) == [
        (0, False, 0, 20, False, True),
        (0, True, 70, 90, True, True),
        (0, False, 90, 99, True, False),
    ]


def test_a_range_of_time_censors_what_it_cuts():
    dwells = site_dwells(session_of(states((20, 50), (70, 90))))
    part = cut(dwells, np.array([3 * 10**9]), np.array([7 * 10**9]))
    assert told(part) == [(0, True, 30, 50, False, True), (0, False, 50, 70, True, True)]
    both = [cut(dwells, np.array([a]), np.array([b])) for a, b in ((0, 4 * 10**9), (4 * 10**9, 10**10))]
    assert sum(seconds(d).sum() for d in both) == pytest.approx(seconds(dwells).sum())
    assert sum(d["ended"].sum() for d in both) == dwells["ended"].sum()


def test_coordination_is_that_just_before_the_event():
    # three sites in a row; the one in the middle leaves after its left neighbour has
    state = np.ones((100, 3), bool)
    state[30:60, 0] = False
    state[50:, 1] = False
    row = np.array([[1.0, 1.0], [1.0, 1.3], [1.0, 1.6]])
    session = session_of(state, row)
    parts = by_coordination(site_dwells(session), session)
    middle = parts[parts["site"] == 1]
    assert told(middle) == [
        (1, True, 0, 30, False, False),
        (1, True, 30, 50, False, True),
        (1, False, 50, 60, True, False),
        (1, False, 60, 99, False, False),
    ]
    assert middle["coordination"].tolist() == [2, 1, 1, 2]


def test_a_hop_does_not_count_as_its_own_neighbour():
    state = np.zeros((50, 2), bool)
    state[:25, 0] = state[25:, 1] = True
    session = session_of(state, np.array([[1.0, 1.0], [1.0, 1.3]]), hops=[(25, 0, 1)])
    parts = by_coordination(site_dwells(session), session)
    assert len(session.events) == 1
    leaving = parts[(parts["site"] == 0) & parts["ended"]]
    assert (leaving["hopped"].tolist(), leaving["coordination"].tolist()) == ([True], [0])


def test_coordination_agrees_with_counting_frame_by_frame():
    rng = np.random.default_rng(5)
    state = two_states(rng, 0.03, 0.02, 400, 49)
    session = session_of(state)
    parts = by_coordination(site_dwells(session), session)
    beside = np.where(session.neighbours[:, :, None] >= 0, state.T[session.neighbours], False).sum(axis=1)
    for coordination in range(9):
        mine = parts[(parts["coordination"] == coordination) & parts["occupied"]]
        here = (beside[:, :-1] == coordination) & state.T[:, :-1]
        assert seconds(mine).sum() == pytest.approx(0.1 * here.sum())
        assert mine["ended"].sum() == (here & ~state.T[:, 1:]).sum()


def test_a_file_that_is_no_result_is_refused(tmp_path: Path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["y"] = 1
    with pytest.raises(RecordingError, match="no result file"):
        read_session(tmp_path / "x.h5")
    with pytest.raises(FileNotFoundError):
        read_session(tmp_path / "absent.h5")


def test_a_site_that_was_merged_is_told_as_the_one_it_is_part_of():
    """Site 0 empties while its column stands a little off, as site 1; at 60 they are known to be one; site 2 leaves."""
    state = states((0, 20), frames=100, sites=3)
    state[:, 1] = False
    state[20:60, 1] = True
    state[50:, 2] = False
    moved = session_of(state)
    sites = moved.sites.copy()
    sites["merged_into"][1], sites["retired_frame"][1] = 0, 60
    events = np.zeros(4, moved.events.dtype)
    events["frame"] = [20, 50, 70, 80]
    events["t_ns"] = events["frame"] * 10**8
    events["from_site"], events["to_site"] = (
        [0, 2, 1, -1],
        [1, -1, -1, 0],
    )  # a hop onto itself, and back after a leave
    index = np.arange(100)
    dwells = site_dwells(tables_session(sites, events, index))
    assert told(dwells) == [
        (0, True, 0, 70, False, True),
        (0, False, 70, 80, True, True),
        (0, True, 80, 99, True, False),
        (2, True, 0, 50, False, True),
        (2, False, 50, 99, True, False),
    ]
    session = tables_session(sites, events, index)
    assert (session.neighbours[1] == -1).all()
    assert not (session.neighbours == 1).any()


def test_nobody_looked_at_a_site_after_it_was_retired():
    session = session_of(states(sites=2))
    sites = session.sites.copy()
    sites["retired_frame"][0] = 40
    dwells = site_dwells(tables_session(sites, session.events, np.arange(100)))
    assert told(dwells) == [(0, False, 0, 40, False, False), (1, True, 0, 99, False, False)]
