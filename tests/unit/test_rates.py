"""Rates by class, per time and per dose, and two conditions compared."""

from __future__ import annotations

import io

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from rich.console import Console

from stream.compare import compare
from stream.dwells import seconds
from stream.frame import CalibrationError, RecordingError
from stream.phantom_particle import gold_particle
from stream.rate_tables import compare_report, plain, show_comparison, show_rates, write_csv
from stream.rates import dwell_summary, fast_sites, rate_rows, survival_rows
from stream.switches import whole, within
from tests.helpers.kinetics import session_of, two_states


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture(scope="module")
def mixed():
    """100 sites, the first 50 three times as restless; 0.1 s per frame, 31,000 e/nm² each."""
    departure = np.repeat([0.03, 0.01], 50)
    state = two_states(rng(), 0.02, departure, 1000, 100)
    return state, session_of(state, dose_rate_e_nm2_s=310_000.0)


def by_kind(rows, group="all"):
    return {row.kind: row for row in rows if row.group == group}


def test_rates_are_counts_over_the_time_in_the_state_they_leave(mixed):
    state, session = mixed
    found = by_kind(rate_rows(whole(session), "all", "s", rng()))
    leaves, fills = (state[:-1] & ~state[1:]).sum(), (~state[:-1] & state[1:]).sum()
    assert (found["departure"].events, found["arrival"].events) == (leaves, fills)
    assert found["departure"].at_risk == pytest.approx(0.1 * state[:-1].sum())
    assert found["arrival"].at_risk == pytest.approx(0.1 * (~state[:-1]).sum())
    assert found["event"].at_risk == pytest.approx(0.1 * 999 * 100)
    assert found["hop"].events == 0
    assert {row.interval for row in found.values()} == {"bootstrap", "Garwood"}
    assert found["departure"].low < found["departure"].rate < found["departure"].high


def test_per_dose_is_per_time_over_the_dose_rate(mixed):
    _, session = mixed
    per_s, per_e = (by_kind(rate_rows(whole(session), "all", per, rng())) for per in ("s", "e"))
    for kind, row in per_e.items():
        assert row.rate * 310_000 == pytest.approx(per_s[kind].rate)
        assert row.high * 310_000 == pytest.approx(per_s[kind].high)
        assert row.missed_share == per_s[kind].missed_share
    with pytest.raises(CalibrationError, match="dose_rate_e_nm2_s"):
        rate_rows(whole(session_of(mixed[0])), "all", "e", rng())


def test_the_classes_of_sites_add_up(mixed):
    _, session = mixed
    together = by_kind(rate_rows(whole(session), "all", "s", rng()))
    for by in ("site", "coordination", "facet"):
        rows = rate_rows(whole(session), by, "s", rng())
        for kind, row in together.items():
            mine = [r for r in rows if r.kind == kind]
            assert sum(r.events for r in mine) == row.events
            assert sum(r.at_risk for r in mine) == pytest.approx(row.at_risk)


def test_facets_of_a_particle_have_their_own_rates():
    particle = gold_particle(5.0, 10, 0.3, (0.05, 0.03))
    n = len(particle.yx_nm)
    top = particle.yx_nm @ -particle.down_yx
    restless = particle.occupied & (top > top[particle.occupied].max() - 0.1)
    state = np.repeat(particle.occupied[None], 600, axis=0)
    state[:, restless] = two_states(rng(), 0.06, 0.02, 600, int(restless.sum()))
    rows = rate_rows(whole(session_of(state, particle.yx_nm + 5.0)), "facet", "s", rng())
    busy = [row for row in rows if row.kind == "departure" and row.events]
    angle = np.rad2deg(np.arctan2(particle.down_yx[0], -particle.down_yx[1]))
    most = max(busy, key=lambda row: row.events)
    assert float(most.group.removesuffix("°")) == pytest.approx(angle, abs=2)
    assert most.events > 0.9 * sum(row.events for row in busy)
    assert sum(row.sites for row in rows if row.kind == "event") == n


def test_what_switches_too_fast_for_the_frames_is_flagged():
    slow, fast = (
        by_kind(rate_rows(whole(session_of(two_states(rng(), r, r, 2000, 30))), "all", "s", rng()))["event"]
        for r in (0.005, 0.05)
    )
    assert not slow.fast
    assert fast.fast
    assert slow.missed_share == pytest.approx(1 - np.exp(-0.01 * 3.5), rel=0.1)


def test_the_table_says_which_rates_are_lower_bounds_and_how_many_sites_are_fast(monkeypatch):
    from stream import rate_tables

    restless = two_states(rng(), 0.1, 0.1, 1000, 8)
    calm = two_states(rng(), 0.001, 0.001, 1000, 120)
    for state, fast, bound in (
        (np.hstack([restless, calm]), 8, False),
        (restless, 8, True),
        (calm, 0, False),
    ):
        session = session_of(state)
        monkeypatch.setattr(rate_tables, "read_session", lambda path, session=session: session)
        report = rate_tables.rates_report("a.h5", "all", "s")  # pyright: ignore
        assert report["fast_sites"] == fast_sites(whole(session)) == fast
        out = io.StringIO()
        show_rates(report, Console(file=out, width=200))
        said = out.getvalue()
        departure = next(row for row in report["rates"] if row["kind"] == "departure")
        assert departure["fast"] == bound
        assert (f"≥ {departure['rate']:.3g}" in said) == bound
        told = f"Lower bounds: {fast} of {state.shape[1]} sites switch too fast for frames of 0.1 s"
        assert (told in said) == (fast > 0)
        assert ("Lower bounds" in said) == (fast > 0)


def test_dwells_are_summed_up_with_their_censoring(mixed):
    occupied, empty = dwell_summary(whole(mixed[1]))
    assert occupied["beginning_unseen"] + empty["beginning_unseen"] == 100
    assert occupied["end_unseen"] + empty["end_unseen"] == 100
    assert empty["exponential_mean_s"] == pytest.approx(5.0, rel=0.08)
    assert empty["median_s"] == pytest.approx(5.0 * np.log(2), rel=0.1)
    assert occupied["median_low_s"] <= occupied["median_s"] <= occupied["median_high_s"]


def test_survival_curves_of_a_session_are_those_of_lifelines(mixed):
    part = whole(mixed[1])
    rows = survival_rows(part)
    for state, occupied in (("occupied", True), ("empty", False)):
        dwells = part.dwells[(part.dwells["occupied"] == occupied) & part.dwells["begun"]]
        theirs = KaplanMeierFitter().fit(seconds(dwells), dwells["ended"])
        mine = [row for row in rows if row["state"] == state]
        at = np.array([row["time_s"] for row in mine])
        np.testing.assert_allclose(at, theirs.survival_function_.index, atol=1e-9)
        np.testing.assert_allclose(
            [row["survival"] for row in mine], theirs.survival_function_.to_numpy()[:, 0], atol=1e-12
        )
        there = np.array([row["survival"] > 0 for row in mine])
        for name, ends in zip(("low", "high"), theirs.confidence_interval_.to_numpy().T, strict=True):
            np.testing.assert_allclose(np.array([row[name] for row in mine])[there], ends[there], rtol=1e-9)
        at_risk = theirs.event_table["at_risk"].to_numpy()
        assert [row["at_risk"] for row in mine[1:]] == at_risk[1:].tolist()


def test_a_change_within_one_session_is_found_where_it_is(mixed):
    before, after = two_states(rng(), 0.02, 0.01, 800, 60), two_states(rng(), 0.02, 0.01, 800, 60)
    after[:, :20] = two_states(np.random.default_rng(7), 0.02, 0.08, 800, 20)
    session = session_of(np.concatenate([before, after]))
    sides = [within(session, *span) for span in ((0, 80), (80, np.inf))]
    rows, lasted = compare(*sides, "site", rng())
    changed = {int(r["group"]) for r in rows if r["kind"] == "departure" and r["p_adjusted"] < 0.05}
    assert len(changed) > 10
    assert len(changed - set(range(20))) <= 1
    (whole,) = [r for r in compare(*sides, "all", rng())[0] if r["kind"] == "departure"]
    assert whole["ratio_low"] > 1
    assert whole["sites_low"] > 1
    assert whole["sites_high"] - whole["sites_low"] > whole["ratio_high"] - whole["ratio_low"]
    assert whole["test"] == "sites"
    assert {r["test"] for r in rows} == {"Poisson"}, "of one site nobody knows how sites scatter"
    occupied = next(row for row in lasted if row["state"] == "occupied")
    assert occupied["hazard_low"] > 1
    assert occupied["p_value"] < 0.01


def test_two_sessions_have_no_sites_in_common(mixed):
    _, session = mixed
    other = session_of(mixed[0])
    sides = whole(session), whole(other)
    with pytest.raises(RecordingError, match="no names in common"):
        compare(*sides, "site", rng())
    rows, _ = compare(*sides, "coordination", rng())
    assert all(row["ratio"] == pytest.approx(1) for row in rows if all(row["events"]))


def test_per_dose_two_sessions_are_compared_by_their_own_dose_rates(mixed):
    state, session = mixed
    twice = session_of(state, dose_rate_e_nm2_s=620_000.0)
    sides = whole(session), whole(twice)
    per_s, per_e = (compare(*sides, "all", rng(), per) for per in ("s", "e"))
    for by_time, by_dose in zip(per_s[0], per_e[0], strict=True):
        at_risk = by_time["at_risk_s"]
        assert by_dose["at_risk_e_nm2"] == pytest.approx([310_000 * at_risk[0], 620_000 * at_risk[1]])
        if not any(by_time["events"]):
            continue
        assert by_dose["rate_per_e_nm2"][1] == pytest.approx(by_time["rate_hz"][1] / 620_000)
        assert by_time["ratio"] == pytest.approx(1)
        for name in ("ratio", "ratio_low", "ratio_high", "sites_low", "sites_high"):
            assert by_dose[name] == pytest.approx(0.5 * by_time[name], nan_ok=True)
        assert by_dose["p_value"] < 1e-6 < by_time["p_value"]
    occupied = per_e[1][0]
    assert occupied["median_e_nm2"][1] == pytest.approx(2 * occupied["median_e_nm2"][0])
    assert occupied["hazard_high"] < 1
    with pytest.raises(CalibrationError, match="dose_rate_e_nm2_s"):
        compare(whole(session), whole(session_of(state)), "all", rng(), "e")


def test_a_range_beyond_the_series_is_refused(mixed):
    _, session = mixed
    with pytest.raises(RecordingError, match=r"which lasts 99\.9 s"):
        within(session, 100.0, 120.0)


@pytest.mark.parametrize("text", ["5", "a:b", "7:3"])
def test_a_range_that_is_none_is_refused(text, monkeypatch, mixed):
    monkeypatch.setattr("stream.rate_tables.read_session", lambda path: mixed[1])
    with pytest.raises(RecordingError, match="begin:end"):
        compare_report("a.h5", "b.h5", (text, None), "all")  # pyright: ignore


def test_the_tables_say_what_the_report_says(mixed, monkeypatch, tmp_path):
    from stream import rate_tables

    monkeypatch.setattr(rate_tables, "read_session", lambda path: mixed[1])
    report = rate_tables.rates_report("a.h5", "all", "s")  # pyright: ignore
    out = io.StringIO()
    show_rates(report, Console(file=out, width=80))
    departure = next(row for row in report["rates"] if row["kind"] == "departure")
    assert f"{departure['rate']:.3g}" in out.getvalue()
    assert f"{departure['events']:.0f}" in out.getvalue()
    assert plain({"a": [float("inf"), 1.0]}) == {"a": [None, 1.0]}
    write_csv(tmp_path / "a.csv", report["rates"])
    assert (tmp_path / "a.csv").read_text().splitlines()[0].startswith("group,kind,sites,events")

    for per, unit in (("s", "median, s"), ("e", "median, e/nm²")):
        report = compare_report("a.h5", "b.h5", (None, None), "all", per)  # pyright: ignore
        show_comparison(report, Console(file=out, width=80))
        assert unit in out.getvalue()
    departure = next(row for row in report["rates"] if row["kind"] == "departure")
    assert (departure["test"], report["per"]) == ("sites", "e")
    write_csv(tmp_path / "b.csv", report["rates"])
    assert "events_first,events_second" in (tmp_path / "b.csv").read_text()
