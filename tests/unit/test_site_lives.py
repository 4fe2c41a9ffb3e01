"""Sites that are retired, woken and merged: nothing is counted twice, and no number is given to another place."""

from __future__ import annotations

import numpy as np
import pytest

from stream import lives, views
from stream.hopping import Hop
from stream.tracking import Tracker
from tests.helpers.detections import SPACING_PX, particle

SHAPE = (512, 512)
PIXEL_NM, PERIOD_S = 0.02, 0.02
IDLE, REST = 150, 400


@pytest.fixture(autouse=True)
def _short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "_IDLE", IDLE)
    monkeypatch.setattr(lives, "_REST", REST)


class Followed:
    """A tracker fed with columns, and the events it told of."""

    def __init__(self, seed: int = 1) -> None:
        self.rng, self.tracker = np.random.default_rng(seed), Tracker(SHAPE, PIXEL_NM, PERIOD_S)
        self.events: list[Hop] = []
        self.frame = 0

    def see(self, yx_px: np.ndarray, frames: int) -> None:
        for _ in range(frames):
            found = yx_px + self.rng.normal(0, 0.2, yx_px.shape)
            tracked = self.tracker.update(self.frame, self.frame * 20_000_000, found)
            self.events += tracked.events
            assert not (tracked.occupancy.p_occupied[~tracked.followed] > 0).any()
            self.frame += 1

    def site_at(self, yx_px: np.ndarray) -> int:
        apart = np.hypot(*(self.tracker.sites.yx_nm / PIXEL_NM - yx_px).T)
        apart[self.tracker.sites.merged_into >= 0] = np.inf
        assert apart.min() < 1.5
        return int(apart.argmin())


def test_a_proposed_place_where_nothing_comes_is_retired_and_proposed_again_under_its_number():
    there, session = particle(60), Followed()
    session.see(there, 120)
    sites = session.tracker.sites
    places = np.flatnonzero(sites.proposed)
    assert len(places) > 10
    number = len(sites)
    session.see(there, IDLE + 130)
    assert (sites.retired_frame[places] > 0).all()
    assert (sites.retired_frame[~sites.proposed] == -1).all()
    assert (sites.neighbours[places] == -1).all()
    assert not np.isin(sites.neighbours, places).any()
    resting = session.tracker.occupancy.snapshot().observed_s[places]
    session.see(there, 50)
    np.testing.assert_array_equal(session.tracker.occupancy.snapshot().observed_s[places], resting)
    session.see(there, 250)  # to frame 700: retired at 200, they rest until 600
    assert (sites.retired_frame[places] == -1).all()  # proposed again
    assert len(sites) == number
    session.tracker.finish()
    observed_s = session.tracker.occupancy.snapshot().observed_s
    # each frame once, also those in which nobody looked for anything but new columns: none was there
    assert np.abs(observed_s[places] / PERIOD_S - session.frame).max() <= 4
    assert session.events == []


def test_a_column_that_comes_to_a_retired_place_wakes_it():
    there, session = particle(60), Followed(2)
    session.see(there, IDLE + 260)
    sites = session.tracker.sites
    resting = np.flatnonzero(sites.retired_frame >= 0)
    beside = np.hypot(*(sites.yx_nm[resting] / PIXEL_NM - there[0]).T)
    site = int(resting[beside.argmin()])
    came = session.frame
    new = sites.yx_nm[site] / PIXEL_NM + [0.5, -0.4]
    session.see(np.concatenate([there, [new]]), 60)
    session.events += session.tracker.finish()
    apart_px = np.hypot(*(sites.yx_nm / PIXEL_NM - new).T)
    assert np.flatnonzero(apart_px < 0.5 * SPACING_PX).tolist() == [site]
    assert (sites.retired_frame[site], sites.proposed[site]) == (-1, False)
    assert sites.born_frame[site] == came
    (event,) = session.events
    assert (event.kind, event.to_site, event.frame) == ("appear", site, came)
    now = session.tracker.occupancy.snapshot()
    assert now.occupied_s[site] / PERIOD_S == pytest.approx(60, abs=2)
    assert now.observed_s[site] / PERIOD_S == pytest.approx(session.frame, abs=4)
    assert now.arrivals[site] == pytest.approx(1, abs=0.1)


def test_a_false_birth_is_retired_and_what_was_real_for_a_while_is_not():
    there, session = particle(60), Followed(3)
    session.see(there, 50)
    false = there[there[:, 0].argmax()] + [4 * SPACING_PX, 0.0]
    session.see(np.concatenate([there, [false]]), 4)
    wrong = session.site_at(false)
    session.see(there[1:], IDLE + 400)
    sites = session.tracker.sites
    assert sites.retired_frame[wrong] > 54 + IDLE
    assert sites.retired_frame[session.site_at(there[0])] == -1  # a column was there for 50 frames


def displaced(there: np.ndarray, by_px: float) -> np.ndarray:
    """One column at the rim stands off its place."""
    rim = int(there[:, 0].argmax())
    out = there.copy()
    out[rim, 0] += by_px
    return out


def test_a_duplicate_born_during_a_displacement_becomes_one_site_with_the_old_one():
    there, session = particle(60), Followed(4)
    session.see(there, 110)
    first = session.site_at(there[there[:, 0].argmax()])
    session.see(displaced(there, 0.58 * SPACING_PX), 30)
    second = session.site_at(there[there[:, 0].argmax()] + [0.58 * SPACING_PX, 0.0])
    assert second != first
    session.see(displaced(there, 0.32 * SPACING_PX), 80)  # relaxes: the younger is nearer, and follows it
    sites = session.tracker.sites
    assert sites.merged_into[second] == first
    assert sites.retired_frame[second] > 110
    session.see(there, 100)
    session.events += session.tracker.finish()
    now = session.tracker.occupancy.snapshot()
    assert now.p_occupied[first] > 0.99
    assert now.observed_s[first] / PERIOD_S == pytest.approx(session.frame, abs=3)
    assert now.occupied_s[first] / PERIOD_S == pytest.approx(session.frame, abs=6)
    assert now.observed_s[second] == now.occupied_s[second] == 0
    counts = session.tracker.hopping.counts
    assert counts[:, second].sum() == 0
    assert counts[:, first].sum() == 0  # the hop to the duplicate was none
    assert now.arrivals[first] + now.departures[first] < 0.3


def test_two_columns_seen_at_once_are_two_however_near():
    there = particle(60)
    pair = there[:1] + np.array([[0.0, 0.0], [0.0, 0.52 * SPACING_PX]])
    alone = np.concatenate([there[1:], pair])
    session = Followed(6)
    session.see(alone, 20)
    sites = session.tracker.sites
    sites.yx_nm[session.site_at(pair[1])] -= [0.0, 0.06 * SPACING_PX * PIXEL_NM]
    session.see(alone, 1)
    assert sites.merge(session.frame) == []
    assert (sites.merged_into == -1).all()


def test_goes_on_from_its_state_through_lives_and_mergers():
    there = particle(60)
    a, b = Followed(7), Followed(7)
    for session in (a, b):
        session.see(there, 110)
        session.see(displaced(there, 0.58 * SPACING_PX), 30)
        session.see(displaced(there, 0.32 * SPACING_PX), 160)
    assert (a.tracker.sites.merged_into >= 0).any()
    assert (a.tracker.sites.retired_frame >= 0).sum() > 5
    state = a.tracker.state()
    b.tracker = Tracker(SHAPE, PIXEL_NM, PERIOD_S)
    b.tracker.restore(state)
    for session in (a, b):
        session.see(there, REST + 100)
    for name, array in a.tracker.state().items():
        np.testing.assert_array_equal(array, b.tracker.state()[name], err_msg=name)
    assert a.events == b.events


def test_shifts_of_the_past_are_remembered_in_bounded_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(views, "_MOST_VIEWS", 500)
    looked = views.Views(SHAPE, PIXEL_NM, 10, None)
    place = np.array([[250.0, 250.0]]) * PIXEL_NM
    for k in range(20_000):
        looked.note(np.array([0.5 * k, -0.5 * k]), 0.0, lost=False)
    assert len(looked.state()["before"]) <= 500
    # in view until it has moved by 250 px less the margin, along one axis
    margin = (0.5 + 0.35) * SPACING_PX
    assert looked.before(place, SPACING_PX)[0] == pytest.approx((250 - margin) / 0.5, abs=40)


@pytest.mark.parametrize("turn_deg", [-4.0, 0.0, 3.0])
def test_a_turn_takes_places_out_of_the_frame(turn_deg):
    """In frames that the specimen fills: what the turn has moved out is not missed, what it has moved in is."""
    turn_rad, middle = np.deg2rad(turn_deg), (np.array(SHAPE) - 1) / 2
    looked = views.Views(SHAPE, PIXEL_NM, 10, None)
    rng = np.random.default_rng(2)
    places_px = rng.uniform(-30, 542, (4000, 2))
    away = places_px - middle
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    seen_px = middle + np.stack([cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0]], 1)
    margin = 0.5 * SPACING_PX
    inside = ((seen_px >= margin) & (seen_px <= 511 - margin)).all(axis=1)
    shown = looked.show(places_px * PIXEL_NM, SPACING_PX, np.zeros(2), turn_rad)
    np.testing.assert_array_equal(shown, inside)
    for _ in range(30):
        looked.note(np.zeros(2), turn_rad, lost=False)
    margin += views.GATE * SPACING_PX
    clear = ((seen_px >= margin + 4) & (seen_px <= 507 - margin)).all(axis=1)
    gone = ((seen_px < margin - 4) | (seen_px > 515 - margin)).any(axis=1)
    before = looked.before(places_px * PIXEL_NM, SPACING_PX)
    assert (before[clear] == 20).all()
    assert (before[gone] == 0).all()
    assert clear.sum() > 2500
    assert gone.sum() > 500
