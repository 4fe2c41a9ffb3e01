"""hopscope evaluate: an engine's figures on the validation set, as Markdown, JSON and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.manifest import EngineMismatch, Manifest
from training import figures
from training.evaluate import CANDIDATE
from training.measure import Measured, Reader, Reading, measure
from training.pictures import draw_pictures
from training.recipe import Recipe
from training.report_text import markdown
from training.shots import DRAWS, LEAST_AGREEMENT, MOST_SMEAR, Subjects, shoot
from training.timing import time_per_frame

LOG_IMAGES = 24  # of all images, and of the usable ones, that the tuned LoG reads


def evaluate_engine(
    recipe: Recipe,
    subjects: Subjects,
    readers: Mapping[str, Reader],
    manifests: Mapping[str, Manifest],
    out: Path,
    *,
    draws: int = DRAWS,
    doses_e_angstrom2: Sequence[float] | None = None,
    log_images: int = LOG_IMAGES,
    on_shot: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Measure engines on a recipe's validation specimens and write report.md, report.json and pictures into `out`.

    Parameters
    ----------
    readers, manifests : by the engine's name; the first is the one evaluated, the others are set beside it.
    draws : sets of conditions per specimen.
    doses_e_angstrom2 : None for the recipe's, and ten times their highest.
    log_images : of all images, and of the usable ones, that the tuned LoG reads.

    Returns
    -------
    The report, as in report.json.

    Raises
    ------
    EngineMismatch
        If an engine does not read as many images at once as the recipe has in a stack.
    """
    check_stacks(recipe, manifests)
    waves, facts = subjects
    name, *others = readers
    kind, doses = recipe.validation_specimen.kind, recipe.data.doses_e_angstrom2
    taken = doses_e_angstrom2 or (10 * max(doses), *doses)
    measured = measure(shoot(recipe, waves, facts, range(draws), taken), readers, log_images, on_shot)
    usable = np.flatnonzero(measured.images["usable"])
    manifest = manifests[name]
    report = {
        "engine": name,
        "sha256": manifest.sha256,
        "precision": manifest.precision,
        "threshold": readers[name].threshold,
        "recipe": recipe.name,
        "kind": kind,
        "specimens": len(waves),
        "draws": draws,
        "focal_series_nm": [defocus / 10 for defocus in recipe.imaging.focal_series_angstrom],
        "candidates_above": CANDIDATE,
        "shown_doses": list(doses[1::2]),
        "usable_if": {
            "least_transfer": recipe.imaging.usable_transfer,
            "over_spacings_nm": [spacing / 10 for spacing in recipe.imaging.spacings_angstrom],
            "most_smear": MOST_SMEAR,
            "least_agreement": LEAST_AGREEMENT,
        },
        "sets": {
            "all": _set(measured, kind, name, others, np.arange(len(measured.images))),
            "usable": _set(measured, kind, name, others, usable),
        },
        "time": time_per_frame(
            readers, {key: m.nominal_nm_px for key, m in manifests.items()}, recipe.input_channels
        ),
    }
    report = write_report(report, markdown, out)
    draw_pictures(report, out)
    return report


def check_stacks(recipe: Recipe, manifests: Mapping[str, Manifest]) -> None:
    """Raise EngineMismatch where an engine does not read as many images at once as the recipe has in a stack."""
    for one in manifests.values():
        if one.input_channels != recipe.input_channels:
            raise EngineMismatch(
                f"engine {one.name} cannot be shown the images of {recipe.name}: expected it to read "
                f"{recipe.input_channels} at once (imaging.focal_series_angstrom), got {one.input_channels}; give the "
                "recipe it was trained by"
            )


def _set(measured: Measured, kind: str, name: str, others: list[str], chosen: np.ndarray) -> dict[str, Any]:
    """All figures of some of the images (numbers); a sheet has neither tilt nor heights nor a support."""
    reading = measured.readings[name]
    doses = figures.doses_of(reading)
    by_dose = {f"{dose:g}": figures.calibration(reading, chosen, dose) for dose in doses}
    return {
        "images": len(chosen),
        "specimens": len(np.unique(measured.images["specimen"][chosen])),
        "by_dose": figures.by_dose(measured, reading, chosen, kind),
        "against": {
            other: figures.by_dose(measured, measured.readings[other], chosen, kind) for other in others
        },
        "by_defocus_nm": figures.by_image(measured, reading, chosen, "defocus_nm", figures.DEFOCUS_NM),
        **(_of_particles(measured, reading, chosen) if kind == "particle" else {}),
        "by_place": figures.by_place(reading, chosen, kind),
        "calibration": {"all": figures.calibration(reading, chosen), **by_dose},
    }


def _of_particles(measured: Measured, reading: Reading, chosen: np.ndarray) -> dict[str, Any]:
    return {
        "by_tilt_deg": figures.by_image(measured, reading, chosen, "tilt_deg", figures.TILT_DEG),
        "by_height": figures.by_height(reading, chosen),
        "by_support_nm": figures.by_support(reading, chosen),
    }


def write_report(
    report: dict[str, Any], markdown: Callable[[dict[str, Any]], str], out: Path
) -> dict[str, Any]:
    """Write report.md and report.json into `out`; returns the report with NaN as None, as JSON has it."""
    report = _without_nan(report)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(markdown(report), encoding="utf-8")
    (out / "report.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return report


def _without_nan(value: Any) -> Any:
    """Numbers that are none as None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
