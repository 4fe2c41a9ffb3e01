"""How right a network is: precision, recall, F1 and position error against dose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn

from stream.columns import Columns, find_columns
from training.dataset import Truth, draw_scene, photograph
from training.exitwave import ExitWave
from training.recipe import Recipe

VALIDATION = 4711  # seed of the validation images
CANDIDATE = 0.05  # score from which a maximum is kept when thresholds are compared


@dataclass(frozen=True)
class Score:
    """Counts of a one-to-one matching; scores add up over images. `right_class`: of the found, those of their class."""

    found: int = 0
    missed: int = 0
    false: int = 0
    squared_error_nm2: float = 0.0
    images: int = 0
    right_class: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.found + other.found,
            self.missed + other.missed,
            self.false + other.false,
            self.squared_error_nm2 + other.squared_error_nm2,
            self.images + other.images,
            self.right_class + other.right_class,
        )

    @property
    def precision(self) -> float:
        """Of the columns reported, those that are there; NaN where none was reported."""
        return self.found / (self.found + self.false) if self.found + self.false else float("nan")

    @property
    def recall(self) -> float:
        """Of the columns that are there, those reported; NaN where there are none."""
        return self.found / (self.found + self.missed) if self.found + self.missed else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN where nothing is there and nothing was reported."""
        total = 2 * self.found + self.missed + self.false
        return 2 * self.found / total if total else float("nan")

    @property
    def error_share(self) -> float:
        """1 - F1 with one error more, so that it is never 0: there may be one in more images."""
        wrong = self.missed + self.false + 1
        return wrong / (2 * self.found + wrong)

    @property
    def class_accuracy(self) -> float:
        """Of the columns found, those reported as the class they are; NaN where none was found."""
        return self.right_class / self.found if self.found else float("nan")

    @property
    def rms_pm(self) -> float:
        """Root mean square distance (over both axes together) of the columns found, in pm."""
        return 1e3 * float(np.sqrt(self.squared_error_nm2 / self.found)) if self.found else float("nan")

    def figures(self) -> dict[str, float]:
        """What every report says of it, by name."""
        return {
            "images": self.images,
            "columns": self.found + self.missed,
            "f1": self.f1,
            "precision": self.precision,
            "recall": self.recall,
            "rms_pm": self.rms_pm,
        }


def match(found_yx: np.ndarray, true_yx: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pair points one to one, nearest pairs first, none farther apart than `radius`.

    Returns
    -------
    (k,) i8 indices into `found_yx` (n, 2) and into `true_yx` (m, 2).
    """
    if len(found_yx) == 0 or len(true_yx) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = cKDTree(found_yx).sparse_distance_matrix(cKDTree(true_yx), radius, output_type="ndarray")
    near = near[np.argsort(near["v"], kind="stable")]
    free_found, free_true = np.ones(len(found_yx), bool), np.ones(len(true_yx), bool)
    pairs = []
    for i, j in zip(near["i"], near["j"], strict=True):
        if free_found[i] and free_true[j]:
            free_found[i] = free_true[j] = False
            pairs.append((i, j))
    return (*np.array(pairs, np.int64).reshape(-1, 2).T,)


def pair(found_yx_px: np.ndarray, truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`match` within half the median nearest-neighbour distance of the true columns.

    Returns
    -------
    (k,) i8 indices of reports and of the columns they are paired with; (n,) bool, the reports that are false: paired
    neither with a column nor with one that is centred just beyond the border.
    """
    radius = 0.1 / truth.sampling_nm
    if len(truth.yx_px) > 1:
        radius = float(np.median(cKDTree(truth.yx_px).query(truth.yx_px, k=2)[0][:, 1])) / 2
    i, j = match(found_yx_px, np.concatenate([truth.yx_px, truth.beyond_yx_px]), radius)
    false = np.ones(len(found_yx_px), bool)
    false[i] = False
    inside = j < len(truth.yx_px)
    return i[inside], j[inside], false


def judge(found_yx_px: np.ndarray, truth: Truth, kind: np.ndarray | None = None) -> Score:
    """The score of columns reported (n, 2); a column that is not judged brings neither praise nor blame.

    A column is found whatever its class; those reported as the class they are (`kind` (n,)) are counted beside.
    """
    i, j, is_false = pair(found_yx_px, truth)
    counts = truth.judged[j]
    i, j = i[counts], j[counts]
    error = (found_yx_px[i] - truth.yx_px[j]) * truth.sampling_nm
    missed = int(truth.judged.sum()) - len(i)
    false = int(is_false.sum())
    right = 0
    if kind is not None:
        right = len(i) if truth.classes is None else int(np.count_nonzero(kind[i] == truth.classes[j]))
    return Score(len(i), missed, false, float((error**2).sum()), 1, right)


def validation_images(
    recipe: Recipe, waves: Sequence[ExitWave], doses: Iterable[float] | None = None, size: int = 10
) -> dict[float, list[tuple[np.ndarray, Truth]]]:
    """The same specimens under the same, usable conditions at every dose in e/Å², the recipe's for None; the same at
    every call.

    Returns
    -------
    Per dose, normalized images (k, ny, nx) f4 with their truth.
    """
    shown: dict[float, list[tuple[np.ndarray, Truth]]] = {
        dose: [] for dose in doses or recipe.data.doses_e_angstrom2
    }
    for i in range(0, len(waves), size):
        scene = draw_scene(waves[i : i + size], recipe, [VALIDATION, i])
        for dose, images in shown.items():
            photographs = photograph(scene, recipe, [VALIDATION, i, int(dose)], dose)
            images += zip(photographs.numpy(), scene.truths, strict=True)
    return shown


def network_maps(network: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """A function from normalized images (b, c, ny, nx) f4 to probability maps (b, k, ny/s, nx/s) f4."""

    @torch.inference_mode()
    def maps(images: np.ndarray) -> np.ndarray:
        network.eval()
        device = next(network.parameters()).device
        return torch.softmax(network(torch.from_numpy(images).to(device)).float(), 1).cpu().numpy()

    return maps


def candidates(
    maps: Callable[[np.ndarray], np.ndarray],
    stride: int,
    shown: Iterable[tuple[np.ndarray, Truth]],
    recipe: Recipe,
    usual_sigma_px: float | None = None,
) -> list[tuple[Columns, Truth]]:
    """Per image, or stack, (k, ny, nx) the maxima above a low score, and the truth; `weighed` by a usual width."""
    distance_px = recipe.engine.min_distance_nm / recipe.engine.nominal_nm_px
    found = []
    for image, truth in shown:
        columns = find_columns(maps(image[None])[0], stride, CANDIDATE, distance_px, usual_sigma_px)
        found.append((columns, truth))
    return found


def score_at(found: list[tuple[Columns, Truth]], threshold: float) -> Score:
    """The score of all images together at one threshold."""
    return sum((judge_columns(columns, truth, threshold) for columns, truth in found), Score())


def judge_columns(columns: Columns, truth: Truth, threshold: float) -> Score:
    """`judge` those of a score of `threshold` or more."""
    kept = columns.score >= threshold
    return judge(columns.yx_px[kept].astype(np.float64), truth, columns.kind[kept])


def usual_width_px(by_dose: dict[float, list[tuple[Columns, Truth]]]) -> float | None:
    """The median width of all peaks of a probability of one half or more, over all doses; None without any."""
    widths = [columns.sigma_px[columns.score >= 0.5] for found in by_dose.values() for columns, _ in found]
    known = np.concatenate(widths)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else None


def best_threshold(by_dose: dict[float, list[tuple[Columns, Truth]]]) -> float:
    """The threshold of the fewest errors, each dose's as a multiple of what others make of it (geometric mean).

    The mean F1 would be decided where most is wrong: at the lowest dose, for little, at the cost of twice the errors
    where images are good.
    """
    thresholds = np.linspace(0.06, 0.94, 45)
    error = [
        np.mean([np.log(score_at(found, t).error_share) for found in by_dose.values()]) for t in thresholds
    ]
    return float(thresholds[int(np.argmin(error))])
