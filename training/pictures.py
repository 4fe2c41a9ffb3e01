"""The pictures of an evaluation report: small PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; set before pyplot comes
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

Row = dict[str, Any]
_DPI = 90
# What is drawn against what: the report's key, the label of the axis, the figure.
_CONDITIONS = (("by_defocus_nm", "defocus / nm", "f1"), ("by_tilt_deg", "tilt / °", "f1"))
_COLUMNS = (
    ("by_height", "atoms in the column", "recall"),
    ("by_support_nm", "distance to the support / nm", "f1"),
    ("by_place", "place", "recall"),
)


def draw_pictures(report: dict[str, Any], folder: Path) -> list[Path]:
    """dose.png, conditions.png, columns.png and calibration.png from a report's figures."""
    return [
        _picture(folder / "dose.png", 2, lambda axes: _dose(axes, report), sharey=True),
        _groups(folder / "conditions.png", report["sets"]["all"], "all images", _CONDITIONS),
        _groups(folder / "columns.png", report["sets"]["usable"], "usable images", _COLUMNS),
        _picture(folder / "calibration.png", 2, lambda axes: _calibration(axes, report["sets"])),
    ]


def _picture(path: Path, panels: int, draw: Callable[[list[Axes]], None], **how: Any) -> Path:
    figure, axes = plt.subplots(
        1, panels, figsize=(4.3 * panels, 3.6), layout="constrained", squeeze=False, **how
    )
    draw(list(axes[0]))
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    return path


def _dose(axes: list[Axes], report: dict[str, Any]) -> None:
    """F1 against dose, with its interval, the other engines and the tuned LoG."""
    for ax, name in zip(axes, ("all", "usable"), strict=True):
        figures = report["sets"][name]
        rows = figures["by_dose"]
        dose = _of(rows, "dose_e_angstrom2")
        ax.fill_between(dose, _of(rows, "f1_low"), _of(rows, "f1_high"), alpha=0.25, lw=0)
        ax.plot(dose, _of(rows, "f1"), "o-", label=report["engine"])
        for other, against in figures["against"].items():
            ax.plot(dose, _of(against, "f1"), "s--", ms=4, lw=1, label=other)
        with_log = [row for row in rows if row["log"]]
        if with_log:
            ax.plot(
                _of(with_log, "dose_e_angstrom2"),
                [row["log"]["f1"] for row in with_log],
                "k^:",
                ms=5,
                label=f"LoG tuned per image ({with_log[0]['log']['images']} images)",
            )
        ax.set(xscale="log", xlabel="dose / e Å⁻²", title=f"{name}: {figures['images']} images")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("F1 (band: 95 % over specimens)")
    axes[0].legend(fontsize=8)


def _groups(
    path: Path, figures: dict[str, Any], title: str, panels: tuple[tuple[str, str, str], ...]
) -> Path:
    """A panel for each group of figures that the report has, a line for each dose; for places positions as well."""
    there = [panel for panel in panels if panel[0] in figures]
    places = any(key == "by_place" for key, _, _ in there)

    def draw(axes: list[Axes]) -> None:
        for ax, (key, label, figure) in zip(axes, there, strict=False):
            _lines(ax, figures[key], figure)
            ax.set(xlabel=label, ylabel={"f1": "F1"}.get(figure, figure), title=title)
        axes[0].legend(title="e/Å²", fontsize=7, title_fontsize=7)
        if places:
            _positions(axes[-1], figures["by_place"], title)

    return _picture(path, len(there) + places, draw)


def _positions(ax: Axes, rows: list[Row], title: str) -> None:
    for place in dict.fromkeys(_of(rows, "group")):
        mine = [row for row in rows if row["group"] == place]
        ax.plot(_of(mine, "dose_e_angstrom2"), _of(mine, "rms_pm"), "o-", label=place)
    ax.set(xscale="log", xlabel="dose / e Å⁻²", ylabel="rms position / pm", title=title)
    if any(row["rms_pm"] for row in rows):  # something was found: a logarithm has a place to be
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(2, 0.5)))
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)


def _calibration(axes: list[Axes], sets: dict[str, Any]) -> None:
    """Reliability diagrams: the share of columns among candidates of a score; perfect is the diagonal."""
    for ax, (name, figures) in zip(axes, sets.items(), strict=True):
        ax.plot([0, 1], [0, 1], "k:", lw=1)
        colours = iter(plt.get_cmap("viridis")(np.linspace(0, 0.9, len(figures["calibration"]) - 1)))
        for dose, found in figures["calibration"].items():
            colour = "k" if dose == "all" else next(colours)
            if found["bins"]:
                error = found["expected_calibration_error"]
                ax.plot(
                    _of(found["bins"], "score"),
                    _of(found["bins"], "columns"),
                    "o-",
                    ms=3,
                    lw=2.2 if dose == "all" else 1,
                    color=colour,
                    label=f"{dose}: {error:.3f}",
                )
        ax.set(xlabel="score of a candidate", title=f"{name} images", xlim=(0, 1), ylim=(0, 1))
        if ax.get_legend_handles_labels()[0]:
            ax.legend(title="e/Å²: calibration error", fontsize=7, title_fontsize=7)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("share that are columns")


def _lines(ax: Axes, rows: list[Row], key: str) -> None:
    """A line for each dose over the groups, in their order."""
    names = list(dict.fromkeys(_of(rows, "group")))
    doses = list(dict.fromkeys(_of(rows, "dose_e_angstrom2")))
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(doses)))
    for dose, colour in zip(doses, colours, strict=True):
        mine = [row for row in rows if row["dose_e_angstrom2"] == dose]
        ax.plot(names, _of(mine, key), "o-", ms=4, color=colour, label=f"{dose:g}")
    ax.tick_params(axis="x", labelrotation=35, labelsize=7)
    ax.grid(alpha=0.3)


def _of(rows: list[Row], key: str) -> list[Any]:
    return [np.nan if row[key] is None else row[key] for row in rows]
