"""Figures: a colour is a number, grey is none; scale bar, units and what was taken stand on them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from stream.dwells import seconds, site_dwells
from stream.figures import LOOKS, draw_dwells, draw_figure, round_length
from tests.helpers.kinetics import lattice_nm, session_of, two_states


@pytest.fixture(scope="module")
def session():
    state = two_states(np.random.default_rng(3), 0.02, np.repeat([0.0005, 0.03], 18), 500, 36)
    state[:, 0], state[:, 1] = True, False
    made = session_of(state, dose_rate_e_nm2_s=310_000.0)
    rows = made.sites
    rows["disappeared"] = (state[:-1] & ~state[1:]).sum(axis=0)
    rows["appeared"] = (~state[:-1] & state[1:]).sum(axis=0)
    rows["arrivals"], rows["departures"] = rows["appeared"], rows["disappeared"]
    rows["raw_flips"] = 3 * rows["appeared"]
    rows["event_rate_hz"] = (rows["appeared"] + rows["disappeared"]) / rows["observed_s"]
    rows["fast"][20] = True
    return made


def texts(figure: Figure) -> str:
    axes = figure.axes[0]
    legend = axes.get_legend()
    told = [axes.get_title(loc="left"), *(t.get_text() for t in axes.texts)]
    return " ".join(told + ([t.get_text() for t in legend.get_texts()] if legend else []))


@pytest.mark.parametrize("name", LOOKS)
def test_every_figure_says_what_it_shows_and_what_was_taken(session, name):
    figure = draw_figure(session, name)
    told = texts(figure)
    assert LOOKS[name].title in told
    assert "36 sites · 500 frames · 50 s · 155,000 e/Å²" in told
    assert "0.2 nm" in told
    assert figure.axes[1].get_ylabel() == LOOKS[name].unit


def test_discs_stand_at_their_sites_and_carry_their_values(session):
    discs = [
        c for c in draw_figure(session, "events").axes[0].collections if isinstance(c, EllipseCollection)
    ]
    grey, coloured = discs
    events = session.sites["appeared"] + session.sites["disappeared"]
    np.testing.assert_allclose(coloured.get_offsets(), session.yx_nm[events > 0][:, ::-1])
    np.testing.assert_array_equal(coloured.get_array(), events[events > 0])
    assert len(grey.get_offsets()) == np.count_nonzero(events == 0) >= 2
    assert coloured.get_cmap().name == "viridis"
    assert coloured.get_clim() == (0, events.max())


def test_the_scale_bar_is_as_long_as_it_says(session):
    axes = draw_figure(session, "occurrence").axes[0]
    (bar,) = axes.lines
    assert np.ptp(bar.get_xdata()) == pytest.approx(0.2)
    assert axes.get_aspect() == 1.0
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "y points down, as in the frames"


def test_a_residence_never_ended_is_told_from_a_site_never_filled(session):
    figure = draw_figure(session, "residence")
    assert "none left mostly empty" in texts(figure)
    white = figure.axes[0].collections[1]
    np.testing.assert_allclose(white.get_offsets()[0], session.yx_nm[1][::-1])


def test_too_fast_sites_are_marked(session):
    figure = draw_figure(session, "rate")
    assert "too fast" in texts(figure)
    np.testing.assert_allclose(figure.axes[0].collections[-1].get_offsets(), session.yx_nm[[20], ::-1])


def test_a_lone_site_that_never_changed_has_figures_too():
    alone = session_of(np.ones((10, 1), bool), lattice_nm(1))
    for name in LOOKS:
        assert "dose not known" in texts(draw_figure(alone, name))


@pytest.mark.parametrize(("nm", "bar"), [(0.27, 0.2), (1.0, 1.0), (4.9, 2.0), (73, 50)])
def test_bars_are_round(nm, bar):
    assert round_length(nm) == pytest.approx(bar)


def test_dwells_are_drawn_as_curves_with_a_band_and_the_number_at_risk(session):
    dwells = site_dwells(session)
    figure = draw_dwells(session, dwells)
    told = " ".join(text.get_text() for text in figure.texts)
    assert "36 sites" in told
    assert "shorter than 0.3 s" in told
    figure.draw_without_rendering()
    for axes, occupied in zip(figure.axes, (True, False), strict=True):
        mine = dwells[(dwells["occupied"] == occupied) & dwells["begun"]]
        assert axes.get_yscale() == "log"
        assert axes.get_xlabel().startswith("time since it began, s")
        assert f"{mine['ended'].sum()} of {len(mine)}" in axes.get_title()
        for tick in axes.get_xticklabels():
            time_s, count = tick.get_text().split("\n")
            assert int(count) == (seconds(mine) > float(time_s) - 1e-6).sum()
        (line,) = axes.lines
        assert line.get_ydata()[0] == 1
        assert (np.diff(line.get_ydata()) <= 0).all()
        assert len(axes.collections) == 1
    assert figure.axes[0].get_ylabel()


def test_without_an_end_the_curve_stays_at_one():
    still = np.zeros((50, 4), bool)
    still[20:, 0] = True
    quiet = session_of(still)
    figure = draw_dwells(quiet, site_dwells(quiet))
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[1.0, 1.0]]
    assert "0 of 0 dwells" in figure.axes[1].get_title()
    figure.draw_without_rendering()
