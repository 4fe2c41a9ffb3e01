"""Engines read images; what became of every column and of every report, as flat tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stream.columns import Columns
from training.baseline import tuned_log
from training.evaluate import CANDIDATE, Score, pair
from training.facts import displacements, distance_nm, nearest
from training.shots import Shot

FALSE, COLUMN, UNJUDGED = range(3)  # what a candidate is: nothing, a column that counts, one that does not
# where a false report lies
WHERE = {"particle": ("particle", "support", "vacuum"), "sheet": ("sheet", "contamination", "vacuum")}
_SPECIMEN, _SUPPORT, _VACUUM = range(3)
_ON_SUPPORT_NM = 0.2  # a report this near to an atom of the support, as seen along the beam, lies on it

IMAGE = np.dtype(
    [
        ("specimen", "i4"),
        ("draw", "i4"),
        ("columns", "i4"),
        ("defocus_nm", "f4"),
        ("transfer", "f4"),
        ("tilt_deg", "f4"),
        ("smear", "f4"),
        ("agreement", "f4"),
        ("usable", "?"),
    ]
)
_OF = [("image", "i4"), ("dose", "f4")]
# A column that is there; the error is NaN where it was missed. `displaced_nm`: how far it is from where its neighbours
# would have it, NaN where they do not say; `seen_nm`: of that, along the same way, how much is reported.
TRUE = np.dtype(
    [
        *_OF,
        ("atoms", "i4"),
        ("judged", "?"),
        ("place", "i4"),
        ("support_nm", "f4"),
        ("found", "?"),
        ("error_nm", "f4"),
        ("displaced_nm", "f4"),
        ("seen_nm", "f4"),
    ]
)
CANDIDATES = np.dtype([*_OF, ("score", "f4"), ("is_a", "i4")])  # maxima above `evaluate.CANDIDATE`
# At the engine's threshold; `place`: of the nearest column, -1 where none lies within a spacing.
REPORTED_FALSE = np.dtype([*_OF, ("where", "i4"), ("place", "i4"), ("support_nm", "f4")])


class Finder(Protocol):
    """Finds the columns in counts (k, ny, nx), and gives the normalized images (k, ny, nx) f4 in which it did.

    `stage_ns` is the time that each stage took for the last image; "network" is one of them.
    """

    stage_ns: dict[str, int]

    def find(self, counts: np.ndarray) -> tuple[Columns, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """An engine as it runs live.

    Attributes
    ----------
    finder : makes a Finder for images of a shape (ny, nx), a pixel size in nm and a lowest score.
    threshold : the score from which the engine reports a column.
    """

    finder: Callable[[tuple[int, int], float, float], Finder]
    threshold: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What one engine made of all images: rows of TRUE, CANDIDATES and REPORTED_FALSE."""

    true: np.ndarray
    candidates: np.ndarray
    false: np.ndarray


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured.

    Attributes
    ----------
    images : rows of IMAGE.
    readings : by the engine's name.
    log : a tuned LoG's scores by (image, dose).
    log_images : how many of all images, and of the usable ones, it was to read: the first.
    """

    images: np.ndarray
    readings: dict[str, Reading]
    log: dict[tuple[int, float], Score]
    log_images: int


def measure(
    shots: Iterable[Shot],
    readers: Mapping[str, Reader],
    log_images: int,
    on_shot: Callable[[], object] = lambda: None,
) -> Measured:
    """Let every engine read every shot.

    The first `log_images` shots, and the first `log_images` usable ones, are also read by a Laplacian of Gaussian
    that is tuned on each image knowing the truth; it is slow. Of a stack it reads the first image.
    """
    images: list[np.ndarray] = []
    rows: dict[str, list[Reading]] = {name: [] for name in readers}
    log: dict[tuple[int, float], Score] = {}
    usable = 0
    for number, shot in enumerate(shots):
        images.append(_image(shot))
        usable += shot.usable
        with_log = number < log_images or (shot.usable and usable <= log_images)
        shape = next(iter(shot.counts.values())).shape[1:]
        away_yx_nm = displacements(shot.truth.yx_px, shot.facts.around, shape[-1]) * shot.truth.sampling_nm
        for name, reader in readers.items():
            lowest = min(CANDIDATE, reader.threshold)
            finder = reader.finder(shape, shot.truth.sampling_nm, lowest)
            for dose, counts in shot.counts.items():
                columns, seen = finder.find(counts)
                reading = _read(columns, shot, reader.threshold, away_yx_nm)
                for table in (reading.true, reading.candidates, reading.false):
                    table["image"], table["dose"] = number, dose
                rows[name].append(reading)
                if with_log and (number, dose) not in log:
                    log[number, dose] = tuned_log(seen[0], shot.truth)
        on_shot()
    together = {name: _together(readings) for name, readings in rows.items()}
    return Measured(np.concatenate(images), together, log, log_images)


def _image(shot: Shot) -> np.ndarray:
    facts = shot.facts
    row = (shot.specimen, shot.draw, len(facts.place), shot.defocus_nm, shot.transfer, facts.tilt_deg)
    return np.array([(*row, facts.smear, shot.agreement, shot.usable)], IMAGE)


def _read(columns: Columns, shot: Shot, threshold: float, away_yx_nm: np.ndarray) -> Reading:
    """What became of the columns of one image, so far from their places among others, and of what was reported."""
    truth, facts = shot.truth, shot.facts
    yx_px = columns.yx_px.astype(np.float64)
    reported_yx_px = yx_px[columns.score >= threshold]
    i, j, is_false = pair(reported_yx_px, truth)
    true = np.zeros(len(truth.atoms), TRUE)
    true["atoms"], true["place"], true["support_nm"] = truth.atoms, facts.place, facts.support_nm
    true["judged"] = truth.judged
    true["found"][j] = True
    error_yx_nm = np.full((len(true), 2), np.nan)
    error_yx_nm[j] = (reported_yx_px[i] - truth.yx_px[j]) * truth.sampling_nm
    true["error_nm"] = np.hypot(*error_yx_nm.T)
    true["displaced_nm"] = np.hypot(*away_yx_nm.T)
    with np.errstate(invalid="ignore"):  # the middle of its neighbours to the last bit
        way = away_yx_nm / true["displaced_nm"][:, None]
    true["seen_nm"] = ((away_yx_nm + error_yx_nm) * way).sum(1)

    candidates = np.zeros(len(yx_px), CANDIDATES)
    candidates["score"] = columns.score
    i_any, j_any, nothing = pair(yx_px, truth)
    candidates["is_a"] = np.where(nothing, FALSE, UNJUDGED)
    candidates["is_a"][i_any] = np.where(truth.judged[j_any], COLUMN, UNJUDGED)

    false_yx_nm = reported_yx_px[is_false] * truth.sampling_nm
    side_nm = next(iter(shot.counts.values())).shape[-1] * truth.sampling_nm
    false = np.zeros(len(false_yx_nm), REPORTED_FALSE)
    false["support_nm"] = distance_nm(false_yx_nm, shot.support_yx_px * truth.sampling_nm, side_nm)
    particle_nm, column = nearest(false_yx_nm, truth.yx_px * truth.sampling_nm, side_nm)
    at_particle = particle_nm <= facts.spacing_nm
    beside = np.where(false["support_nm"] <= _ON_SUPPORT_NM, _SUPPORT, _VACUUM)
    false["where"] = np.where(at_particle, _SPECIMEN, beside)
    false["place"] = -1
    false["place"][at_particle] = facts.place[column[at_particle]]
    return Reading(true, candidates, false)


def _together(readings: list[Reading]) -> Reading:
    return Reading(
        np.concatenate([r.true for r in readings]),
        np.concatenate([r.candidates for r in readings]),
        np.concatenate([r.false for r in readings]),
    )
