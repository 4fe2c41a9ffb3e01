"""What several tests of the training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.tiny_recipe import write_recipe


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
