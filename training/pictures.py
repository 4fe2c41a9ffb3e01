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


def draw_pictures(report: dict[str, Any], folder: Path) -> list[Path]:
    """dose.png, conditions.png, columns.png and calibration.png from a report's figures."""
    return [
        _picture(folder / "dose.png", 2, lambda axes: _dose(axes, report), sharey=True),
        _picture(folder / "conditions.png", 2, lambda axes: _conditions(axes, report["sets"]["all"])),
        _picture(folder / "columns.png", 3, lambda axes: _columns(axes, report["sets"]["usable"])),
        _picture(folder / "calibration.png", 2, lambda axes: _calibration(axes, report["sets"])),
    ]


def _picture(path: Path, panels: int, draw: Callable[[list[Axes]], None], **how: Any) -> Path:
    figure, axes = plt.subplots(1, panels, figsize=(4.3 * panels, 3.6), layout="constrained", **how)
    draw(list(axes))
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


def _conditions(axes: list[Axes], figures: dict[str, Any]) -> None:
    """F1 against defocus and tilt, a line for each dose; all images."""
    for ax, key, label in zip(
        axes, ("by_defocus_nm", "by_tilt_deg"), ("defocus / nm", "tilt / °"), strict=True
    ):
        _lines(ax, figures[key], "f1")
        ax.set(xlabel=label, ylabel="F1", title="all images")
    axes[1].legend(title="e/Å²", fontsize=7, title_fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def _columns(axes: list[Axes], figures: dict[str, Any]) -> None:
    """Recall against height, F1 against the distance to the support, positions by place; usable images."""
    _lines(axes[0], figures["by_height"], "recall")
    axes[0].set(xlabel="atoms in the column", ylabel="recall", title="usable images")
    axes[0].legend(title="e/Å²", fontsize=7, title_fontsize=7)
    _lines(axes[1], figures["by_support_nm"], "f1")
    axes[1].set(xlabel="distance to the support / nm", ylabel="F1", title="usable images")
    for place in dict.fromkeys(_of(figures["by_place"], "group")):
        rows = [row for row in figures["by_place"] if row["group"] == place]
        axes[2].plot(_of(rows, "dose_e_angstrom2"), _of(rows, "rms_pm"), "o-", label=place)
    axes[2].set(xscale="log", xlabel="dose / e Å⁻²", ylabel="rms position / pm", title="usable images")
    if any(
        row["rms_pm"] for row in figures["by_place"]
    ):  # something was found: a logarithm has a place to be
        axes[2].set_yscale("log")
        axes[2].yaxis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(2, 0.5)))
    axes[2].grid(alpha=0.3, which="both")
    axes[2].legend(fontsize=8)


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
