"""Figures: a colour is a number, grey is none; scale bar, units and what was taken stand on them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from stream.figures import LOOKS, draw_figure, round_length
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
