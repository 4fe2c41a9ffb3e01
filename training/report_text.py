"""The evaluation report in words and tables (Markdown)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.facts import PLACES
from training.measure import WHERE

Row = dict[str, Any]
# How a report speaks of a kind of specimen: what counts, what does not, and where a false column lies.
_COUNTS = {
    "particle": "Columns of two atoms or more count",
    "sheet": "Atoms count, but for those that contamination of more than 0.5 nm hides",
}
_NOT_JUDGED = {"particle": "single atoms", "sheet": "atoms under contamination"}
_WHERE = {
    "particle": "at the particle (within one column distance of a column), on the support (within 0.2 nm of one of its "
    "atoms, seen along the beam), in vacuum",
    "sheet": "at the sheet (within one bond of an atom), on contamination beside it, in vacuum",
}
_DISPLACED = (
    " Displacement seen: of how far a column or atom lies from the middle of its neighbours (three pairs across it or "
    "more; in a sheet three around it), the share that is reported, by least squares; 1 is right, less draws columns "
    "onto their lattice."
)
_PLACES = {
    "particle": "Bulk: all neighbouring columns are there (within 1.5 column distances 8 for <100>, 6 for <110> and "
    "<111>); corner: half of them or fewer; surface: in between.",
    "sheet": "Edge: a bond is missing; boundary: one of its rings is not a hexagon; ideal: all others.",
}


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown; pictures lie beside it."""
    return "\n".join([*_head(report), *_by_dose(report), *_conditions(report), *_rest(report)]) + "\n"


def _head(report: dict[str, Any]) -> Iterator[str]:
    limits, sets = report["usable_if"], report["sets"]
    every, usable, kind = sets["all"], sets["usable"], report["kind"]
    finest, coarsest = limits["over_spacings_nm"]
    yield f"# {report['engine']}: evaluation"
    yield ""
    yield (
        f"{report['precision']}, sha256 {report['sha256'][:16]}…, at its threshold {report['threshold']:g}; run as it "
        f"runs live (resampling, normalization, network, columns). Recipe {report['recipe']}: "
        f"{report['specimens']} validation specimens that no training has seen, each under {report['draws']} sets of "
        f"imaging conditions, {every['images']} images, each at every dose."
    )
    if len(series := report["focal_series_nm"]) > 1:
        yield ""
        yield (
            f"An image here is a stack of {len(series)}, at {', '.join(f'{nm:g}' for nm in series)} nm of defocus from "
            "the first. Each has the dose; conditions are the first one's, and the LoG reads that alone."
        )
    yield ""
    yield "**all**: images under every condition that the recipe draws from."
    smear = (
        f"; the tallest column's length × tan(tilt), its smear, is at most {limits['most_smear']:g} of the distance "
        "between neighbouring columns"
    )
    yield (
        f"**usable**: {usable['images']} of them ({usable['specimens']} specimens), in which "
        f"the weakest contrast transfer |T| over the spacings {finest:g} to {coarsest:g} nm is at least "
        f"{limits['least_transfer']:g} (1 is perfect, 0 a reversal){smear if kind == 'particle' else ''}; and at least "
        f"{100 * limits['least_agreement']:g} % of the columns show one sign of contrast before noise "
        "(a blob of 0.045 nm against one of 0.1 nm)."
    )
    yield ""
    yield (
        f"{_COUNTS[kind]}; reports are matched to columns one to one within half the median "
        "distance of nearest columns. What is paired with a column centred just beyond the border is not false. "
        f"Others ({_NOT_JUDGED[kind]}) count neither as found nor as missed nor as "
        "false, and have a recall of their own. rms: the distance from the true position, over both axes together. "
        "Brackets: 95 % interval of F1, specimens drawn again (bootstrap). "
        f"False columns per image: {_WHERE[kind]}. LoG: a "
        "Laplacian of Gaussian whose scale, sign and threshold are tuned on each image against the truth; it is slow "
        "and reads fewer images, and the engine's F1 on those is beside it." + _DISPLACED
    )


def _by_dose(report: dict[str, Any]) -> Iterator[str]:
    kind = report["kind"]
    false = "false: " + " | ".join(WHERE[kind])
    yield ""
    yield "## By dose"
    for name, figures in report["sets"].items():
        yield ""
        yield f"**{name}**, {figures['images']} images"
        yield ""
        yield from _table(
            f"e/Å² | F1 | precision | recall | rms / pm | {PLACES[kind][0]}: recall | rms / pm "
            f"| displacement seen | {_NOT_JUDGED[kind]}: recall | rms / pm | {false} | LoG: F1 | rms / pm | images "
            "| engine there",
            (
                [
                    f"{row['dose_e_angstrom2']:g}",
                    f"{_share(row['f1'])} [{_share(row['f1_low'])}, {_share(row['f1_high'])}]",
                    _share(row["precision"]),
                    _share(row["recall"]),
                    _pm(row["rms_pm"]),
                    *_recall(row[PLACES[kind][0]]),
                    _share(row["displacement_seen"]),
                    *_recall(row["not_judged"]),
                    *(f"{count:.2f}" for count in row["false_per_image"].values()),
                    *_log(row["log"]),
                ]
                for row in figures["by_dose"]
            ),
        )
        for other, rows in figures["against"].items():
            yield ""
            yield f"{other} on the same images:"
            yield ""
            yield from _table(
                f"e/Å² | F1 | precision | recall | rms / pm | {false}",
                (
                    [
                        f"{row['dose_e_angstrom2']:g}",
                        f"{_share(row['f1'])} [{_share(row['f1_low'])}, {_share(row['f1_high'])}]",
                        _share(row["precision"]),
                        _share(row["recall"]),
                        _pm(row["rms_pm"]),
                        *(f"{count:.2f}" for count in row["false_per_image"].values()),
                    ]
                    for row in rows
                ),
            )
    yield ""
    yield "![F1 against dose](dose.png)"


def _conditions(report: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## By condition"
    yield ""
    shown = report["shown_doses"]
    at_doses = f"At {' and '.join(f'{dose:g}' for dose in shown)} e/Å²"
    both, recall = ("f1", "precision", "recall"), ("recall",)
    yield f"{at_doses}; report.json has every dose."
    for key, title in (("by_defocus_nm", "defocus / nm"), ("by_tilt_deg", "tilt / °")):
        yield from _grouped(report, key, title, "images", both)
    yield ""
    yield "![F1 against the conditions](conditions.png)"
    yield ""
    yield "## By column"
    yield ""
    yield (
        f"{at_doses}. What is false has no height: no precision there. {_PLACES[report['kind']]} What is false within "
        "one column distance of a column has that one's place; the rest has none."
    )
    yield from _grouped(report, "by_height", "atoms in the column", "columns", recall)
    yield from _grouped(report, "by_place", "place", "columns", both)
    yield from _grouped(report, "by_support_nm", "distance to the support / nm", "columns", both)
    yield ""
    yield "![Recall, F1 and positions of groups of columns](columns.png)"


def _rest(report: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Calibration of the scores"
    yield ""
    yield (
        f"Of the maxima above {report['candidates_above']:g}, how many are columns, in ten bins of the score; the "
        "expected calibration error is the mean over maxima of |score - share of columns| in their bin."
    )
    yield ""
    doses = list(report["sets"]["all"]["calibration"])
    yield from _table(
        "e/Å² | " + " | ".join(doses),
        (
            [
                name,
                *(_share(figures["calibration"][dose]["expected_calibration_error"]) for dose in doses),
            ]
            for name, figures in report["sets"].items()
        ),
    )
    yield ""
    yield "![Reliability diagrams](calibration.png)"
    time = report["time"]
    yield ""
    yield "## Time"
    yield ""
    yield (
        f"A frame of {time['side_px']}², {time['processor']}, medians of one run in which all take turns. Reference: "
        f"{time['reference']}, {time['reference_ms']:.0f} ms."
    )
    yield ""
    yield from _table(
        "engine | whole / ms | network / ms | reference / network",
        (
            [
                name,
                f"{row['whole_ms']:.2f}",
                f"{row['network_ms']:.2f}",
                f"{row['reference_per_network']:.0f}",
            ]
            for name, row in time["engines"].items()
        ),
    )


def _grouped(
    report: dict[str, Any], key: str, title: str, count: str, shares: tuple[str, ...]
) -> Iterator[str]:
    """For each set a table of the figures under a key, none where the kind of specimen has no such figures."""
    for name, figures in report["sets"].items():
        if key in figures:
            yield from _groups(f"{title}, {name}", figures[key], count, shares, report["shown_doses"])


def _groups(
    title: str, rows: list[Row], count: str, shares: tuple[str, ...], shown_doses: list[float]
) -> Iterator[str]:
    """A table with a line for each group, and columns for each of the doses shown."""
    doses = [dose for dose in shown_doses if any(row["dose_e_angstrom2"] == dose for row in rows)]
    titles = [f"{share}, {dose:g}" for dose in doses for share in (*shares, "rms / pm")]
    yield ""
    lines = []
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = {row["dose_e_angstrom2"]: row for row in rows if row["group"] == group}
        line = [group, str(next(iter(mine.values()))[count])]
        for dose in doses:
            line += [*(_share(mine[dose][share]) for share in shares), _pm(mine[dose]["rms_pm"])]
        lines.append(line)
    yield from _table(f"{title} | {count} | " + " | ".join(titles), lines)


def _table(header: str, lines: Any) -> Iterator[str]:
    yield f"| {header} |"
    yield "| " + " | ".join("---" for _ in header.split(" | ")) + " |"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def _recall(row: Row) -> list[str]:
    return [_share(row["recall"]), _pm(row["rms_pm"])]


def _log(row: Row | None) -> list[str]:
    if row is None:
        return ["-"] * 4
    return [_share(row["f1"]), _pm(row["rms_pm"]), str(row["images"]), _share(row["engine_f1"])]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _pm(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
