"""A result file as figures: sites as discs, coloured by what is known of each, and the curves of their dwells.

Colours are perceptually uniform and safe for the colour-blind (viridis); grey is for "none", so that a
colour always means a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from stream.dwells import site_dwells
from stream.kinetics import SHORTEST_FRAMES, Survival
from stream.maps import events, occurrence, residence_s
from stream.rates import STATES, dwell_survival
from stream.session import Session, read_session

_DISC = 0.84  # of the spacing: discs of neighbours do not touch
_NONE, _EDGE, _FAST = "#e4e4e4", "#8a8a8a", "#d55e00"
_COLOURS = "viridis"
_STATES = {"occupied": "#0072b2", "empty": "#d55e00"}  # Okabe and Ito's: told apart by the colour-blind, too
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
"""A font that has every letter used here, on every platform; it comes with matplotlib."""


@dataclass(frozen=True, slots=True)
class _Look:
    """How one quantity is shown."""

    title: str
    unit: str
    none: str  # what grey means
    value: Callable[[np.ndarray], np.ndarray]  # of the rows of the table of sites; NaN or 0 for none
    counts: bool = False
    logarithmic: bool = False
    top: float | None = None
    mark_fast: bool = False
    mark_empty: bool = False


LOOKS = {
    "occurrence": _Look("Occurrence", "fraction of the time occupied", "never occupied", occurrence, top=1.0),
    "raw_events": _Look(
        "Raw events", "flips of single detections", "none", lambda r: r["raw_flips"], counts=True
    ),
    "events": _Look("Corrected events", "site filled or emptied", "none", events, counts=True),
    "rate": _Look(
        "Event rate", "events per second observed", "none seen", lambda r: r["event_rate_hz"], mark_fast=True
    ),
    "residence": _Look(
        "Residence",
        "mean time a column stayed, s",
        "none left",
        residence_s,
        logarithmic=True,
        mark_empty=True,
    ),
}


def write_figures(result: Path, folder: Path) -> list[Path]:
    """Write a PNG of each quantity into `folder`: occurrence, raw_events, events, rate and residence; and dwells, if
    of any the beginning was seen.

    Raises
    ------
    FileNotFoundError, RecordingError
        As `read_session`.
    """
    session = read_session(result)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in LOOKS:
        figure = draw_figure(session, name)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=200)
    dwells = site_dwells(session)
    if dwells["begun"].any():
        paths.append(folder / "dwells.png")
        draw_dwells(session, dwells).savefig(paths[-1], dpi=200)
    return paths


def draw_figure(session: Session, name: str) -> Figure:
    """One figure; `name` is a key of LOOKS."""
    look = LOOKS[name]
    rows, yx_nm = session.sites, session.yx_nm
    value = np.nan_to_num(np.asarray(look.value(rows), np.float64))
    some = value > 0
    spacing_nm = _spacing_nm(session)
    low, high = yx_nm.min(axis=0) - spacing_nm, yx_nm.max(axis=0) + spacing_nm
    height_nm, width_nm = high - low
    bar_nm = round_length(width_nm / 5)
    width_in = 6.4
    figure = Figure(
        figsize=(width_in, 1.1 + (width_in - 1.4) * (height_nm * 1.1) / width_nm), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_xlim(low[1], high[1])
    axes.set_ylim(high[0] + 0.09 * height_nm, low[0])  # room for the scale bar
    axes.set_title(f"{look.title}\n", loc="left", fontsize=13, fontweight="bold")
    axes.text(0, 1.015, _taken(session), transform=axes.transAxes, fontsize=9, color="#444444")

    _discs(axes, session, yx_nm[~some], facecolors=_NONE)
    legend = [Patch(facecolor=_NONE, edgecolor=_EDGE, label=look.none)] if not some.all() else []
    empty = ~some & (occurrence(rows) < 0.5)
    if look.mark_empty and empty.any():
        _discs(axes, session, yx_nm[empty], facecolors="white")
        legend.append(Patch(facecolor="white", edgecolor=_EDGE, label="mostly empty"))
    if some.any():
        coloured = _discs(
            axes, session, yx_nm[some], array=value[some], cmap=_COLOURS, norm=_scale(look, value[some])
        )
        bar = figure.colorbar(coloured, ax=axes, shrink=0.85, pad=0.02, label=look.unit)
        if look.counts:
            bar.locator = MaxNLocator(integer=True, nbins=6)
            bar.update_ticks()
        elif look.logarithmic:
            bar.locator = LogLocator(subs=(1, 2, 5), numticks=20)
            bar.formatter = FuncFormatter(lambda tick, _: f"{tick:g}")
            bar.minorticks_off()
    fast = rows["fast"] & some
    if look.mark_fast and fast.any():
        _discs(axes, session, yx_nm[fast], facecolors="none", edgecolors=_FAST, linewidths=1.6)
        legend.append(Patch(facecolor="none", edgecolor=_FAST, label="too fast: a lower bound"))
    y, x = high[0] + 0.05 * height_nm, low[1] + 0.02 * width_nm
    axes.plot([x, x + bar_nm], [y, y], color="black", linewidth=4, solid_capstyle="butt")
    axes.text(x + bar_nm + 0.015 * width_nm, y, f"{bar_nm:g} nm", va="center", fontsize=10)
    if legend:
        axes.legend(
            handles=legend, loc="lower right", fontsize=9, frameon=False, borderpad=0, ncols=len(legend)
        )
    return figure


def draw_dwells(session: Session, dwells: np.ndarray) -> Figure:
    """How long sites stayed occupied, and empty: Kaplan-Meier's curves with their 95 % bands.

    The survival is logarithmic, so that dwells that all end at one rate make a straight line; the numbers below are of
    dwells that lasted so long.

    Parameters
    ----------
    dwells : of `stream.dwells.site_dwells`.
    """
    figure = Figure(figsize=(8.8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Dwell times", x=0.01, ha="left", fontsize=13, fontweight="bold")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (state, occupied) in zip(panels, STATES, strict=True):
        curve = dwell_survival(dwells, occupied)
        steps = {"color": _STATES[state]}
        # a band holds from its time to the next: to the very end, where it is none
        low, high = (np.append(ends[:-1], ends[-2:][:1]) for ends in (curve.low, curve.high))
        axes.fill_between(curve.time_s, low, high, step="post", alpha=0.25, linewidth=0, **steps)
        axes.step(curve.time_s, curve.survival, where="post", linewidth=1.6, **steps)
        axes.set_title(f"{state}: {curve.ended.sum():,} of {curve.at_risk[0]:,} dwells ended", fontsize=10)
        axes.set_yscale("log", nonpositive="clip")
        axes.set_xlim(0, max(curve.time_s[-1], session.period_s))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(partial(_at_risk, curve)))
        axes.set_xlabel("time since it began, s\ndwells that lasted so long")
        axes.grid(alpha=0.3, linewidth=0.5)
    some = np.concatenate([line.get_ydata() for axes in panels for line in axes.lines])
    panels[0].set_ylim(0.7 * min(some[some > 0].min(), 0.14), 1.1)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("fraction of dwells that last longer")
    shortest_s = SHORTEST_FRAMES * session.period_s
    told = f"{_taken(session)} · dwells shorter than {shortest_s:.3g} s ({SHORTEST_FRAMES} frames) are partly missed"
    figure.text(0.99, 0.985, told, ha="right", va="top", fontsize=9, color="#444444")
    return figure


def _at_risk(curve: Survival, tick_s: float, _: int | None) -> str:
    """A time with the number of dwells that lasted to it."""
    row = np.searchsorted(curve.time_s, tick_s - 1e-9)
    return f"{tick_s:g}\n{curve.at_risk[row] if row < len(curve.at_risk) else 0:,}"


def round_length(nm: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `nm`."""
    power = 10.0 ** np.floor(np.log10(nm))
    return float(power * max(step for step in (1, 2, 5) if step * power <= nm))


def _discs(axes: Axes, session: Session, yx_nm: np.ndarray, **look: object) -> EllipseCollection:
    width = np.full(len(yx_nm), _DISC * _spacing_nm(session))
    look = {"linewidths": 0.5, "edgecolors": _EDGE, **look}
    discs = EllipseCollection(
        width,
        width,
        np.zeros(len(yx_nm)),
        units="xy",
        offsets=yx_nm[:, ::-1],
        transOffset=axes.transData,
        **look,
    )
    axes.add_collection(discs)
    return discs


def _scale(look: _Look, value: np.ndarray) -> Normalize:
    if look.logarithmic and value.max() > value.min():
        return LogNorm(value.min(), value.max())
    return Normalize(0, look.top or value.max())


def _spacing_nm(session: Session) -> float:
    return session.spacing_nm if np.isfinite(session.spacing_nm) else 0.25  # a lone site


def _taken(session: Session) -> str:
    """Frames, time and dose."""
    lasted_s = (session.t_ns[-1] - session.t_ns[0]) * 1e-9 + session.period_s
    text = f"{len(session.sites):,} sites · {len(session.t_ns):,} frames · {lasted_s:.4g} s"
    dose_rate = session.header.dose_rate_e_nm2_s
    return text + (f" · {1e-2 * dose_rate * lasted_s:,.0f} e/Å²" if dose_rate else " · dose not known")
