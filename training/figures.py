"""From tables of what was found to figures: precision, recall, F1, positions, false columns, calibration."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from training.evaluate import Score
from training.facts import PLACES
from training.measure import COLUMN, UNJUDGED, WHERE, Measured, Reading

Row = dict[str, Any]
Groups = list[tuple[str, np.ndarray]]  # name of a group, and which elements belong to it

DEFOCUS_NM = (-20, -10, -7.5, -5, -2.5, 0, 2.5, 5, 7.5, 10, 20)
TILT_DEG = (0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5)
ATOMS = (2, 3, 4, 6, 8, 12)  # from these heights on
SUPPORT_NM = (0.2, 0.5, 1, 2)  # nearer than the first: over or under the support
SCORE_BINS = 10
_RESAMPLED = 1000  # sets of specimens drawn for an interval


def doses_of(reading: Reading) -> list[float]:
    """In e/Å², the highest first."""
    return np.unique(reading.true["dose"])[::-1].tolist()


def image_scores(measured: Measured, reading: Reading, dose: float, chosen: np.ndarray) -> list[Score]:
    """A Score for each of the `chosen` images (numbers) at one dose; columns that are not judged count neither way."""
    true = reading.true[(reading.true["dose"] == dose) & reading.true["judged"]]
    false = reading.false[reading.false["dose"] == dose]
    n = len(measured.images)
    found = np.bincount(true["image"][true["found"]], minlength=n)
    missed = np.bincount(true["image"][~true["found"]], minlength=n)
    wrong = np.bincount(false["image"], minlength=n)
    square = np.bincount(true["image"], np.nan_to_num(true["error_nm"].astype(float)) ** 2, n)
    return [Score(int(found[k]), int(missed[k]), int(wrong[k]), float(square[k]), 1) for k in chosen]


def f1_interval(scores: list[Score], specimens: np.ndarray) -> tuple[float, float]:
    """95 % interval of the F1 of all images together, the specimens being drawn again and again (bootstrap).

    Parameters
    ----------
    scores, specimens : of each image. Images of one specimen are drawn together, for they resemble one another.
    """
    if not scores:
        return float("nan"), float("nan")
    _, of = np.unique(specimens, return_inverse=True)
    twice = np.bincount(of, [2 * s.found for s in scores])
    total = np.bincount(of, [2 * s.found + s.missed + s.false for s in scores])
    drawn = np.random.default_rng(0).integers(len(total), size=(_RESAMPLED, len(total)))
    something = total[drawn].sum(1) > 0
    if not something.any():
        return float("nan"), float("nan")
    f1 = twice[drawn].sum(1)[something] / total[drawn].sum(1)[something]
    low, high = np.quantile(f1, [0.025, 0.975])
    return float(low), float(high)


def by_dose(measured: Measured, reading: Reading, chosen: np.ndarray, kind: str = "particle") -> list[Row]:
    """A row for every dose: columns that count and that do not, what is false and where, the tuned LoG."""
    rows = []
    for dose in doses_of(reading):
        scores = image_scores(measured, reading, dose, chosen)
        low, high = f1_interval(scores, measured.images["specimen"][chosen])
        true, false = _of(reading.true, chosen, dose), _of(reading.false, chosen, dose)
        judged = true["judged"]
        rows.append(
            {
                "dose_e_angstrom2": dose,
                **_figures(sum(scores, Score())),
                "f1_low": low,
                "f1_high": high,
                PLACES[kind][0]: _found(true[judged & (true["place"] == 0)]),
                "displacement_seen": _displacement_seen(true[judged]),
                "not_judged": _found(true[~judged]),
                "false_per_image": {
                    where: float(np.count_nonzero(false["where"] == i) / max(len(chosen), 1))
                    for i, where in enumerate(WHERE[kind])
                },
                "log": _log(measured, reading, dose, chosen),
            }
        )
    return rows


def by_image(
    measured: Measured, reading: Reading, chosen: np.ndarray, key: str, edges: tuple[float, ...]
) -> list[Row]:
    """A row for every group of images, `key` of IMAGE between two edges, and every dose."""
    return [
        {
            "group": name,
            "dose_e_angstrom2": dose,
            **_figures(sum(image_scores(measured, reading, dose, chosen[inside]), Score())),
        }
        for name, inside in between(measured.images[key][chosen], edges)
        for dose in doses_of(reading)
    ]


def by_height(reading: Reading, chosen: np.ndarray) -> list[Row]:
    """A row for every group of column heights and every dose; what is false has no height, so no precision."""
    names = [f"{low}" if high == low + 1 else f"{low} to {high - 1}" for low, high in pairwise(ATOMS)]
    rows = []
    for dose in doses_of(reading):
        true = _of(reading.true, chosen, dose)
        true = true[true["judged"]]
        which = np.digitize(true["atoms"], ATOMS) - 1
        rows += [
            {"group": name, "dose_e_angstrom2": dose, **_found(true[which == i])}
            for i, name in enumerate([*names, f"{ATOMS[-1]} or more"])
        ]
    return rows


def by_place(reading: Reading, chosen: np.ndarray, kind: str = "particle") -> list[Row]:
    """A row for every place of a kind of specimen and every dose; what is false belongs to the column it lies at."""
    rows = []
    for dose in doses_of(reading):
        true, false = _of(reading.true, chosen, dose), _of(reading.false, chosen, dose)
        true = true[true["judged"]]
        for place, name in enumerate(PLACES[kind]):
            at = true[true["place"] == place]
            wrong = int(np.count_nonzero(false["place"] == place))
            rows.append({"group": name, "dose_e_angstrom2": dose, **_found_and_false(at, wrong)})
    return rows


def by_support(reading: Reading, chosen: np.ndarray) -> list[Row]:
    """A row for every group of distances to the support and every dose; false reports have a distance, too."""
    rows = []
    for dose in doses_of(reading):
        true, false = _of(reading.true, chosen, dose), _of(reading.false, chosen, dose)
        true = true[true["judged"]]
        places = _near_support(true["support_nm"]), _near_support(false["support_nm"])
        for (name, inside), (_, wrong) in zip(*places, strict=True):
            figures = _found_and_false(true[inside], int(np.count_nonzero(wrong)))
            rows.append({"group": name, "dose_e_angstrom2": dose, **figures})
    return rows


def calibration(reading: Reading, chosen: np.ndarray, dose: float | None = None) -> Row:
    """How often a candidate of a given score is a column, and the expected calibration error.

    The error is the mean over candidates of |mean score - share of columns| of their bin. Maxima on columns
    that are not judged are left out.

    Parameters
    ----------
    dose : in e/Å²; None for all together.
    """
    found = _of(reading.candidates, chosen, dose)
    found = found[found["is_a"] != UNJUDGED]
    which = np.minimum((found["score"] * SCORE_BINS).astype(int), SCORE_BINS - 1)
    count = np.bincount(which, minlength=SCORE_BINS)
    score = np.bincount(which, found["score"], SCORE_BINS)
    right = np.bincount(which, found["is_a"] == COLUMN, SCORE_BINS)
    bins = [
        {"from": b / SCORE_BINS, "candidates": int(n), "score": float(s / n), "columns": float(r / n)}
        for b, (n, s, r) in enumerate(zip(count, score, right, strict=True))
        if n
    ]
    error = np.abs(score - right).sum() / count.sum() if len(found) else float("nan")
    return {"expected_calibration_error": float(error), "candidates": len(found), "bins": bins}


def between(value: np.ndarray, edges: tuple[float, ...]) -> Groups:
    """Between one edge and the next; the last group holds its upper edge, too."""
    which = np.digitize(value, edges[:-1]) - 1
    inside = value <= edges[-1]
    return [(f"{low:g} to {high:g}", (which == i) & inside) for i, (low, high) in enumerate(pairwise(edges))]


def _near_support(distance_nm: np.ndarray) -> Groups:
    first, last = SUPPORT_NM[0], SUPPORT_NM[-1]
    return [
        ("over or under it", distance_nm < first),
        *between(distance_nm, SUPPORT_NM),
        (f"more than {last:g}", (distance_nm > last) & np.isfinite(distance_nm)),
        ("no support", np.isinf(distance_nm)),
    ]


def _log(measured: Measured, reading: Reading, dose: float, chosen: np.ndarray) -> Row | None:
    """The LoG tuned on each image, and the engine's F1 on the same images; None where it read none of them."""
    read = [k for k in chosen if (int(k), dose) in measured.log]
    compared = np.array(read[: measured.log_images], int)  # of all images not the usable ones that come later
    if len(compared) == 0:
        return None
    engine = sum(image_scores(measured, reading, dose, compared), Score())
    tuned = sum((measured.log[int(k), dose] for k in compared), Score())
    return {**_figures(tuned), "engine_f1": engine.f1}


def _of(table: np.ndarray, chosen: np.ndarray, dose: float | None) -> np.ndarray:
    """The rows of some images, at one dose or at all."""
    rows = np.isin(table["image"], chosen)
    return table[rows if dose is None else rows & (table["dose"] == dose)]


def _figures(score: Score) -> Row:
    return {**score.figures(), "false": score.false}


def _found(true: np.ndarray) -> Row:
    found = true[true["found"]]
    square = float((found["error_nm"].astype(float) ** 2).sum())
    score = Score(len(found), len(true) - len(found), 0, square)
    return {"columns": len(true), "found": len(found), "recall": score.recall, "rms_pm": score.rms_pm}


def _displacement_seen(true: np.ndarray) -> float:
    """Of the displacements of columns among their neighbours, the share that is reported (least squares)."""
    of = true[np.isfinite(true["seen_nm"])]
    displaced, seen = of["displaced_nm"].astype(float), of["seen_nm"].astype(float)
    return float((seen * displaced).sum() / (displaced**2).sum()) if len(of) else float("nan")


def _found_and_false(true: np.ndarray, false: int) -> Row:
    found = _found(true)
    score = Score(found["found"], found["columns"] - found["found"], false)
    f1 = score.f1 if found["columns"] else float("nan")
    return {**found, "false": false, "precision": score.precision, "f1": f1}
