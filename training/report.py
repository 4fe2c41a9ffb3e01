"""An engine's figures on the validation set and on phantoms, with a tuned LoG beside every one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from stream.normalize import Normalizer
from stream.phantom import Phantom
from training.baseline import tuned_log
from training.dataset import DEFAULT_CACHE, Truth, validation_waves
from training.evaluate import DOSES_E_ANGSTROM2, Score, candidates, score_at, validation_images
from training.export import openvino_maps
from training.networks import build_network
from training.recipe import Recipe, load_recipe


def report(onnx_path: Path | str, recipe_path: Path | str, cache: Path | str = DEFAULT_CACHE) -> str:
    """Markdown table of an exported network on the validation set and on phantoms, a tuned LoG beside it.

    The LoG is tuned on every image by itself, knowing the truth: the best it could do. Columns of one atom
    neither count when found nor when missed; false columns are per image.
    """
    recipe = load_recipe(recipe_path)
    maps, stride = openvino_maps(Path(onnx_path)), build_network(recipe.train.network).stride
    sets = {"validation": validation_images(recipe, validation_waves(recipe, Path(cache)))}
    for contrast in ("bright", "dark"):
        sets[f"phantom, {contrast}"] = {
            dose: [frame for seed in range(4) for frame in phantom_images(recipe, dose, contrast, 3, seed)]
            for dose in DOSES_E_ANGSTROM2
        }
    lines = [
        "| images | e/Å² | F1 | precision | recall | rms / pm | false | LoG: F1 | rms / pm |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, by_dose in sets.items():
        for dose, shown in by_dose.items():
            score = score_at(candidates(maps, stride, shown, recipe), 0.5)
            log = sum((tuned_log(image, truth) for image, truth in shown), Score())
            lines.append(
                f"| {name} | {dose:g} | {score.f1:.4f} | {score.precision:.4f} | {score.recall:.4f} "
                f"| {score.rms_pm:.1f} | {score.false / score.images:.2f} | {log.f1:.4f} | {log.rms_pm:.1f} |"
            )
    return "\n".join(lines)


def phantom_images(
    recipe: Recipe,
    dose_e_angstrom2: float,
    contrast: Literal["bright", "dark"],
    frames: int = 20,
    seed: int = 0,
) -> list[tuple[np.ndarray, Truth]]:
    """Normalized frames (ny, nx) f4 of a simulated session that no training has seen, with their truth."""
    phantom = Phantom(seed=seed, frames=frames, dose_e_nm2=100 * dose_e_angstrom2, contrast=contrast)
    truth = phantom.truth
    size_nm = truth.pixel_size_nm
    normalizer = Normalizer(truth.shape_yx, recipe.data.normalize_sigma_nm / size_nm)
    shown = []
    for index in range(frames):
        yx = truth.columns(index)
        shown.append((normalizer(phantom.render(index)), Truth(yx, np.full(len(yx), 99), size_nm, "phantom")))
    return shown
