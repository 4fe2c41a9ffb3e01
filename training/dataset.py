"""Batches of simulated images with their truth: every step a fresh one, and the same one for the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stream.normalize import Normalizer
from training.exitwave import ExitWave, cache_path, exit_waves, load_wave
from training.imaging import Conditions, draw_conditions, expose, generator_for, optics
from training.labels import column_map
from training.recipe import Recipe

VALIDATION_SEEDS = 100_000  # validation specimens are numbered from here, training ones from 0
DEFAULT_CACHE = Path(__file__).parent / "cache"


@dataclass(frozen=True, slots=True)
class Truth:
    """The columns in one image: yx_px (n, 2) f8, atoms (n,) i8, and the image's pixel size."""

    yx_px: np.ndarray
    atoms: np.ndarray
    sampling_nm: float
    kind: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Normalized images (b, 1, ny, nx) f4 with their truths and conditions."""

    images: torch.Tensor
    truths: list[Truth]
    conditions: Conditions


def training_waves(recipe: Recipe, cache: Path, workers: int = 2) -> None:
    """Make sure that every training exit wave is on disk."""
    exit_waves(recipe.specimen, recipe.waves, range(recipe.data.training), cache, workers)


def validation_waves(recipe: Recipe, cache: Path, workers: int = 2) -> list[ExitWave]:
    """The validation exit waves: other specimens than any that is trained on."""
    seeds = range(VALIDATION_SEEDS, VALIDATION_SEEDS + recipe.data.validation)
    return exit_waves(recipe.validation_specimen, recipe.waves, seeds, cache, workers)


def render(
    waves: Sequence[ExitWave],
    conditions: Conditions,
    recipe: Recipe,
    seed: Sequence[int],
    crop_px: int | None = None,
) -> Batch:
    """Image exit waves under conditions, one each, at a random place, turned and mirrored at random.

    Parameters
    ----------
    waves : all of one size.
    seed : of everything random here: place, orientation, amorphous film, shot noise.
    crop_px : side of the images; None for the exit waves' own.
    """
    rng = np.random.default_rng(list(seed))
    generator = generator_for(*seed)
    side = waves[0].wave.shape[0]
    crop = crop_px or side
    moved, truths = [], []
    for wave in waves:
        image, yx = _move(wave.wave, wave.column_yx_nm / wave.sampling_nm, rng)
        moved.append(torch.from_numpy(image))
        inside = ((yx > -0.5) & (yx < crop - 0.5)).all(1)
        truths.append(Truth(yx[inside], wave.column_atoms[inside], wave.sampling_nm, wave.kind))
    sampling = torch.tensor([wave.sampling_nm * 10 for wave in waves])
    intensity = optics(torch.stack(moved), sampling, conditions, recipe.waves.energy_ev, generator)
    counts = expose(intensity[:, :crop, :crop], sampling, conditions, generator).numpy()
    normalizer = Normalizer((crop, crop), recipe.data.normalize_sigma_nm / recipe.engine.nominal_nm_px)
    images = np.stack([normalizer(image) for image in counts])
    return Batch(torch.from_numpy(images)[:, None], truths, conditions)


class TrainingImages(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Step -> (images (b, 1, ny, nx), label maps (b, 1, ny / stride, nx / stride)), f4.

    Step n is the same whenever and by whichever worker it is made, so a resumed training sees what it would have seen.
    """

    def __init__(self, recipe: Recipe, cache: Path, stride: int) -> None:
        self.recipe, self.stride = recipe, stride
        self.paths = [
            cache_path(cache, recipe.specimen, recipe.waves, seed) for seed in range(recipe.data.training)
        ]
        self._waves: list[ExitWave] | None = None  # read by each worker for itself

    def __len__(self) -> int:
        return self.recipe.train.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._waves is None:
            self._waves = [load_wave(path) for path in self.paths]
        recipe = self.recipe
        seed = [recipe.train.seed, step]
        chosen = np.random.default_rng([*seed, 1]).integers(len(self._waves), size=recipe.data.batch)
        conditions = draw_conditions(
            recipe.imaging, recipe.data.batch, recipe.waves.energy_ev, generator_for(*seed, 2)
        )
        crop = recipe.data.crop_px
        batch = render([self._waves[i] for i in chosen], conditions, recipe, [*seed, 3], crop)
        labels = [
            column_map(
                truth.yx_px,
                (crop // self.stride, crop // self.stride),
                recipe.data.label_width_angstrom / (10 * truth.sampling_nm),
                self.stride,
            )
            for truth in batch.truths
        ]
        return batch.images, torch.from_numpy(np.stack(labels))[:, None]


def _move(image: np.ndarray, yx_px: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Roll a periodic (n, n) image, turn and mirror it, at random; the points with it."""
    side = image.shape[0]
    shift = rng.integers(side, size=2)
    image = np.roll(image, shift, (0, 1))
    yx = (yx_px + shift + 0.5) % side - 0.5
    if rng.random() < 0.5:
        image, yx = image.T, yx[:, ::-1]
    for axis in (0, 1):
        if rng.random() < 0.5:
            image = np.flip(image, axis)
            yx = np.where(np.arange(2) == axis, side - 1 - yx, yx)
    return np.ascontiguousarray(image), yx
