"""Rates and comparisons for people and for programs: tables on the terminal, JSON, CSV."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stream.compare import UNITS, compare
from stream.diffusion import Diffusion, diffusion
from stream.facets import INSIDE
from stream.frame import RecordingError
from stream.rates import By, Per, RateRow, dwell_summary, fast_sites, rate_rows, session_facets, survival_rows
from stream.session import read_session
from stream.switches import whole, within

_MOST_ROWS = _MOST_GROUPS = 25  # of a table on the terminal
_SEED = 1  # of the bootstrap: the same file gives the same intervals
_PER = {"s": "s", "e": "(e/nm²)"}
_FROM = {
    "likelihood": "From the likelihood: switches expected given all frames.",
    "events": "From events: the file does not hold what every frame says. missed: at most this share of the events "
    "falls between frames.",
}
_FAST = {
    "likelihood": "more than every second frame would show a switch",
    "events": "more than one event in ten may fall between frames",
}
_GROUP = {"all": "", "site": "site", "facet": "facet", "coordination": "neighbours"}


def rates_report(result: Path, by: By, per: Per, survival: bool = False) -> dict[str, Any]:
    """All that `hopscope rates` tells, as plain values; with `survival`, the curves of the dwells, too.

    Raises
    ------
    FileNotFoundError, RecordingError
        As `read_session`.
    CalibrationError
        Per electron dose without a dose rate.
    """
    session = read_session(result)
    part = whole(session)
    rng = np.random.default_rng(_SEED)
    dose_rate = session.header.dose_rate_e_nm2_s
    lasted_s = (session.t_ns[-1] - session.t_ns[0]) * 1e-9 + session.period_s
    facets = session_facets(session)
    return {
        "file": str(result),
        "frames": len(session.t_ns),
        "seconds": float(lasted_s),
        "dose_e_nm2": float(lasted_s * dose_rate) if dose_rate else None,
        "by": by,
        "per": per,
        "from": part.source,
        "rates": [_told(row) for row in rate_rows(part, by, per, rng)],
        "dwells": dwell_summary(part),
        **({"survival": survival_rows(part)} if survival else {}),
        "diffusion": {
            "all columns": _diffusion(diffusion(session, part.dwells, rng)),
            "surface columns": _diffusion(diffusion(session, part.dwells, rng, facets.facet != INSIDE)),
        },
        "sites": len(session.sites),
        "frame_period_s": session.period_s,
        "fast_sites": fast_sites(part),
    }


def compare_report(
    first: Path, second: Path | None, ranges: tuple[str | None, str | None], by: By, per: Per = "s"
) -> dict[str, Any]:
    """All that `hopscope compare` tells: of two files, or of two ranges of time of one.

    Parameters
    ----------
    ranges : "begin:end" in s after the first frame, either end may be left out; None for all of it.

    Raises
    ------
    RecordingError
        As `read_session`; for ranges that cannot be read, overlap in one file, or hold nothing.
    CalibrationError
        Per electron dose without a dose rate.
    """
    sessions = [read_session(first)]
    sessions.append(sessions[0] if second is None else read_session(second))
    spans = [_range(text) for text in ranges]
    if second is None:
        (_, end), (begin, _) = sorted(spans)
        if None in ranges or begin < end:
            raise RecordingError(
                f"one file is compared with itself in two ranges of time that do not overlap, got {ranges[0]} and "
                f"{ranges[1]}: give --first 0:10 --second 10: (s), or a second file"
            )
    parts = [within(session, *span) for session, span in zip(sessions, spans, strict=True)]
    rows, dwells = compare(parts[0], parts[1], by, np.random.default_rng(_SEED), per)
    names = [f"{p}{f' {r} s' if r else ''}" for p, r in zip((first, second or first), ranges, strict=True)]
    source = "likelihood" if all(part.source == "likelihood" for part in parts) else "events"
    told = {"first": names[0], "second": names[1], "by": by, "per": per, "from": source}
    return {**told, "rates": rows, "dwells": dwells}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as CSV; a pair of values becomes two columns."""
    flat = [_flat(row) for row in rows]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(flat[0]) if flat else [])
        writer.writeheader()
        writer.writerows(flat)


def plain(value: Any) -> Any:
    """The same for JSON, which knows neither inf nor NaN: they become null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_rates(report: dict[str, Any], console: Console) -> None:
    """The report as tables."""
    per = _PER[report["per"]]
    dose = report["dose_e_nm2"]
    console.print(
        f"{report['file']}: {report['frames']} frames seen in {report['seconds']:.4g} s"
        + (f", {dose:.3g} e/nm²" if dose else ""),
        highlight=False,
    )
    title = "Rates" if report["by"] == "all" else f"Rates by {report['by']}"
    names = (_GROUP[report["by"]], "kind", "sites", "events", f"per {per}", "95 %", "missed")
    table = _table(title, names, left=2)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in report["rates"]:
        groups.setdefault(row["group"], []).append(row)
    shown = list(groups.values())
    if len(shown) > _MOST_GROUPS:
        shown = sorted(shown, key=lambda rows: -rows[0]["events"])[:_MOST_GROUPS]
    for rows in shown:
        # all switches of single sites; of classes, what goes away, hops and comes
        told = [row for row in rows if (row["kind"] == "event") == (report["by"] == "site")]
        for k, row in enumerate(told):
            bound = "≥ " if row["fast"] else ""
            share = (
                f"≤ {row['missed_share']:.0%}" if row["from"] == "events" else "fast" if row["fast"] else "-"
            )
            table.add_row(
                "" if k else row["group"],
                row["kind"],
                str(row["sites"]),
                f"{row['events']:.0f}",
                f"[red]{bound}{_number(row['rate'])}[/]" if bound else _number(row["rate"]),
                _span(row["low"], row["high"]) + (" ᴳ" if row["interval"] == "Garwood" else "  "),
                "" if k else share,
            )
    left = f"The {len(shown)} busiest of {len(groups)}; --csv has all. " if len(shown) < len(groups) else ""
    table.caption = (
        f"{left}Arrivals per time empty, departures and hops per time occupied, all events per time observed. "
        f"{_FROM[report['from']]} Intervals: bootstrap over sites; with ᴳ, Garwood's (few sites or events)."
    )
    console.print(table)
    if report["fast_sites"] or any(row["fast"] for row in report["rates"]):
        console.print(_fast_line(report), style="red", highlight=False)
    console.print(_dwell_table(report["dwells"]))
    for name, found in report["diffusion"].items():
        if found["hops"]:
            console.print(_diffusion_line(name, found), highlight=False)


def show_comparison(report: dict[str, Any], console: Console) -> None:
    """The report as tables."""
    console.print(f"first   {report['first']}\nsecond  {report['second']}", highlight=False)
    names = (_GROUP[report["by"]], "kind", "events", "ratio", "95 %", "test", "p", "adjusted")
    title = "Rates" if report["per"] == "s" else f"Rates per {_PER['e']}"
    table = _table(f"{title}: second over first", names, left=2)
    rows = [row for row in report["rates"] if (row["kind"] == "event") == (report["by"] == "site")]
    rows = [row for row in rows if any(row["events"])]
    if len(rows) > _MOST_ROWS:
        rows = sorted(rows, key=lambda row: row["p_value"])[:_MOST_ROWS]
    for row in rows:
        adjusted = f"{row['p_adjusted']:.2g}"
        ends = "sites" if row["test"] == "sites" else "ratio"
        table.add_row(
            row["group"],
            row["kind"],
            " → ".join(f"{n:.0f}" for n in row["events"]),
            _number(row["ratio"], 2),
            _span(row[f"{ends}_low"], row[f"{ends}_high"]),
            row["test"],
            f"{row['p_value']:.2g}",
            f"[bold]{adjusted}[/]" if row["p_adjusted"] < 0.05 else adjusted,
        )
    table.caption = (
        "sites: interval and p from a bootstrap over sites, which differ. Poisson: too few sites or events for that; "
        "exact if sites share one rate. adjusted: p after Benjamini and Hochberg, over all classes. "
        f"From {report['from']}."
    )
    console.print(table)
    median = UNITS[report["per"]][2]
    unit = "s" if report["per"] == "s" else "e/nm²"
    names = ("state", "dwells", "ended", f"median, {unit}", "ratio", "95 %", "p")
    table = _table("Dwell times: hazard ratio, log-rank test by sites", names, left=1)
    for row in report["dwells"]:
        table.add_row(
            row["state"],
            " → ".join(str(n) for n in row["dwells"]),
            " → ".join(str(n) for n in row["ended"]),
            " → ".join(_number(value) for value in row[median]),
            _number(row["hazard_ratio"]),
            _span(row["hazard_low"], row["hazard_high"]),
            f"{row['p_value']:.2g}",
        )
    console.print(table)


def _fast_line(report: dict[str, Any]) -> str:
    return (
        f"Lower bounds: {report['fast_sites']} of {report['sites']} sites switch too fast for frames of "
        f"{report['frame_period_s']:.3g} s ({_FAST[report['from']]}). Their own rates are too low, and so are those "
        "marked ≥, whatever their intervals say; shorter frames would tell.\n"
    )


def _dwell_table(rows: list[dict[str, Any]]) -> Table:
    names = ("state", "dwells", "no beginning", "no end", "median", "mean")
    table = _table("Dwell times, s", names, left=1)
    for row in rows:
        table.add_row(
            row["state"],
            *(str(row[name]) for name in ("dwells", "beginning_unseen", "end_unseen")),
            f"{_number(row['median_s'])} ({_span(row['median_low_s'], row['median_high_s'])})",
            f"{_number(row['exponential_mean_s'])} ({_span(row['exponential_low_s'], row['exponential_high_s'])})",
        )
    table.caption = (
        "The median is Kaplan-Meier's, of dwells as events tell them whose beginning was seen; the mean is of all "
        "switches and all time, if all ended at one rate. A mean far above the median / ln 2 says that sites differ."
    )
    return table


def _told(row: RateRow) -> dict[str, Any]:
    return {"from" if name == "source" else name: value for name, value in asdict(row).items()}


def _table(title: str, names: tuple[str, ...], left: int) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    for k, name in enumerate(names):
        table.add_column(name, justify="left" if k < left else "right", no_wrap=True)
    return table


def _diffusion(found: Diffusion) -> dict[str, Any]:
    values = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in asdict(found).items()
    }
    return {**values, "msd_nm2_s": found.msd_nm2_s.tolist(), "correlation": found.correlation}


def _diffusion_line(name: str, found: dict[str, Any]) -> str:
    interval = f"{_span(found['low_nm2_s'], found['high_nm2_s'])}, {found['interval']}"
    line = (
        f"Diffusion of {name}: {found['jump_nm2_s']:.3g} nm²/s ({interval}) "
        f"from {found['hops']} hops of {found['hop_nm']:.3g} nm"
    )
    if found["lag_s"]:
        line += f"; {found['msd_nm2_s'][-1]:.3g} nm²/s from the displacement over {found['lag_s'][-1]:.3g} s"
    return line


def _span(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{_number(low, 2)}–{_number(high, 2)}"


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.{digits}g}"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, list):
            flat |= {f"{key}_first": value[0], f"{key}_second": value[1]}
        else:
            flat[key] = value
    return flat


def _range(text: str | None) -> tuple[float, float]:
    if text is None:
        return 0.0, math.inf
    begin, colon, end = text.partition(":")
    try:
        span = float(begin or 0), float(end or math.inf)
    except ValueError:
        colon = ""
        span = (0.0, 0.0)
    if not colon or not span[0] < span[1]:
        raise RecordingError(f"{text!r} is no range of time: expected begin:end in s, like 0:10 or 10:")
    return span
