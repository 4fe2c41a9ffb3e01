"""From simulated detections to events: what really happened is found, what did not is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.hopping import Hop
from stream.phantom import Phantom
from stream.rigid import turned
from stream.tracking import Tracker
from tests.helpers.detections import (
    SPACING_PX,
    Finder,
    Kinetics,
    Session,
    lattice_gas,
    of_phantom,
    particle,
    walk,
)

SHAPE = (512, 512)


def session(period_s: float = 0.02, **changes) -> Session:
    return Session(Tracker(SHAPE, 0.02, period_s, **changes))


def still(yx: np.ndarray, frames: int) -> Kinetics:
    return Kinetics(yx, np.ones((frames, len(yx)), bool), np.empty((0, 3), np.int64))


@pytest.mark.parametrize(("seen", "false"), [(0.97, 0.03), (0.98, 0.02), (0.99, 0.01)])
def test_hops_of_a_lattice_gas_are_found_and_missed_detections_are_not_reported(seen, false, record_property):
    """600 frames, 247 sites, walk 0.3 px per frame, jitter 0.3 px, 5 % of the frames missing.

    24 sessions of the same kind gave recalls of 0.994 to 1 and precisions of 0.990 to 1. What is lost had
    two of its four frames unseen or wrong: no method can tell. The bounds leave twice the worst of them.
    """
    rng = np.random.default_rng([1, round(100 * seen)])
    truth = lattice_gas(rng, particle(108), 600, 1.8 * SPACING_PX, hop=0.02)
    drift = walk(rng, 600)
    found = session().feed(Finder(seen, false, missing=0.05).frames(rng, truth, drift)).finish()
    score = found.score(truth, drift)
    record_property("score", str(score))
    assert score.switches > 700
    assert score.recall >= 0.988
    assert score.precision >= 0.98
    assert score.raw_precision < 0.35 < score.precision
    assert score.hop_recall >= 0.975
    assert score.hop_precision >= 0.98
    seen_there = ~found.tracker.sites.proposed
    assert np.count_nonzero(seen_there) <= len(truth.yx_px)
    assert (found.true_sites(truth, drift)[seen_there] >= 0).all()
    # a median over 150 columns at least: 1.25 × 0.3 / 12 = 0.03 px per axis, and that of the first frames
    error = np.array([shift.yx_px - drift[index] for index, shift in found.shifts.items()])
    assert np.abs(error + drift[min(found.shifts)]).max() < 0.25
    empty, occupied = found.tracker.emission.pooled[:, 1]
    assert occupied == pytest.approx(seen, abs=0.005)
    assert 0.4 * false < empty < false + 0.01  # places beyond the particle are followed too, and quieter


def test_hops_of_a_phantom_particle_are_found(record_property):
    truth = Phantom(seed=1, frames=600).truth
    kinetics, drift = of_phantom(truth), truth.drift_yx_px
    rng = np.random.default_rng(2)
    finder = Finder(0.98, 0.02, missing=0.05, period_ns=33_333_333)
    found = session(1 / 30).feed(finder.frames(rng, kinetics, drift)).finish()
    score = found.score(kinetics, drift)
    record_property("score", str(score))
    assert score.switches > 300
    assert score.recall >= 0.99
    assert score.precision >= 0.98
    assert score.raw_precision < 0.1
    assert score.hop_recall >= 0.98


def test_perfect_detections_give_every_event_and_no_other():
    rng = np.random.default_rng(3)
    truth = lattice_gas(rng, particle(80), 300, 1.8 * SPACING_PX, hop=0.005)
    drift = walk(rng, 300)
    finder = Finder(1.0, 0.0, false_per_frame=0.0, jitter_px=0.1)
    score = session().feed(finder.frames(rng, truth, drift)).finish().score(truth, drift, within=1)
    assert score.recall == score.precision == score.hop_recall == 1.0


def test_a_column_that_appears_late_is_dated_when_it_appeared():
    rng = np.random.default_rng(4)
    truth = still(particle(80), 400)
    truth.occupied[:300, 7] = False
    drift = walk(rng, 400)
    found = session().feed(Finder(0.97, 0.0).frames(rng, truth, drift)).finish()
    site = int(np.flatnonzero(found.true_sites(truth, drift) == 7)[0])
    event = next(e for e in found.events if e.to_site == site)
    assert event.kind == "appear"
    assert abs(event.frame - 300) <= 1
    assert abs(found.tracker.sites.born_frame[site] - 300) <= 2
    now = found.tracker.occupancy.snapshot()
    assert now.observed_s[site] == pytest.approx(400 * 0.02, rel=0.03)
    assert now.occupied_s[site] / now.observed_s[site] == pytest.approx(0.25, abs=0.02)


def test_a_blank_or_a_jump_is_no_event():
    rng = np.random.default_rng(5)
    truth = still(particle(80), 300)
    drift = walk(rng, 300)
    drift[150:] += [0.577 * SPACING_PX, 0.816 * SPACING_PX]  # one lattice vector: only the outline can tell
    drift[200:] += [-70.0, 33.0]

    def blanked():
        for index, t_ns, yx in Finder(0.98, 0.02).frames(rng, truth, drift):
            blank = 60 <= index < 90 or index == 110
            dim = 220 <= index < 225
            noise = 250 <= index < 253
            useless = rng.random((15_000, 2)) * 511 if noise else yx[: len(yx) // 5] if dim else yx[:0]
            yield index, t_ns, useless if blank or dim or noise else yx

    found = session().feed(blanked()).finish()
    assert [i for i, s in found.shifts.items() if s.lost] == [
        *range(60, 90),
        110,
        *range(220, 225),
        250,
        251,
        252,
    ]
    # misses in a row by chance: 179 sites × 0.02³ a frame
    assert len(found.events) <= 4
    observed = found.tracker.occupancy.snapshot().observed_s
    np.testing.assert_allclose(observed, (300 - 39) * 0.02, rtol=0.02)


@pytest.mark.parametrize("creep_px", [0.001, 0.004, 0.016])
def test_particles_that_sinter_are_followed_without_an_event(creep_px):
    """Two particles creep towards each other, so far per frame, and one of them turns: all drift with the stage."""
    rng, frames = np.random.default_rng(8), 1500
    left, right = particle(60, centre_yx_px=(256.0, 150.0)), particle(60, centre_yx_px=(256.0, 370.0))
    drift = walk(rng, frames)
    finder = Finder(0.98, 0.02)
    truth = still(np.concatenate([left, right]), frames)

    def sintering():
        for index in range(frames):
            way = creep_px * index
            turned_right = turned(right, np.full(len(right), way / 60), np.array([256.0, 370.0]))
            yx = np.concatenate([left + np.array([0.0, way / 2]), turned_right - np.array([0.0, way / 2])])
            seen = rng.random(len(yx)) < finder.detect_occupied
            false = rng.random((rng.poisson(3.0), 2)) * 511
            found = yx[seen] + drift[index] + rng.normal(0, finder.jitter_px, (seen.sum(), 2))
            yield index, index * finder.period_ns, np.concatenate([found, false])

    found = session().feed(sintering()).finish()
    assert not any(shift.lost for shift in found.shifts.values())
    sites = found.tracker.sites
    real = ~sites.proposed & (sites.retired_frame < 0)
    assert len(truth.yx_px) <= np.count_nonzero(real) <= len(truth.yx_px) + 4
    # misses in a row by chance: 150 sites × 0.02³ a frame
    assert len(found.events) <= 6


def test_a_lattice_that_fills_the_frame_and_drifts_through_it_has_no_events():
    rng = np.random.default_rng(6)
    yx = particle(330)
    truth = still(yx, 150)
    drift = np.linspace(0, 1, 150)[:, None] * [60.0, -40.0]
    finder = Finder(0.98, 0.02)
    found = (
        Session(Tracker((256, 300), 0.02, 0.02)).feed(finder.frames(rng, truth, drift, (256, 300))).finish()
    )
    error = np.array([shift.yx_px - drift[index] for index, shift in found.shifts.items()])
    assert np.abs(error).max() < 0.25
    assert (found.true_sites(truth, drift)[~found.tracker.sites.proposed] >= 0).all()
    assert len(found.events) <= 4


def test_a_restored_tracker_goes_on_as_if_nothing_had_happened():
    rng = np.random.default_rng(7)
    truth = lattice_gas(rng, particle(70), 240, 1.8 * SPACING_PX, hop=0.03)
    frames = list(Finder(missing=0.1).frames(rng, truth, walk(rng, 240, 1.0)))
    whole = session().feed(frames[:100])
    state = {name: array.copy() for name, array in whole.tracker.state().items()}
    whole.feed(frames[100:]).finish()
    resumed = session()
    resumed.tracker.restore(state)
    resumed.feed(frames[100:]).finish()
    assert resumed.events == [e for e in whole.events if e in resumed.events]
    assert len(resumed.events) > 20
    assert whole.events[-len(resumed.events) :] == resumed.events
    for name, array in whole.tracker.state().items():
        np.testing.assert_array_equal(array, resumed.tracker.state()[name], err_msg=name)


@pytest.mark.parametrize(("index", "t_ns"), [(9, 10**12), (5, 10**12), (10, 9 * 10**8), (10, 0)])
def test_frames_out_of_order_are_refused_and_change_nothing(index, t_ns):
    tracker = Tracker(SHAPE, 0.02, 0.1)
    yx = particle(60)
    for frame in range(10):
        tracker.update(frame, frame * 10**8, yx)
    before = tracker.state()
    with pytest.raises(ValueError, match="out of order"):
        tracker.update(index, t_ns, yx)
    with pytest.raises(ValueError, match="finite"):
        tracker.update(10, 10**9, np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="finite score"):
        tracker.update(10, 10**9, yx, np.ones(3))
    for name, array in tracker.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_memory_does_not_grow_with_time():
    rng = np.random.default_rng(8)
    truth = still(particle(60), 1500)
    drift = 20 * np.sin(np.arange(1500) / [[40.0], [31.0]]).T
    tracker = Tracker(SHAPE, 0.02, 0.02)
    held = {}
    for index, t_ns, yx in Finder(false_per_frame=5).frames(rng, truth, drift):
        tracker.update(index, t_ns, yx)
        if index in (500, 1499):
            held[index] = sum(array.nbytes for array in tracker.state().values())
    assert held[1499] < 1.05 * held[500]


@st.composite
def strange_sessions(draw):
    """Detections that no specimen would give: any number, anywhere, coming and going."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    yx = particle(draw(st.sampled_from([5.0, 30.0, 60.0])), draw(st.sampled_from([6.0, 12.5, 40.0])))
    frames, index, t_ns = [], -1, draw(st.sampled_from([0, 1_700_000_000_000_000_000]))
    for _ in range(draw(st.integers(1, 40))):
        step = draw(st.sampled_from([1, 1, 1, 2, 500]))
        index, t_ns = index + step, t_ns + step * 10**7 + int(rng.integers(1000))
        kind = draw(st.sampled_from(["seen", "seen", "half", "blank", "noise", "twice", "moved"]))
        found = {
            "seen": yx + rng.normal(0, 0.3, yx.shape),
            "half": yx[rng.random(len(yx)) < 0.5],
            "blank": yx[:0],
            "noise": rng.random((int(rng.integers(1, 800)), 2)) * 511,
            "twice": np.concatenate([yx, yx]),
            "moved": yx + rng.normal(0, 100, 2),
        }[kind]
        frames.append((index, t_ns, found))
    return frames


@settings(max_examples=40, deadline=None, derandomize=True)
@given(strange_sessions())
def test_whatever_comes_the_books_stay_in_order(frames):
    found = session()
    tracker = found.tracker
    last = np.empty((0, 2))
    for index, t_ns, yx in frames:
        tracked = tracker.update(index, t_ns, yx)
        found.events += tracked.events
        m = len(tracker.sites)
        now = tracked.occupancy
        assert len(tracked.site_yx_px) == len(now.p_occupied) == len(tracked.detected) == m >= len(last)
        assert ((now.p_occupied >= 0) & (now.p_occupied <= 1)).all()
        assert (now.occupied_s >= 0).all()
        assert (now.occupied_s <= now.observed_s + 1e-9).all()
        assert (now.observed_s <= len(frames) * 0.02 + 1e-9).all()
        given_to = tracked.column_site[tracked.column_site >= 0]
        assert len(set(given_to.tolist())) == len(given_to)
        assert (given_to < m).all()
        last = tracked.site_yx_px
    found.events += tracker.finish()
    seen = {index for index, _, _ in frames}
    balance = np.zeros(len(tracker.sites), int)
    for event in found.events:
        assert isinstance(event, Hop)
        assert event.frame in seen
        assert 0 <= event.probability <= 1
        for site, change in ((event.from_site, -1), (event.to_site, 1)):
            if site >= 0:
                balance[site] += change
    assert np.abs(balance).max(initial=0) <= 1  # nobody leaves twice without having come
    counts = tracker.hopping.counts
    assert counts[:2].sum() + counts[2].sum() == len(found.events)
    assert counts[2].sum() == counts[3].sum()
