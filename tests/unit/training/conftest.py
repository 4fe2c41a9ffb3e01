"""What several tests of the training share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.tiny_recipe import write_recipe

if TYPE_CHECKING:  # they need torch
    from training.recipe import Recipe
    from training.shots import Subjects

SUPPORTED = """
name = "tiny"
[engine]
description = "for tests"
[validation_specimen]
side_px = 96
diameter_angstrom = [10.0, 12.0]
sampling_angstrom_px = [0.2, 0.2]
empty_fraction = 0.0
support_fraction = 1.0
[specimen]
side_px = 96
[data]
validation = 2
crop_px = 64
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exit waves for the tiny recipe, made once; with the recipe."""
    from training.dataset import training_waves, validation_waves
    from training.recipe import load_recipe

    folder = tmp_path_factory.mktemp("cache")
    recipe = load_recipe(write_recipe(folder))
    training_waves(recipe, folder, workers=1)
    validation_waves(recipe, folder, workers=1)
    return folder


@pytest.fixture(scope="session")
def supported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Subjects]:
    """A recipe of particles on a support, with its validation specimens' exit waves and facts, made once."""
    from training.recipe import load_recipe
    from training.shots import validation_subjects

    folder = tmp_path_factory.mktemp("evaluation")
    path = folder / "recipe.toml"
    path.write_text(SUPPORTED, encoding="utf-8")
    recipe = load_recipe(path)
    return recipe, validation_subjects(recipe, folder)
