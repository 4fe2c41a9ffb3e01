"""Sites from columns: births by evidence, backdated; one to one; refined; forgotten when false."""

from __future__ import annotations

import numpy as np
import pytest

from stream.places import DETECTED, MISSED, UNOBSERVED
from stream.sites import SiteMap
from tests.helpers.detections import SPACING_PX, particle

PIXEL_NM = 0.02
REST = np.zeros(2)


def site_map(**changes) -> SiteMap:
    return SiteMap((512, 512), PIXEL_NM, SPACING_PX * PIXEL_NM, **changes)


def see(sites: SiteMap, frame: int, yx_px, shift=REST, lost=False):
    yx_px = np.asarray(yx_px, np.float64).reshape(-1, 2)
    return sites.update(frame, yx_px, np.ones(len(yx_px)), shift, lost=lost)


@pytest.mark.parametrize(("k", "n"), [(3, 4), (1, 1), (5, 8)])
def test_a_candidate_becomes_a_site_when_seen_in_k_of_n(k, n):
    sites = site_map(born_after=k, born_within=n)
    for frame in range(k - 1):
        assert see(sites, frame, [[100, 100]]).begun.history.shape[1] == 0
    for frame in range(k - 1, n - 1):  # missed as often as allowed
        assert see(sites, frame, []).begun.history.shape[1] == 0
    assert see(sites, n - 1, [[100, 100]]).begun.history.shape[1] == 1
    assert len(sites) == 1
    assert sites.born_frame.tolist() == [0]
    assert see(sites, n, [[100, 100]]).column_site.tolist() == [0]


def test_one_seen_once_too_seldom_never_becomes_a_site_and_is_forgotten():
    sites = site_map(born_after=3, born_within=4)
    for frame in range(60):
        see(sites, frame, [[100, 100]] if frame % 2 == 0 else [])
        assert len(sites) == 0
    for frame in range(60, 64):
        see(sites, frame, [])
    assert len(sites.candidates_yx_nm) == 0


def test_false_columns_anywhere_make_no_sites_and_take_no_memory():
    rng = np.random.default_rng(1)
    sites, real = site_map(), particle(110)
    for frame in range(400):
        found = real[rng.random(len(real)) < 0.98]
        found = found + rng.normal(0, 0.3, found.shape)
        see(sites, frame, np.concatenate([found, rng.random((6, 2)) * 511]))
    # three of four frames within one gate: 6 (60 px² / 512²)² per frame; in 400 frames 1e-4
    assert len(sites) == len(real)
    assert len(sites.candidates_yx_nm) < 4 * 6 + 10
    nearest_nm = np.hypot(*(sites.yx_nm[:, None] - real * PIXEL_NM).transpose(2, 0, 1)).min(axis=1)
    assert nearest_nm.max() < 5 * 0.3 * PIXEL_NM / np.sqrt(300)


def test_false_columns_between_the_others_do_not_draw_the_spacing_down():
    """In much noise a network often reports something where three columns meet; hops need the columns' spacing."""
    rng = np.random.default_rng(2)
    sites, real = site_map(), particle(110)
    between = np.concatenate([real + SPACING_PX / np.sqrt(3) * np.array([0, side]) for side in (-1, 1)])
    for frame in range(400):
        found = real[rng.random(len(real)) < 0.9]
        false = between[rng.random(len(between)) < 0.2]
        see(sites, frame, np.concatenate([found, false]) + rng.normal(0, 0.5, (len(found) + len(false), 2)))
    assert len(sites) > 1.5 * len(real)
    assert sites.spacing_nm == pytest.approx(SPACING_PX * PIXEL_NM, rel=0.05)


def test_a_column_that_appears_late_is_born_with_its_history():
    sites = site_map(memory=10)
    for frame in range(300):
        see(sites, frame, [[200, 200]])
    for frame in range(300, 302):
        assert see(sites, frame, [[200, 200], [100, 100]]).begun.history.shape[1] == 0
    sighting = see(sites, 302, [[200, 200], [100.5, 100]])
    assert sites.born_frame.tolist() == [0, 300]
    assert sighting.column_site.tolist() == [0, -1]  # it was a column of no site yet
    assert sighting.code.tolist() == [DETECTED, DETECTED]
    assert sighting.begun.history[:, 0].tolist() == [MISSED] * 7 + [DETECTED] * 2  # frames 293 to 301
    assert sighting.begun.empty_frames.tolist() == [293.0]  # frames 0 to 292
    assert sites.code_before(0).tolist() == [DETECTED, DETECTED]


def test_what_was_out_of_view_or_lost_is_not_held_against_a_place():
    sites = site_map(memory=6)
    for frame in range(20):
        see(sites, frame, [[300, 300]], shift=np.array([-150.0, 0.0]))  # (100, 100) is above the frame
    see(sites, 20, [], lost=True)
    for frame in range(21, 24):
        sighting = see(sites, frame, [[100, 100], [450, 300]])
    assert sites.born_frame.tolist() == [0, 21]
    assert sighting.begun.history[:, 0].tolist() == [UNOBSERVED] * 3 + [DETECTED] * 2
    assert sighting.begun.empty_frames.tolist() == [0.0]
    see(sites, 24, [[30, 300]], shift=np.array([-420.0, 0.0]))
    assert sites.code_before(0).tolist() == [DETECTED, UNOBSERVED]
    see(sites, 25, [[100, 100]], lost=True)
    assert sites.code_before(0).tolist() == [UNOBSERVED, UNOBSERVED]


def test_one_column_to_one_site_and_no_two_sites_in_one_place():
    rng = np.random.default_rng(2)
    sites, real = site_map(), particle(60)
    for frame in range(30):
        doubled = np.concatenate(
            [real + rng.normal(0, 0.3, real.shape), real + rng.normal(0, 1.5, real.shape)]
        )
        sighting = see(sites, frame, doubled)
        given = sighting.column_site[sighting.column_site >= 0]
        assert len(set(given.tolist())) == len(given)
    assert len(sites) == len(real)


def test_positions_settle_with_an_honest_standard_error():
    rng = np.random.default_rng(3)
    sites, real = site_map(), particle(110)
    errors = []
    for frame in range(200):
        see(sites, frame, real + rng.normal(0, 0.5, real.shape))
        if frame in (49, 199):
            partner = np.hypot(*(sites.yx_nm[:, None] - real * PIXEL_NM).transpose(2, 0, 1)).argmin(axis=1)
            pull = (sites.yx_nm - real[partner] * PIXEL_NM) / sites.error_nm
            assert pull.std() == pytest.approx(1.0, abs=0.15)  # 500 values: 3 % and the scatter of the errors
            errors.append(np.median(sites.error_nm))
    assert errors[1] == pytest.approx(0.5 * PIXEL_NM / np.sqrt(200), rel=0.1)
    assert errors[0] == pytest.approx(2 * errors[1], rel=0.1)


@pytest.mark.parametrize(
    ("cell_nm", "motif", "expected_nm"),
    [
        (((0.204, 0), (0, 0.204)), (0,), [0.204] * 4 + [0.288] * 4),
        (((0.408, 0), (0.204, 0.144)), (0,), [0.250] * 4 + [0.288] * 2),
        (((0.1665, 0), (0.0833, 0.1442)), (0,), [0.1665] * 6),
        (((0.246, 0), (0.123, 0.213)), (0, 1 / 3), [0.142] * 3),
        (((0.322, 0), (0.161, 0.279)), (0, 1 / 3), [0.186] * 3),
    ],
    ids=["fcc-100", "fcc-110", "fcc-111", "graphene", "MX2"],
)
def test_neighbours_are_a_shell_of_every_lattice_that_engines_know(cell_nm, motif, expected_nm):
    cells = np.argwhere(np.ones((80, 80))) - 40
    real = np.concatenate([(cells + part) @ np.array(cell_nm) for part in motif]) / PIXEL_NM
    real = real[np.hypot(*real.T) < 90] + 256
    rng = np.random.default_rng(5)
    sites = SiteMap((512, 512), PIXEL_NM, expected_nm[0])
    for frame in range(4):
        see(sites, frame, real + rng.normal(0, 0.2, real.shape))
    inner = np.hypot(*(sites.yx_nm / PIXEL_NM - 256).T) < 60
    near = sites.neighbours[inner]
    assert (np.count_nonzero(near >= 0, axis=1) == len(expected_nm)).mean() > 0.98
    apart = np.hypot(*(sites.yx_nm[near] - sites.yx_nm[inner][:, None]).transpose(2, 0, 1))
    np.testing.assert_allclose(np.median(apart, axis=0)[: len(expected_nm)], expected_nm, atol=0.006)


def test_spacing_is_measured_and_neighbours_are_those_of_the_lattice():
    sites, real = SiteMap((512, 512), PIXEL_NM, 0.6), particle(110)  # a start value twice too large
    for frame in range(4):
        see(sites, frame, real)
    assert sites.spacing_px == pytest.approx(SPACING_PX, rel=0.01)
    inner = np.hypot(*(sites.yx_nm / PIXEL_NM - 256).T) < 80
    assert (np.count_nonzero(sites.neighbours >= 0, axis=1)[inner] == 6).all()
    beside = sites.neighbours[inner][:, :6]
    distance = np.hypot(*(sites.yx_nm[beside] - sites.yx_nm[inner][:, None]).transpose(2, 0, 1)) / PIXEL_NM
    assert distance.max() < 1.5 * SPACING_PX
    version = sites.version
    see(sites, 4, real)
    assert sites.version == version


def test_weak_columns_count_where_a_place_is_known_but_make_none():
    sites = site_map(birth_score=0.5)
    for frame in range(10):
        sites.update(frame, np.array([[100.0, 100.0]]), np.array([0.3]), REST)
    assert len(sites) == len(sites.candidates_yx_nm) == 0
    for frame in range(10, 13):
        sites.update(frame, np.array([[100.0, 100.0]]), np.array([0.6]), REST)
    assert sites.update(13, np.array([[100.0, 100.0]]), np.array([0.3]), REST).column_site.tolist() == [0]


def test_goes_on_from_its_state():
    rng = np.random.default_rng(4)
    sites, real = site_map(), particle(110)
    frames = [real[rng.random(len(real)) < 0.9] + rng.normal(0, 0.3, 2) for _ in range(60)]
    shifts = np.cumsum(rng.normal(0, 2, (60, 2)), axis=0)
    for i in range(30):
        see(sites, i, frames[i] + shifts[i], shifts[i])
    other = site_map()
    other.restore(sites.state())
    for i in range(30, 60):
        a, b = (see(s, i, frames[i] + shifts[i], shifts[i], lost=i == 40) for s in (sites, other))
        np.testing.assert_array_equal(a.column_site, b.column_site)
        np.testing.assert_array_equal(a.begun.history, b.begun.history)
        np.testing.assert_array_equal(a.begun.empty_frames, b.begun.empty_frames)
    assert sites.state().keys() == other.state().keys()
    for key, value in sites.state().items():
        np.testing.assert_array_equal(value, other.state()[key])


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"born_after": 5, "born_within": 4}, "5, 4"), ({"born_within": 20, "memory": 10}, "20 and 10")],
)
def test_refuses_births_that_cannot_be(changes, named):
    with pytest.raises(ValueError, match=named):
        site_map(**changes)


@pytest.mark.parametrize(
    ("pixel_nm", "spacing_nm"), [(0.0, 0.25), (0.02, -1.0), (np.nan, 0.25), (np.inf, 0.25)]
)
def test_refuses_impossible_sizes(pixel_nm, spacing_nm):
    with pytest.raises(ValueError, match="above 0 nm"):
        SiteMap((64, 64), pixel_nm, spacing_nm)


def test_a_proposed_site_is_one_once_columns_were_seen_there():
    sites = SiteMap((512, 512), PIXEL_NM, SPACING_PX * PIXEL_NM)
    there = np.array([[100.0, 100.0], [100.0, 112.0], [112.0, 100.0]])
    none = np.zeros(2)
    for frame in range(6):
        sites.update(frame, there, np.ones(3), none)
    place = np.array([[112.0, 112.0]]) * PIXEL_NM
    begun = sites.propose(place)
    history, empty_frames = begun.history, begun.empty_frames
    assert history.shape == (sites.memory - 1, 1)
    assert (history[-6:] == MISSED).all()  # it was in view, and nothing was there
    assert empty_frames == 0
    assert sites.proposed.tolist() == [False] * 3 + [True]
    with np.errstate(all="raise"):
        assert np.isnan(sites.error_nm).all(axis=1).tolist() == [False] * 3 + [True]
    assert sites.born_frame[3] == -1
    for frame in range(6, 10):
        sighting = sites.update(frame, np.concatenate([there, [[112.0, 112.5]]]), np.ones(4), none)
        assert sighting.column_site.tolist() == [0, 1, 2, 3]
    assert not sites.proposed.any()
    assert sites.born_frame[3] == 6
    assert sites.yx_nm[3, 1] == pytest.approx(112.4 * PIXEL_NM, abs=0.2 * PIXEL_NM)
