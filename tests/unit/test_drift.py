"""Drift of simulated columns, known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from stream.drift import Drift
from stream.rigid import turned
from tests.helpers.detections import SPACING_PX, particle, walk

SHAPE = (512, 512)
JITTER_PX = 0.3
# of a median over 250 columns: 1.25 sigma / sqrt(n) = 0.024 px per axis; 5 of these
ERROR_PX = 0.12
VECTORS = ((0.577 * SPACING_PX, 0.816 * SPACING_PX), (1.154 * SPACING_PX, 0.0))  # of the lattice


def columns(rng: np.random.Generator, yx: np.ndarray, shift, seen=0.97, false=5) -> np.ndarray:
    """What a finder sees of sites at `yx`: misses, jitter, false columns, any order, in the frame."""
    found = yx[rng.random(len(yx)) < seen] + shift
    found = found + rng.normal(0, JITTER_PX, found.shape)
    found = np.concatenate([found, rng.random((false, 2)) * 511])
    return rng.permutation(found[np.all((found >= 0) & (found <= 511), axis=1)])


def warm(rng, sites, drift: Drift, frames: int = 5) -> None:
    for _ in range(frames):
        drift.update(columns(rng, sites, 0.0), sites, SPACING_PX)


def test_follows_a_random_walk_and_says_how_well():
    rng = np.random.default_rng(1)
    sites, drift = particle(110), Drift(SHAPE)
    for true in walk(rng, 200, 1.0):
        shift = drift.update(columns(rng, sites, true), sites, SPACING_PX)
        assert shift.measured
        assert not shift.lost
        assert np.abs(shift.yx_px - true).max() < ERROR_PX
        assert shift.matched > 0.9 * len(sites)
        assert shift.residual_px == pytest.approx(JITTER_PX * np.sqrt(2), rel=0.25)


def test_follows_a_turning_specimen_to_its_rim():
    rng = np.random.default_rng(4)
    sites, drift = particle(110), Drift(SHAPE)
    middle = (np.array(SHAPE) - 1) / 2
    turns = np.deg2rad(3) * np.sin(np.arange(300) / 40)  # up to 0.075 degrees per frame
    for true, turn in zip(walk(rng, 300, 0.5), turns, strict=True):
        as_shown = turned(sites + true, turn, middle)
        shift = drift.update(columns(rng, as_shown, 0.0), sites, SPACING_PX)
        assert shift.measured
        # the turn's own error, 0.3 / (80 sqrt(250)) = 0.24 mrad, is 0.026 px at the rim; five of both
        assert np.abs(shift.to_frame_px(sites) - as_shown).max() < 2 * ERROR_PX
        assert np.allclose(shift.upright(as_shown), sites + shift.yx_px, atol=2 * ERROR_PX)


@pytest.mark.parametrize("turn_deg", [-14.0, -3.0, 1.2, 7.5])
def test_a_turn_that_nobody_saw_is_found_within_some_frames(turn_deg):
    """After a blank: the specimen has moved, and turned."""
    rng = np.random.default_rng(6)
    sites, drift = particle(110), Drift(SHAPE)
    warm(rng, sites, drift)
    middle = (np.array(SHAPE) - 1) / 2
    for _ in range(5):
        assert drift.update(np.empty((0, 2)), sites, SPACING_PX).lost
    as_shown = turned(sites + np.array([9.0, -14.0]), np.deg2rad(turn_deg), middle)
    shifts = (drift.update(columns(rng, as_shown, 0.0), sites, SPACING_PX) for _ in range(40))
    assert any(not shift.lost for shift in shifts)
    for _ in range(3):  # the angle is settled from frame to frame
        shift = drift.update(columns(rng, as_shown, 0.0), sites, SPACING_PX)
    assert shift.measured
    assert np.abs(shift.to_frame_px(sites) - as_shown).max() < 3 * ERROR_PX
    assert np.rad2deg(shift.turn_rad) == pytest.approx(turn_deg, abs=0.15)


def test_another_specimen_is_recognized_under_no_angle():
    rng = np.random.default_rng(7)
    sites, drift = particle(110), Drift(SHAPE)
    warm(rng, sites, drift)
    others = [rng.random((250, 2)) * 511, 1.23 * (particle(95) - 255) + 255]
    for other in others:
        for _ in range(60):
            assert drift.update(columns(rng, other, 0.0), sites, SPACING_PX).lost
    shift = drift.update(columns(rng, sites, 0.0), sites, SPACING_PX)
    assert not shift.lost
    assert abs(shift.turn_rad) < 1e-3


def test_noise_turns_nothing():
    rng = np.random.default_rng(5)
    sites, drift = particle(110), Drift(SHAPE)
    shifts = [drift.update(columns(rng, sites, 0.0), sites, SPACING_PX) for _ in range(300)]
    assert max(abs(shift.turn_rad) for shift in shifts) < 1e-3  # 0.1 px at the rim


def test_clockwise_is_as_shown():
    assert turned(np.array([[0.0, 1.0]]), np.pi / 2, np.zeros(2)) == pytest.approx(np.array([[1.0, 0.0]]))


@pytest.mark.parametrize("jump", [(6.3, 0.0), (-40.0, 25.0), (150.0, -120.0), *VECTORS])
def test_follows_a_jump_even_by_a_lattice_vector_when_there_is_an_outline(jump):
    rng = np.random.default_rng(2)
    sites, drift = particle(70), Drift(SHAPE)
    warm(rng, sites, drift)
    for _ in range(3):
        shift = drift.update(columns(rng, sites, np.array(jump)), sites, SPACING_PX)
        assert shift.measured
        assert np.abs(shift.yx_px - jump).max() < 2 * ERROR_PX


@pytest.mark.parametrize("centre_yx_px", [(255.5, 255.5), (255.5, 480.0)])  # in the middle, cut by the border
@pytest.mark.parametrize("jump", [*VECTORS, (-VECTORS[0][0], VECTORS[0][1])])
def test_follows_a_jump_by_a_lattice_vector_among_very_many_columns(jump, centre_yx_px):
    rng = np.random.default_rng(14)
    sites, drift = particle(220, centre_yx_px=centre_yx_px), Drift(SHAPE)
    sites = sites[np.all((sites > 0) & (sites < 511), axis=1)]
    assert len(sites) > 500
    for _ in range(30):
        drift.update(columns(rng, sites, 0.0, 0.9, 60), sites, SPACING_PX)
    shift = drift.update(columns(rng, sites, np.array(jump), 0.9, 60), sites, SPACING_PX)
    assert np.abs(shift.yx_px - jump).max() < 2 * ERROR_PX


def test_a_lattice_without_an_outline_moves_by_the_smallest_shift():
    rng = np.random.default_rng(3)
    sites, drift = particle(600), Drift(SHAPE)
    in_view = sites[np.all((sites > 0) & (sites < 511), axis=1)]
    warm(rng, in_view, drift)
    for true in (
        0.1 * np.arange(100)[:, None] * [1.0, -0.5]
    ):  # 10 px: most of a lattice vector, little by little
        shift = drift.update(columns(rng, sites, true), sites, SPACING_PX)
        assert np.abs(shift.yx_px - true).max() < ERROR_PX


@pytest.mark.parametrize("what", ["blank", "dim", "noise", "elsewhere"])
def test_a_frame_that_says_nothing_keeps_the_shift_and_is_lost(what):
    rng = np.random.default_rng(4)
    sites, drift = particle(110), Drift(SHAPE)
    warm(rng, sites, drift)
    before = drift.update(columns(rng, sites, (3.0, -2.0)), sites, SPACING_PX)
    useless = {
        "blank": np.empty((0, 2)),
        "dim": columns(rng, sites, (3.0, -2.0), seen=0.2),
        "noise": rng.random((20_000, 2)) * 511,
        "elsewhere": rng.random((250, 2)) * 511,
    }[what]
    for count in (1, 2):
        shift = drift.update(useless, sites, SPACING_PX)
        assert shift.lost
        assert not shift.measured
        assert np.isnan(shift.residual_px)
        np.testing.assert_array_equal(shift.yx_px, before.yx_px)
        assert shift.lost_frames == count
    shift = drift.update(columns(rng, sites, (30.0, -60.0)), sites, SPACING_PX)  # found again elsewhere
    assert np.abs(shift.yx_px - (30.0, -60.0)).max() < ERROR_PX
    assert shift.lost_frames == 0


def test_too_few_sites_to_measure_are_not_lost():
    drift = Drift(SHAPE)
    shift = drift.update(np.array([[5.0, 5.0]]), np.array([[9.0, 9.0]]), SPACING_PX)
    assert not shift.measured
    assert not shift.lost
    np.testing.assert_array_equal(shift.yx_px, [0.0, 0.0])


@pytest.mark.parametrize(("known", "lost"), [(0, False), (1, False), (2, True), (4, True)])
def test_a_blank_frame_of_few_sites_is_lost_unless_one_column_may_just_have_left(
    known: int, lost: bool
) -> None:
    sites = particle(110)[:known]
    shift = Drift(SHAPE).update(np.empty((0, 2)), sites, SPACING_PX)
    assert not shift.measured
    assert shift.lost == lost
    if known:  # anything that is seen tells that it is no blank
        assert not Drift(SHAPE).update(sites[:1], sites, SPACING_PX).lost


def test_columns_too_few_to_measure_a_shift_are_no_lost_frame_where_they_are_at_rest() -> None:
    """A few columns that hop were soon at more places than they are many."""
    sites = particle(110)[::9][:6]
    for found, lost in ((4, False), (3, False), (2, True), (0, True)):
        shift = Drift(SHAPE).update(sites[:found] + 0.2, sites, SPACING_PX)
        assert not shift.measured
        assert shift.lost == lost
    assert Drift(SHAPE).update(sites[:4] + 40.0, sites, SPACING_PX).lost


def test_goes_on_from_its_state():
    rng = np.random.default_rng(5)
    sites, drift = particle(110), Drift(SHAPE)
    frames = [columns(rng, sites, true) for true in walk(rng, 40)]
    for frame in frames[:20]:
        drift.update(frame, sites, SPACING_PX)
    other = Drift(SHAPE)
    other.restore(drift.state())
    for frame in [np.empty((0, 2)), *frames[20:]]:
        a, b = (d.update(frame, sites, SPACING_PX) for d in (drift, other))
        np.testing.assert_array_equal(a.yx_px, b.yx_px)
        assert (a.matched, a.lost_frames) == (b.matched, b.lost_frames)


def test_a_jump_from_one_place_of_the_lattice_to_the_next_is_seen_among_many_false_columns():
    """Only the outline tells; it must soon, for after some frames new sites are learned where there are none."""
    rng, sites = np.random.default_rng(12), particle(75)
    wrong = []
    for step in np.repeat([*np.array(VECTORS), *-np.array(VECTORS)], 5, axis=0):
        drift = Drift(SHAPE)
        for _ in range(30):
            drift.update(columns(rng, sites, 0.0, 0.9, 60), sites, SPACING_PX)
        for _ in range(4):
            shift = drift.update(columns(rng, sites, step, 0.9, 60), sites, SPACING_PX)
        wrong.append(np.hypot(*(shift.yx_px - step)) > 1.0)
    assert np.mean(wrong) <= 0.05


def test_columns_seen_between_those_that_are_there_do_not_hide_such_a_jump():
    """As a network sees the gaps of dark columns at low dose: at every frame others."""
    rng, sites = np.random.default_rng(13), particle(75)
    wrong = []
    for step in np.repeat([*np.array(VECTORS), *-np.array(VECTORS)], 10, axis=0):
        drift = Drift(SHAPE)
        for shift in [np.zeros(2)] * 30 + [step]:
            between = sites + np.array(VECTORS)[rng.integers(0, 2, len(sites))] / 2
            seen = columns(rng, sites, shift, 0.85), columns(rng, between, shift, 0.5, 0)
            found = drift.update(np.concatenate(seen), sites, SPACING_PX)
        wrong.append(np.hypot(*(found.yx_px - step)) > 1.0)
    assert np.mean(wrong) <= 0.05
