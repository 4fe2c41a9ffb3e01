"""Where a recipe's images come from: exit waves made once and imaged anew, or STEM scenes drawn afresh."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from stream.normalize import Normalizer
from training.dataset import (
    TrainingImages,
    Truth,
    draw_scene,
    photograph,
    sigma_px,
    training_waves,
    validation_waves,
)
from training.device_images import DeviceImages
from training.evaluate import validation_images
from training.exitwave import exit_waves
from training.recipe import Recipe
from training.shots import MOST_DRAWS, shoot, validation_subjects
from training.stem_images import StemImages, stem_validation_images

log = logging.getLogger(__name__)
Shown = dict[float, list[tuple[np.ndarray, Truth]]]  # dose in e/Å² -> normalized images and truths
_MORE_DRAWS = 4  # sets of conditions per specimen to choose a threshold on
_CALIBRATION = 120  # images that int8 scales are taken from: of training specimens


def make_waves(recipe: Recipe, cache: Path, workers: int) -> None:
    """Simulate the training exit waves that are not on disk; a recipe of STEM images needs none."""
    if recipe.stem is None:
        training_waves(recipe, cache, workers)


def training_images(
    recipe: Recipe, cache: Path, stride: int, device: torch.device
) -> TrainingImages | DeviceImages | StemImages:
    """Number -> images and label maps, for a network on a device; exit waves (`make_waves`) are on disk.

    Made on a GPU if the network is there, but for STEM images, which are made on the CPU and are to be moved.
    """
    if recipe.stem is not None:
        return StemImages(recipe, stride)
    if device.type == "cuda":
        return DeviceImages(recipe, training_waves(recipe, cache), stride, device)
    return TrainingImages(recipe, cache, stride)


def judged_images(recipe: Recipe, cache: Path) -> Shown:
    """The validation images at every dose, of specimens that are never trained on."""
    if recipe.stem is not None:
        return stem_validation_images(recipe)
    return validation_images(recipe, validation_waves(recipe, cache))


def threshold_images(recipe: Recipe, cache: Path) -> Shown:
    """Images that an engine's threshold is chosen on: those of usable conditions, and none that its report shows.

    All conditions where none is usable. Not for STEM images, which are all usable.
    """
    doses = recipe.data.doses_e_angstrom2
    draws = range(MOST_DRAWS, MOST_DRAWS + _MORE_DRAWS)
    shots = list(shoot(recipe, *validation_subjects(recipe, cache), draws, doses))
    usable = [shot for shot in shots if shot.usable]
    log.info("%d of %d images are usable to choose a threshold on", len(usable), len(shots))
    channels, *shape_yx = next(iter(shots[0].counts.values())).shape
    normalizer = Normalizer((shape_yx[0], shape_yx[1]), sigma_px(recipe), channels)
    return {dose: [(normalizer(shot.counts[dose]), shot.truth) for shot in usable or shots] for dose in doses}


def calibration_images(recipe: Recipe, cache: Path) -> np.ndarray:
    """Images of training specimens that no training has seen, (n, k, ny, nx) f4 normalized."""
    if recipe.stem is not None:
        images = StemImages(recipe, 1)
        steps = range(recipe.train.steps, recipe.train.steps + -(-_CALIBRATION // recipe.data.batch))
        return np.concatenate([images[step][0].numpy() for step in steps])
    waves = exit_waves(recipe.specimen, recipe.waves, range(min(_CALIBRATION, recipe.data.training)), cache)
    scene = draw_scene(waves, recipe, [recipe.train.seed, _CALIBRATION])
    return photograph(scene, recipe, [recipe.train.seed, _CALIBRATION]).numpy()
