"""Batches of simulated images with their truth: every step a fresh one, and the same one for the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stream.normalize import Normalizer
from training.exitwave import ExitWave, cache_path, exit_waves, load_wave
from training.imaging import (
    Conditions,
    atom_contrast,
    draw_conditions,
    expose,
    generator_for,
    join,
    optics,
)
from training.labels import column_map
from training.recipe import Recipe

VALIDATION_SEEDS = 100_000  # validation specimens are numbered from here, training ones from 0
_DRAWS = 10
DEFAULT_CACHE = Path(__file__).parent / "cache"


@dataclass(frozen=True, slots=True)
class Truth:
    """The columns in one image: yx_px (n, 2) f8, atoms (n,) i8, and the image's pixel size.

    `judged_atoms`: columns of fewer atoms neither count when found nor when missed. `classes` (n,) u1: 1 the first kind
    of column; None where there is one kind.
    """

    yx_px: np.ndarray
    atoms: np.ndarray
    sampling_nm: float
    kind: str
    judged_atoms: int = 2
    classes: np.ndarray | None = None

    @property
    def judged(self) -> np.ndarray:
        """(n,) bool, the columns that count."""
        return self.atoms >= self.judged_atoms


@dataclass(frozen=True, slots=True)
class Scene:
    """Exit waves as a lens shows them, before any noise.

    Attributes
    ----------
    intensity : (b, ny, nx) f4, 1 in vacuum.
    conditions, truths : of each image.
    """

    intensity: torch.Tensor
    conditions: Conditions
    truths: list[Truth]


def training_waves(recipe: Recipe, cache: Path, workers: int = 2) -> None:
    """Make sure that every training exit wave is on disk."""
    exit_waves(recipe.specimen, recipe.waves, range(recipe.data.training), cache, workers)


def validation_waves(recipe: Recipe, cache: Path, workers: int = 2) -> list[ExitWave]:
    """The validation exit waves: other specimens than any that is trained on."""
    seeds = range(VALIDATION_SEEDS, VALIDATION_SEEDS + recipe.data.validation)
    return exit_waves(recipe.validation_specimen, recipe.waves, seeds, cache, workers)


def draw_scene(
    waves: Sequence[ExitWave], recipe: Recipe, seed: Sequence[int], crop_px: int | None = None
) -> Scene:
    """Image each exit wave once, under usable conditions, at a random place, turned and mirrored at random.

    Conditions are drawn anew for a wave until its columns show one sign of contrast (`ImagingSettings.min_agreement`):
    where thick columns are bright and thin ones dark, no one can say which dots are columns. A specimen that does
    not show it in ten draws, for it is tilted too far, is imaged as it comes.

    Parameters
    ----------
    waves : all of one size.
    seed : of everything random here: conditions, place, orientation, amorphous film.
    crop_px : side of the images; None for the exit waves' own.
    """
    side = waves[0].wave.shape[0]
    crop = crop_px or side
    energy_ev, pending = recipe.waves.energy_ev, list(range(len(waves)))
    done: dict[int, tuple[torch.Tensor, Conditions, Truth]] = {}
    for attempt in range(_DRAWS):
        rng, generator = np.random.default_rng([*seed, attempt]), generator_for(*seed, attempt)
        conditions = draw_conditions(recipe.imaging, len(pending), energy_ev, generator)
        moved = [_move(waves[i], rng, recipe.data.judged_atoms) for i in pending]
        sampling = torch.tensor([10 * truth.sampling_nm for _, truth in moved])
        images = torch.stack([torch.from_numpy(image) for image, _ in moved])
        intensity = optics(images, sampling, conditions, energy_ev, generator)
        contrast = atom_contrast(intensity, sampling).numpy()
        for k, (i, (_, truth)) in enumerate(zip(pending, moved, strict=True)):
            share = agreement(contrast[k], truth)
            if share >= recipe.imaging.min_agreement or attempt == _DRAWS - 1:
                one = conditions[torch.tensor([k])]
                done[i] = intensity[k, :crop, :crop], one, _inside(truth, crop)
        pending = [i for i in pending if i not in done]
        if not pending:
            break
    shown = [done[i] for i in range(len(waves))]
    return Scene(
        torch.stack([intensity for intensity, _, _ in shown]),
        join([conditions for _, conditions, _ in shown]),
        [truth for _, _, truth in shown],
    )


def photograph(
    scene: Scene, recipe: Recipe, seed: Sequence[int], dose_e_angstrom2: float | None = None
) -> torch.Tensor:
    """Normalized camera images (b, 1, ny, nx) f4 of a scene, at its own doses or at one for all."""
    counts = exposures(scene, seed, dose_e_angstrom2)
    sigma_px = recipe.data.normalize_sigma_nm / recipe.engine.nominal_nm_px
    normalizer = Normalizer(counts.shape[1:], sigma_px)
    return torch.from_numpy(np.stack([normalizer(image) for image in counts]))[:, None]


def exposures(scene: Scene, seed: Sequence[int], dose_e_angstrom2: float | None = None) -> np.ndarray:
    """What the camera reports of a scene, (b, ny, nx) f4, at its own doses or at one for all."""
    conditions = scene.conditions
    if dose_e_angstrom2 is not None:
        doses = torch.full((len(conditions),), float(dose_e_angstrom2))
        conditions = replace(conditions, dose_e_angstrom2=doses)
    sampling = torch.tensor([10 * truth.sampling_nm for truth in scene.truths])
    return expose(scene.intensity, sampling, conditions, generator_for(*seed)).numpy()


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
        crop = recipe.data.crop_px
        scene = draw_scene([self._waves[i] for i in chosen], recipe, [*seed, 2], crop)
        labels = [
            column_map(
                truth.yx_px[truth.atoms > 0],  # what contamination hides is not to be reported
                (crop // self.stride, crop // self.stride),
                recipe.data.label_width_angstrom / (10 * truth.sampling_nm),
                self.stride,
            )
            for truth in scene.truths
        ]
        return photograph(scene, recipe, [*seed, 3]), torch.from_numpy(np.stack(labels))[:, None]


def _move(wave: ExitWave, rng: np.random.Generator, judged_atoms: int) -> tuple[np.ndarray, Truth]:
    """Roll a periodic exit wave, turn and mirror it, at random; the columns with it."""
    side = wave.wave.shape[0]
    shift = rng.integers(side, size=2)
    image = np.roll(wave.wave, shift, (0, 1))
    yx = (wave.column_yx_nm / wave.sampling_nm + shift + 0.5) % side - 0.5
    if rng.random() < 0.5:
        image, yx = image.T, yx[:, ::-1]
    for axis in (0, 1):
        if rng.random() < 0.5:
            image = np.flip(image, axis)
            yx = np.where(np.arange(2) == axis, side - 1 - yx, yx)
    truth = Truth(yx, wave.column_atoms, wave.sampling_nm, wave.kind, judged_atoms)
    return np.ascontiguousarray(image), truth


def _inside(truth: Truth, crop_px: int) -> Truth:
    inside = ((truth.yx_px > -0.5) & (truth.yx_px < crop_px - 0.5)).all(1)
    return replace(truth, yx_px=truth.yx_px[inside], atoms=truth.atoms[inside])


def agreement(contrast: np.ndarray, truth: Truth) -> float:
    """The share of the judged columns that shows the commoner sign; 1 where there are none."""
    y, x = np.rint(truth.yx_px[truth.judged]).astype(int).T
    if len(y) == 0:
        return 1.0
    bright = float(np.mean(contrast[y % len(contrast), x % len(contrast)] > 0))
    return max(bright, 1 - bright)
