"""The mean of several trainings' weights: it errs less than either where they began with the same weights.

M. Wortsman et al., ICML 2022, "Model soups": such weights lie in one basin, and their mean is nearer to its middle.
What batch normalization keeps of the images is no weight: it is measured anew.

`python -m training.average recipes/au-on-oxide.toml runs/mean runs/one/checkpoint.pt runs/other/checkpoint.pt` writes a
checkpoint, and the engine as `hopscope train` does.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from training.checkpoint import Checkpoint, TrainingError, commit_of_this_checkout
from training.dataset import DEFAULT_CACHE
from training.exitwave import CacheError
from training.networks import build_network
from training.recipe import Recipe, RecipeError, load_recipe
from training.sources import training_images

_BATCHES = 50  # of training images, for batch normalization


def average(recipe: Recipe, trained: Sequence[Checkpoint], cache: Path = DEFAULT_CACHE) -> Checkpoint:
    """A finished training of the recipe, whose weights are the mean of all those given.

    Raises
    ------
    TrainingError
        For fewer than two, or of different networks, images in a stack or classes.
    """
    kinds, wanted = {_kind(each.recipe) for each in trained}, _kind(recipe)
    if len(trained) < 2 or kinds != {wanted}:
        raise TrainingError(
            f"the mean of two or more trainings of {wanted} was asked for, got {len(trained)} of "
            f"{', '.join(sorted(kinds))}"
        )
    network = build_network(recipe.train.network, recipe.input_channels, len(recipe.classes))
    network.load_state_dict(
        {
            name: torch.stack([each.network[name].double() for each in trained]).mean(0)
            for name in trained[0].network
        }
    )
    normalized_anew(network, recipe, cache)
    return replace(
        trained[-1],
        recipe=recipe,
        step=recipe.train.steps,
        network=network.state_dict(),
        optimizer={},
        schedule={},
        commit=commit_of_this_checkout(),
        begun_with=("the mean of", *(each.lineage[-1] for each in trained)),
    )


def _kind(recipe: Recipe) -> str:
    images = "" if recipe.input_channels == 1 else f" on stacks of {recipe.input_channels} images"
    return f"a {recipe.train.network}{images} for {', '.join(recipe.classes)}"


@torch.no_grad()
def normalized_anew(network: nn.Module, recipe: Recipe, cache: Path) -> None:
    """Measure what batch normalization keeps on training images."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    network.train()
    images = training_images(recipe, cache, network.stride, torch.device("cpu"))
    for batch, _ in (images[step] for step in range(_BATCHES)):
        network(batch)
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before
    network.eval()


def main() -> None:
    """`python -m training.average`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description="The mean of several trainings' weights, as a finished training."
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path, help="a folder without a training")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of exit waves")
    asked = parser.parse_args()
    try:
        if (asked.out / "checkpoint.pt").exists():
            raise TrainingError(f"{asked.out} already holds a training; choose another folder")
        mean = average(
            load_recipe(asked.recipe), [Checkpoint.load(path) for path in asked.checkpoints], asked.cache
        )
        asked.out.mkdir(parents=True, exist_ok=True)
        mean.save(asked.out / "checkpoint.pt")
        from training.export import export

        export(asked.out / "checkpoint.pt", mean.recipe.name, asked.out, cache=asked.cache)
    except (RecipeError, TrainingError, CacheError) as error:
        sys.exit(f"refused: {error}")


if __name__ == "__main__":
    main()
