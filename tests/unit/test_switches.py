"""Switches given all frames: unbiased where events are too few, with honest intervals, for any group and any time."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from stream.columns import Columns
from stream.compare import compare
from stream.matching import neighbours, spacing
from stream.pipeline import Seen as Frame
from stream.rate_tables import rates_report, show_rates
from stream.rates import fast_sites, rate_rows
from stream.session import Session, read_session
from stream.switches import of_coordination, of_sites, whole, within
from stream.tables import ResultFile
from stream.tracking import Tracker
from tests.helpers.evidence import Seen, evidence_of, looked_session, simulated
from tests.helpers.kinetics import lattice_nm
from tests.helpers.result import HEADER, PIXEL_NM, SHAPE, SITES, WALKER, write_result

DOSES = {310: 100.0, 100: 25.0, 30: 6.6}  # e/Å² per frame: strength of the evidence
KINDS = ("event", "arrival", "departure")


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def some_sites(session: Session, which: np.ndarray) -> Session:
    """A session of which only some sites are known."""
    seen = session.evidence
    assert isinstance(seen, Seen)
    number = np.full(len(session.sites) + 1, -1)
    number[which] = np.arange(len(which))
    events = session.events.copy()
    for end in ("from_site", "to_site"):
        events[end] = number[events[end]]
    events = events[(events["from_site"] >= 0) | (events["to_site"] >= 0)]
    return replace(
        session,
        sites=session.sites[which],
        events=events,
        neighbours=np.full((len(which), 1), -1),
        evidence=replace(seen, ratio=seen.ratio[:, which], kept=seen.kept[:, which]),
    )


def of_sessions(session: Session, rate: float, sites: int) -> tuple[float, float]:
    """What `hopscope rates` tells of a session cut into many of so many sites: the largest relative bias of the kinds,
    pooled, and how many of the intervals hold the truth."""
    rows = []
    for first in range(0, len(session.sites), sites):
        few = whole(some_sites(session, np.arange(first, first + sites)))
        rows += [row for row in rate_rows(few, "all", "s", rng()) if row.kind in KINDS]
    assert {row.source for row in rows} == {"likelihood"}
    biases = []
    for kind in KINDS:
        of_kind = [row for row in rows if row.kind == kind]
        biases.append(sum(row.events for row in of_kind) / sum(row.at_risk for row in of_kind) / rate - 1)
    return max(biases, key=abs), float(np.mean([row.low <= rate <= row.high for row in rows]))


@pytest.mark.parametrize("dose", DOSES)
@pytest.mark.parametrize("sites", [6, 25])  # Garwood's interval, and the bootstrap
def test_rates_are_unbiased_and_their_intervals_honest(dose, sites):
    session = looked_session(simulated(0.05, DOSES[dose], 40 * sites, 400, seed=3)[0])
    bias, covered = of_sessions(session, 0.05, sites)
    assert abs(bias) < 0.02 + 3 / np.sqrt(0.05 * 0.5 * 400 * 40 * sites)
    assert covered > 0.86  # of 40 times three that depend on each other


def test_a_count_of_events_is_too_low_at_low_dose():
    seen = simulated(0.05, DOSES[30], 100, 400, seed=3)[0]
    part = whole(looked_session(seen))
    told, counted = of_sites(part), of_sites(part, "events")
    assert (told.source, counted.source) == ("likelihood", "events")
    ratio = counted.events.sum(axis=1)[:3] / told.events.sum(axis=1)[:3]
    assert ratio.max() < 0.85


@pytest.mark.parametrize(("rate", "sites"), [(0.03, 0), (1.0, 20)])
def test_sites_that_switch_too_fast_for_the_likelihood_are_counted(rate, sites):
    """Of rates of 1 per frame no more is left than a lower bound, 0.6."""
    part = whole(looked_session(simulated(rate, DOSES[310], 20, 400, seed=8)[0]))
    assert fast_sites(part) == sites
    rows = [row for row in rate_rows(part, "all", "s", rng()) if row.kind in KINDS]
    assert {row.fast for row in rows} == {sites > 0}
    assert sites == 0 or all(row.high < rate for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("dose", DOSES)
@pytest.mark.parametrize("rate", [0.001, 0.003, 0.01, 0.03, 0.1])
def test_rates_of_three_hundred_sessions(dose, rate):
    """The bars: 5 % of bias, beside what the truth itself scatters by, and 92 to 98 % of 95 % intervals that hold the
    truth, less chance among 72. Of one switch per site, Garwood's intervals hold it more often than they must."""
    session = looked_session(simulated(rate, DOSES[dose], 1800, 2000, seed=3)[0])
    for sites, least in ((6, 0.92), (25, 0.88)):
        bias, covered = of_sessions(session, rate, sites)
        print(f"{dose} e/Å², rate {rate}, {sites} sites: bias {bias:+.4f}, {covered:.3f} covered")
        assert abs(bias) < 0.05 + 2 / np.sqrt(rate * 0.5 * 2000 * 1800)
        assert least < covered <= (0.985 if rate > 0.001 else 0.995)


@pytest.mark.slow
@pytest.mark.parametrize("dose", DOSES)
@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_intervals_of_five_hundred_sessions_hold_the_truth_as_often_as_they_say(dose, rate):
    session = looked_session(simulated(rate, DOSES[dose], 504 * 25, 2000, seed=33)[0])
    bias, covered = of_sessions(session, rate, 25)
    print(f"{dose} e/Å², rate {rate}, 504 sessions of 25 sites: bias {bias:+.4f}, {covered:.3f} covered")
    assert abs(bias) < 0.05
    assert 0.92 <= covered <= 0.98


def test_a_site_has_the_rates_of_the_table_of_sites():
    session = looked_session(simulated(0.03, DOSES[30], 20, 500, seed=5)[0])
    rows = rate_rows(whole(session), "site", "s", rng())
    for kind in KINDS:
        mine = [row for row in rows if row.kind == kind]
        np.testing.assert_allclose([row.rate for row in mine], session.sites[f"{kind}_rate_hz"], rtol=1e-9)
        np.testing.assert_allclose(
            [row.high for row in mine], session.sites[f"{kind}_rate_high_hz"], rtol=1e-6
        )


def test_the_classes_of_sites_add_up():
    yx_nm = lattice_nm(49)
    part = whole(looked_session(simulated(0.03, DOSES[100], 49, 400, seed=6)[0], yx_nm))
    together = {row.kind: row for row in rate_rows(part, "all", "s", rng())}
    for by in ("site", "coordination", "facet"):
        rows = rate_rows(part, by, "s", rng())
        for kind, row in together.items():
            mine = [r for r in rows if r.kind == kind]
            if (by, kind) != ("coordination", "hop"):  # which departures are hops is told class by class
                assert sum(r.events for r in mine) == pytest.approx(row.events)
            assert sum(r.at_risk for r in mine) == pytest.approx(row.at_risk)


def test_departures_that_may_be_either_ones_hop_count_half():
    """Again and again a column comes to the middle of three sites as both others empty: either may have been it."""
    cycle = np.zeros((40, 3), bool)
    cycle[:10, [0, 2]] = cycle[10:20, 1] = cycle[30:, [0, 2]] = True
    state = np.tile(cycle, (8, 1))
    row_nm = np.array([[1.0, 1.0], [1.0, 1.3], [1.0, 1.6]])
    seen = Seen(np.arange(len(state)), np.where(state, 12.0, -12.0).astype(np.float32))
    session = looked_session(seen, row_nm)
    best = session.events[session.events["kind"] == b"hop"]["from_site"]
    assert sorted(np.bincount(best, minlength=3)) == [0, 0, 8], "an event has to name one of them"
    counts = of_sites(whole(session))
    share = counts.events[3] / counts.events[2]
    np.testing.assert_allclose(share, [0.5, 0.0, 0.5], atol=0.01)
    together = sum(counts.events[3].sum() for counts in of_coordination(whole(session)))
    assert together == pytest.approx(counts.events[3].sum(), rel=0.05)
    half = of_sites(within(session, 0, float(session.t_ns[160] * 1e-9)))
    np.testing.assert_allclose(half.events[3] / half.events[2], [0.5, 0.0, 0.5], atol=0.01)
    older = of_sites(whole(replace(session, hops=None)))
    assert sorted((older.events[3] / older.events[2]).tolist()) == pytest.approx([0, 0, 1])


def test_a_change_of_rate_is_not_smoothed_away():
    """Twice the rate in the second half: each half is told by its own frames, at any dose."""
    halves = [simulated(rate, DOSES[30], 40, 500, seed=7)[0] for rate in (0.03, 0.06)]
    frame = np.concatenate([halves[0].frame, 500 + halves[1].frame])
    session = looked_session(Seen(frame, np.concatenate([half.ratio for half in halves])))
    first, second = within(session, 0, 500), within(session, 500, np.inf)
    rows, _ = compare(first, second, "all", rng())
    (change,) = [row for row in rows if row["kind"] == "event"]
    assert change["from"] == "likelihood"
    assert change["rate_hz"] == pytest.approx([0.03, 0.06], rel=0.12)
    assert change["ratio_low"] < 2 < change["ratio_high"]
    assert change["p_value"] < 1e-6
    times = [of_sites(part).time_s for part in (first, second, whole(session))]
    np.testing.assert_allclose(times[0] + times[1], times[2], rtol=1e-3)


def test_conditions_of_which_one_is_not_known_so_well_are_counted_alike():
    session = looked_session(simulated(0.03, DOSES[30], 30, 300, seed=8)[0])
    older = replace(session, evidence=None)
    rows, _ = compare(whole(session), whole(older), "all", rng())
    assert {row["from"] for row in rows} == {"events"}
    assert all(row["ratio"] == pytest.approx(1) for row in rows if row["kind"] != "hop")


def by_coordination(state: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Departures, and frames occupied, with so many occupied neighbours: as they really were."""
    around = np.where(beside >= 0, np.pad(state, ((0, 0), (0, 1)))[:, beside], False).sum(axis=2)[:-1]
    here = state[:-1]
    left = here & ~state[1:]
    return np.bincount(around[left], minlength=9), np.bincount(around[here], minlength=9)


@pytest.mark.parametrize("dose", DOSES)
def test_the_more_neighbours_a_column_has_the_longer_it_stays(dose):
    yx_nm = lattice_nm(100)
    beside = neighbours(yx_nm, 1.5 * spacing(yx_nm), 8)
    random = np.random.default_rng(9)
    state = np.empty((900, 100), bool)
    state[0] = random.random(100) < 0.5
    for frame in range(1, 900):
        now = state[frame - 1]
        around = np.where(beside >= 0, np.append(now, False)[beside], False).sum(axis=1)
        state[frame] = now ^ (random.random(100) < np.where(now, 0.16 * np.exp(-0.3 * around), 0.05))
    session = looked_session(Seen(np.arange(900), evidence_of(state, DOSES[dose], random)), yx_nm)
    left, frames = by_coordination(state, beside)
    classes = of_coordination(whole(session))
    found = np.array([c.events[2].sum() / c.time_s[2].sum() for c in classes])
    # what falls between frames is added, which a simulation by frames has not
    more = 1 + 0.5 * (left / frames + 0.05)
    off = found / (left / frames * more) - 1
    print(np.round(off, 3))
    many = left > 150
    assert many.sum() >= 5
    assert np.abs(off[many]).max() < (0.25 if dose == 30 else 0.1)
    assert np.abs(np.array([c.time_s[2].sum() for c in classes]) / frames - 1)[many].max() < 0.1


def test_hops_are_told_alike_at_every_dose():
    """Columns that hop to vacant neighbours, or come and go by themselves, rarely."""
    yx_nm = lattice_nm(64)
    beside = neighbours(yx_nm, 1.2 * spacing(yx_nm), 8)
    random = np.random.default_rng(10)
    now = random.random(64) < 0.5
    rows, hops = [now.copy()], 0
    for _ in range(1000):
        before = now.copy()
        for site in random.permutation(64):
            vacant = [n for n in beside[site] if n >= 0 and not (now[n] or before[n])]
            if before[site] and vacant and random.random() < 0.02:
                now[site], now[random.choice(vacant)] = False, True
                hops += 1
            elif before[site] == now[site] and random.random() < 0.001:
                now[site] = not now[site]
        rows.append(now.copy())
    state = np.array(rows)
    for strength in DOSES.values():
        session = looked_session(Seen(np.arange(len(state)), evidence_of(state, strength, rng())), yx_nm)
        (row,) = [r for r in rate_rows(whole(session), "all", "s", rng()) if r.kind == "hop"]
        assert row.rate == pytest.approx(hops / state[:-1].sum(), rel=0.1)


def test_an_older_result_is_counted_by_its_events(tmp_path: Path):
    write_result(tmp_path / "a.h5")
    report = rates_report(tmp_path / "a.h5", "all", "s")
    assert {row["from"] for row in report["rates"]} == {"likelihood"} == {report["from"]}
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["occupancy"]
    older = rates_report(tmp_path / "a.h5", "all", "s")
    assert {row["from"] for row in older["rates"]} == {"events"}
    for told, words in ((report, "From the likelihood"), (older, "From events")):
        out = io.StringIO()
        show_rates(told, Console(file=out, width=100))
        assert words in out.getvalue()
    # hardly anything is open here, so both tell the same
    for one, other in zip(report["rates"], older["rates"], strict=True):
        assert one["at_risk"] == pytest.approx(other["at_risk"], rel=0.12)
        assert one["events"] == pytest.approx(other["events"], abs=0.2)


def test_what_is_kept_is_what_was_looked_at(tmp_path: Path):
    """Evidence from before a site was known is in the file as well: its time is that of the table of sites."""
    write_result(tmp_path / "a.h5")
    session = read_session(tmp_path / "a.h5")
    part = within(session, 0, 6.0)
    rest = within(session, 6.0, np.inf)
    time_s = of_sites(part).time_s[0] + of_sites(rest).time_s[0]
    np.testing.assert_allclose(time_s, session.sites["observed_s"], atol=0.02)


def test_time_behind_bad_pixels_is_not_observed(tmp_path: Path):
    """One site is hidden, until the specimen drifts."""
    bad = np.zeros(SHAPE, bool)
    y, x = np.round(SITES[WALKER]).astype(int)
    bad[y - 6 : y + 7, x - 6 : x + 7] = True
    tracker = Tracker(SHAPE, PIXEL_NM, 0.1, bad_pixels=bad)
    header = replace(HEADER, bad_pixels=bad)
    with ResultFile(tmp_path / "a.h5", header=header, settings_toml="", engine_toml="") as result:
        for index in range(80):
            away_px = min(max(index - 20, 0), 10) - 10 * (index >= 60)
            yx_px = SITES + np.array([away_px, 0])  # away, and back
            n = len(yx_px)
            columns = Columns(
                yx_px.astype(np.float32),
                np.full(n, 2, np.float32),
                np.full(n, 0.9, np.float32),
                np.ones(n, np.uint8),
            )
            tracked = tracker.update(index, index * 10**8, yx_px, columns.score)
            result.add_frame(Frame(index, index * 10**8, 0, columns, np.zeros((1, 1)), tracked, {}))
        tracker.finish()
        result.finish(tracker)
    session = read_session(tmp_path / "a.h5")
    site = int(np.hypot(*(session.yx_nm - SITES[WALKER] * PIXEL_NM).T).argmin())
    observed_s = session.sites["observed_s"]
    assert 2.0 < observed_s[site] < 4.5 < 7.5 < np.median(observed_s)
    for source in ("likelihood", "events"):
        time_s = of_sites(whole(session), source).time_s[0]
        assert time_s[site] == pytest.approx(observed_s[site], abs=0.15)
