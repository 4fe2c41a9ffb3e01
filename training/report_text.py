"""The evaluation report in words and tables (Markdown)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
_SHOWN_DOSES = (310.0, 30.0)  # of the tables by condition; report.json holds them at all doses


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown; pictures lie beside it."""
    return "\n".join([*_head(report), *_by_dose(report), *_conditions(report), *_rest(report)]) + "\n"


def _head(report: dict[str, Any]) -> Iterator[str]:
    limits, sets = report["usable_if"], report["sets"]
    every, usable = sets["all"], sets["usable"]
    yield f"# {report['engine']}: evaluation"
    yield ""
    yield (
        f"{report['precision']}, sha256 {report['sha256'][:16]}…, at its threshold {report['threshold']:g}; run as it "
        f"runs live (resampling, normalization, network, columns). Recipe {report['recipe']}: "
        f"{report['specimens']} validation specimens that no training has seen, each under {report['draws']} sets of "
        f"imaging conditions, {every['images']} images, each at every dose."
    )
    yield ""
    yield "**all**: the images as training draws them, conditions included."
    yield (
        f"**usable**: {usable['images']} of them ({usable['specimens']} specimens), which meet all three: "
        f"the weakest contrast transfer |T| over the spacings 0.14 to 0.25 nm is at least {limits['least_transfer']:g} "
        "(1 is perfect, 0 a reversal); the tallest column's length × tan(tilt), its smear, is at most "
        f"{limits['most_smear']:g} of the distance between neighbouring columns; and at least "
        f"{100 * limits['least_agreement']:g} % of the columns show one sign of contrast before noise."
    )
    yield ""
    yield (
        "Columns of two atoms or more count; reports are matched to columns one to one within half the median "
        "distance of nearest columns. Single atoms count neither as found nor as missed nor as false, and have columns "
        "of their own. rms: the distance from the true position, over both axes together. Brackets: 95 % interval of "
        "F1, specimens drawn again (bootstrap). False columns per image: at the particle (within one column distance "
        "of a column), on the support (within 0.2 nm of one of its atoms, seen along the beam), in vacuum. LoG: a "
        "Laplacian of Gaussian whose scale, sign and threshold are tuned on each image against the truth; it is slow "
        "and reads fewer images, and the engine's F1 on those is beside it."
    )


def _by_dose(report: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## By dose"
    for name, figures in report["sets"].items():
        yield ""
        yield f"**{name}**, {figures['images']} images"
        yield ""
        yield from _table(
            "e/Å² | F1 | precision | recall | rms / pm | bulk: recall | rms / pm | single atoms: recall | rms / pm "
            "| false: particle | support | vacuum | LoG: F1 | rms / pm | images | engine there",
            (
                [
                    f"{row['dose_e_angstrom2']:g}",
                    f"{_share(row['f1'])} [{_share(row['f1_low'])}, {_share(row['f1_high'])}]",
                    _share(row["precision"]),
                    _share(row["recall"]),
                    _pm(row["rms_pm"]),
                    *_recall(row["bulk"]),
                    *_recall(row["single_atoms"]),
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
                "e/Å² | F1 | precision | recall | rms / pm | false: particle | support | vacuum",
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
    yield f"At {_doses()} e/Å²; report.json has every dose."
    for key, title in (("by_defocus_nm", "defocus / nm"), ("by_tilt_deg", "tilt / °")):
        for name, figures in report["sets"].items():
            yield from _grouped(f"{title}, {name}", figures[key], "images", ("f1", "precision", "recall"))
    yield ""
    yield "![F1 against defocus and tilt](conditions.png)"
    yield ""
    yield "## By column"
    yield ""
    yield (
        f"At {_doses()} e/Å². What is false has neither height nor neighbours: no precision there. Bulk: all "
        "neighbouring columns are there (within 1.5 column distances 8 for <100>, 6 for <110> and <111>); corner: half "
        "of them or fewer; surface: in between."
    )
    for name, figures in report["sets"].items():
        yield from _grouped(f"atoms in the column, {name}", figures["by_height"], "columns", ("recall",))
        yield from _grouped(f"place, {name}", figures["by_place"], "columns", ("recall",))
        yield from _grouped(
            f"distance to the support / nm, {name}",
            figures["by_support_nm"],
            "columns",
            ("f1", "precision", "recall"),
        )
    yield ""
    yield "![Recall against height, F1 against support, positions by place](columns.png)"


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


def _grouped(title: str, rows: list[Row], count: str, shares: tuple[str, ...]) -> Iterator[str]:
    """A table with a line for each group, and columns for each of the doses shown."""
    doses = [dose for dose in _SHOWN_DOSES if any(row["dose_e_angstrom2"] == dose for row in rows)]
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


def _doses() -> str:
    return " and ".join(f"{dose:g}" for dose in _SHOWN_DOSES)


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
