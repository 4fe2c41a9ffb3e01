"""A result file as figures: every site a disc, coloured by what is known of it, with scale bar and units.

Colours are perceptually uniform and safe for the colour-blind (viridis); grey is for "none", so that a
colour always means a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from stream.maps import events, occurrence, residence_s
from stream.session import Session, read_session

_DISC = 0.84  # of the spacing: discs of neighbours do not touch
_NONE, _EDGE, _FAST = "#e4e4e4", "#8a8a8a", "#d55e00"
_COLOURS = "viridis"
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
    """Write a PNG of each quantity into `folder`: occurrence, raw_events, events, rate and residence.

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
