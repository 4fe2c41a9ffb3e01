"""hopscope evaluate for STEM engines: figures by dose, spacing, lattice and class, as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engines.manifest import Manifest
from training.baseline import tuned_log
from training.evaluate import VALIDATION, Score, judge_columns, pair
from training.measure import Reader
from training.recipe import Recipe
from training.report import check_stacks, write_report
from training.stem import StemScene
from training.stem_images import resampled, truth_of
from training.timing import time_per_frame

LOG_IMAGES = 24  # that the tuned LoG reads
SPACINGS_PX = (8.0, 10.5, 14.0, 18.5, 24.0)
_HEAD = ("e/Å²", "F1", "precision", "recall", "rms / pm", "class", "first images: F1", "LoG: F1")
Row = dict[str, Any]


def evaluate_stem_engine(
    recipe: Recipe,
    scenes: list[StemScene],
    readers: Mapping[str, Reader],
    manifests: Mapping[str, Manifest],
    out: Path,
    *,
    log_images: int = LOG_IMAGES,
    on_shot: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure engines on a recipe's validation scenes and write report.md and report.json into `out`.

    Parameters
    ----------
    readers, manifests : by the engine's name; the first is the one evaluated, the others are set beside it.
    log_images : of the scenes, those that a Laplacian of Gaussian tuned on each image reads, too.

    Returns
    -------
    The report, as in report.json.

    Raises
    ------
    EngineMismatch
        If an engine is for stacks of images.
    """
    check_stacks(recipe, manifests)
    name, *others = readers
    doses, classes = recipe.data.doses_e_angstrom2, len(recipe.classes)
    scores: dict[tuple[str, float], list[Score]] = {(r, d): [] for r in (*readers, "log") for d in doses}
    confusion = {
        dose: np.zeros((classes, classes + 1), np.int64) for dose in doses
    }  # true, reported (0: missed)
    for n, scene in enumerate(scenes):
        truth = truth_of(scene, recipe)
        for dose in doses:
            image = resampled(scene, recipe, [VALIDATION, n, int(dose)], dose)
            for reader_name, reader in readers.items():
                finder = reader.finder(image.shape, recipe.engine.nominal_nm_px, reader.threshold)
                columns, seen = finder.find(image)
                scores[reader_name, dose].append(judge_columns(columns, truth, reader.threshold))
                if reader_name == name:
                    i, j, _ = pair(columns.yx_px.astype(np.float64), truth)
                    reported = np.zeros(len(truth.yx_px), np.int64)
                    reported[j] = columns.kind[i]
                    np.add.at(confusion[dose], (truth.classes[truth.judged] - 1, reported[truth.judged]), 1)
                    if n < log_images:
                        scores["log", dose].append(tuned_log(seen, truth))
        on_shot()
    of_lattice = {
        lattice: [s.name == lattice for s in scenes] for lattice in sorted({s.name for s in scenes})
    }
    of_spacing = {
        f"{low:g} to {high:g}": [low <= scene.spacing_px < high for scene in scenes]
        for low, high in pairwise(SPACINGS_PX)
    }
    mine = {dose: scores[name, dose] for dose in doses}
    report = {
        "engine": name,
        "sha256": manifests[name].sha256,
        "precision": manifests[name].precision,
        "threshold": readers[name].threshold,
        "recipe": recipe.name,
        "images": len(scenes),
        "classes": list(recipe.classes),
        "trained_on": sorted(set(recipe.lattice.names)),
        "log_images": min(log_images, len(scenes)),
        "by_dose": [
            {
                **_figures(dose, mine[dose]),
                "first_images_f1": _total(mine[dose][:log_images]).f1,
                "log_f1": _total(scores["log", dose]).f1,
                "against": {other: _total(scores[other, dose]).f1 for other in others},
            }
            for dose in doses
        ],
        "by_spacing_px": [] if recipe.lattice.true_scale else _grouped(mine, of_spacing),
        "by_lattice": _grouped(mine, of_lattice),
        "confusion": {f"{dose:g}": counts.tolist() for dose, counts in confusion.items()},
        "time": time_per_frame(readers, {key: m.nominal_nm_px for key, m in manifests.items()}),
    }
    return write_report(report, lambda said: "\n".join(_markdown(said)) + "\n", out)


def _total(scores: Iterable[Score]) -> Score:
    return sum(scores, Score())


def _figures(dose: float, scores: Iterable[Score]) -> Row:
    score = _total(scores)
    return {"dose_e_angstrom2": dose, **score.figures(), "class_accuracy": score.class_accuracy}


def _grouped(by_dose: dict[float, list[Score]], groups: dict[str, list[bool]]) -> list[Row]:
    """A row for every group of images and every dose."""
    return [
        {"group": group, **_figures(dose, [s for s, inside in zip(scores, mask, strict=True) if inside])}
        for group, mask in groups.items()
        if any(mask)
        for dose, scores in by_dose.items()
    ]


def _markdown(report: dict[str, Any]) -> Iterable[str]:
    several = len(report["classes"]) > 1
    yield f"# {report['engine']} ({report['precision']}), sha256 {report['sha256'][:12]}"
    yield ""
    yield (
        f"{report['images']} simulated images of the validation set of `{report['recipe']}`, each at every dose. "
        f"Trained on: {', '.join(report['trained_on'])}; lattices, dopants or seeds of the validation set are "
        "others. A column is found within half the median distance of nearest columns, whatever its class; class: "
        "share of those found that are reported as what they are. Columns too faint for the recipe's `least_contrast` "
        "count neither way. "
        f"LoG: a Laplacian of Gaussian tuned on each of the first {report['log_images']} images knowing the truth; "
        "beside it the engine on the same images."
    )
    yield ""
    yield from _table(
        [*_HEAD, *report["by_dose"][0]["against"]],
        [
            [
                f"{row['dose_e_angstrom2']:g}",
                *(_cell(row[key]) for key in ("f1", "precision", "recall")),
                _cell(row["rms_pm"], 1),
                _cell(row["class_accuracy"]) if several else "-",
                _cell(row["first_images_f1"]),
                _cell(row["log_f1"]),
                *map(_cell, row["against"].values()),
            ]
            for row in report["by_dose"]
        ],
    )
    doses = [f"{row['dose_e_angstrom2']:g}" for row in report["by_dose"]]
    keys = [("F1", "f1"), *([("class accuracy", "class_accuracy")] if several else [])]
    for title, rows in (
        ("spacing / px of the engine", report["by_spacing_px"]),
        ("lattice", report["by_lattice"]),
    ):
        for label, key in keys if rows else ():
            yield from ("", f"## {label} by {title} and dose in e/Å²", "")
            groups = dict.fromkeys(row["group"] for row in rows)
            lines = [[group, *(_cell(row[key]) for row in rows if row["group"] == group)] for group in groups]
            yield from _table([title, *doses], lines)
    if several:
        for dose, counts in report["confusion"].items():
            yield from ("", f"## Reported as, at {dose} e/Å² (rows: what it is)", "")
            lines = [
                [truth, *map(str, row[1:]), str(row[0])]
                for truth, row in zip(report["classes"], counts, strict=True)
            ]
            yield from _table(["", *report["classes"], "missed"], lines)
    time = report["time"]
    yield from ("", f"## Time per frame of {time['side_px']}² ({time['processor']})", "")
    yield from _table(
        ["engine", "whole / ms", "network / ms"],
        [[e, _cell(t["whole_ms"], 1), _cell(t["network_ms"], 1)] for e, t in time["engines"].items()],
    )


def _table(head: list[str], rows: list[list[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _cell(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
