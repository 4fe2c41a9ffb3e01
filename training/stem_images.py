"""Batches of STEM images with their truth, and the images that networks for them are judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from stream.normalize import Normalizer
from training.dataset import VALIDATION_SEEDS, Truth
from training.evaluate import VALIDATION
from training.labels import column_map
from training.recipe import Recipe
from training.stem import StemScene, StemSettings, burnt_in, draw_scene, expose, processed


@dataclass(frozen=True, slots=True, kw_only=True)
class StemTruth(Truth):
    """The columns in one STEM image.

    Attributes
    ----------
    contrast : (n,) f8, `StemSettings.least_contrast`; those below its second value are not judged.
    spacing_px : between nearest strong columns.
    """

    contrast: np.ndarray
    least_contrast: float
    spacing_px: float

    @property
    def judged(self) -> np.ndarray:
        """(n,) bool, the columns that count."""
        return self.contrast >= self.least_contrast


def photograph(
    scene: StemScene, recipe: Recipe, seed: Sequence[int], dose_e_angstrom2: float | None = None
) -> np.ndarray:
    """The normalized image (ny, nx) f4 of a scene, at its own dose or at another."""
    image = resampled(scene, recipe, seed, dose_e_angstrom2)
    sigma_px = recipe.data.normalize_sigma_nm / recipe.engine.nominal_nm_px
    return Normalizer(image.shape, sigma_px)(image)


def resampled(
    scene: StemScene, recipe: Recipe, seed: Sequence[int], dose_e_angstrom2: float | None = None
) -> np.ndarray:
    """What is in the file, at the engine's pixels: (ny, nx) f4."""
    counts = expose(scene, seed, dose_e_angstrom2)
    return scene.resampler(burnt_in(processed(counts, settings_of(recipe), seed), scene))


def truth_of(scene: StemScene, recipe: Recipe) -> StemTruth:
    """The columns of a scene as they are judged."""
    inside = scene.inside
    return StemTruth(
        yx_px=scene.yx_px[inside],
        atoms=np.ones(int(inside.sum()), np.int64),
        sampling_nm=recipe.engine.nominal_nm_px,
        kind=scene.name,
        beyond_yx_px=scene.yx_px[~inside],
        contrast=scene.contrast[inside],
        classes=scene.kind[inside],
        least_contrast=settings_of(recipe).least_contrast[1],
        spacing_px=scene.spacing_px,
    )


def label_maps(scene: StemScene, settings: StemSettings, classes: int, side: int, stride: int) -> np.ndarray:
    """The maps of all classes (classes, side / stride, side / stride) f4, whose sum is 1 at the most.

    Columns are as wide as their distance to the nearest allows, and the lower the less certain it is that anyone
    would see them. Those centred up to a quarter of a spacing beyond the border, of which the larger part is seen, are
    to be reported on it; those farther out are there as far as they reach in.
    """
    shape = (side // stride, side // stride)
    yx = scene.yx_px
    if len(yx) == 0:
        return np.zeros((classes, *shape), np.float32)
    within = np.clip(yx, 0, side - 1)
    yx = np.where((np.abs(yx - within) < scene.spacing_px / 4).all(1, keepdims=True), within, yx)
    nearest = cKDTree(yx).query(yx, 2)[0][:, 1]
    width = np.clip(settings.label_spacings * np.minimum(nearest, scene.spacing_px), *settings.label_px)
    low, high = settings.least_contrast
    height = np.clip((scene.contrast - low) / (high - low), 0, 1)
    maps = np.stack(
        [
            column_map(yx[mine], shape, width[mine], stride, height[mine])
            for mine in (scene.kind == k for k in range(1, classes + 1))
        ]
    )
    return maps / np.maximum(maps.sum(0), 1)


class StemImages(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Step -> (images (b, 1, ny, nx), label maps (b, k, ny / stride, nx / stride)), f4; the same for the same step."""

    def __init__(self, recipe: Recipe, stride: int) -> None:
        self.recipe, self.stride = recipe, stride

    def __len__(self) -> int:
        return self.recipe.train.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        recipe, side = self.recipe, self.recipe.data.crop_px
        settings = settings_of(recipe)
        images, labels = [], []
        for k in range(recipe.data.batch):
            seed = [recipe.train.seed, step, k]
            scene = draw_scene(settings, recipe.lattice, side, seed)
            images.append(photograph(scene, recipe, seed))
            labels.append(label_maps(scene, settings, len(recipe.classes), side, self.stride))
        return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(labels))


def validation_scenes(recipe: Recipe, count: int | None = None) -> list[StemScene]:
    """The first validation scenes, all of them for None: of other lattices and seeds than any that is trained on.

    The same for every seed of a training, so that trainings can be compared.
    """
    seeds = range(VALIDATION_SEEDS, VALIDATION_SEEDS + (count or recipe.data.validation))
    side = recipe.data.crop_px
    return [
        draw_scene(settings_of(recipe), recipe.validation_lattice, side, [0, 0, 0, seed]) for seed in seeds
    ]


def stem_validation_images(recipe: Recipe) -> dict[float, list[tuple[np.ndarray, Truth]]]:
    """Per dose in e/Å² the same scenes, normalized images (1, ny, nx) f4 with their truth."""
    scenes = validation_scenes(recipe)
    return {
        dose: [
            (photograph(scene, recipe, [VALIDATION, n, int(dose)], dose)[None], truth_of(scene, recipe))
            for n, scene in enumerate(scenes)
        ]
        for dose in recipe.data.doses_e_angstrom2
    }


def settings_of(recipe: Recipe) -> StemSettings:
    """The recipe's STEM settings.

    Raises
    ------
    ValueError
        If it is a recipe for another microscopy.
    """
    if recipe.stem is None:
        raise ValueError(
            f"recipe {recipe.name} draws no STEM images: expected a section [stem], found none; add one"
        )
    return recipe.stem
