"""Which network, and at which sampling: each trained alike from nothing, then F1 against dose beside the time.

`python -m training.sizes training/recipes/au-on-oxide.toml runs/sizes slim16_s2 fn16_s2 slim16_s2@0.03` trains each
network, at the recipe's sampling or the one behind the @ in nm/px, on the same field of view of the same specimens;
then it writes a table. What is trained already is taken up from there.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from training.checkpoint import Checkpoint, TrainingError, with_seed
from training.dataset import DEFAULT_CACHE
from training.evaluate import Score, best_threshold, candidates, network_maps, score_at
from training.exitwave import CacheError
from training.export import Probabilities, network_of, openvino_maps, to_onnx
from training.networks import FusionNet, NetworkName, Slim
from training.recipe import Recipe, RecipeError, load_recipe
from training.sources import judged_images
from training.timing import processor
from training.train import train

FIELD_NM = 10.24  # side of the picture that is timed
_REPEATS = 9
_GRAIN_PX = 16  # of which sides are multiples


@dataclass(frozen=True, slots=True)
class Size:
    """A network, trained.

    Attributes
    ----------
    label : its name and its sampling in nm/px.
    scores : by dose in e/Å², at the threshold of the highest mean F1.
    parameters : number of its weights.
    ms : for a picture of FIELD_NM, network alone, fp32 in OpenVINO on one core; median.
    """

    label: str
    scores: dict[float, Score]
    parameters: int
    ms: float


def variant(recipe: Recipe, network: NetworkName, nm_px: float, steps: int, specimens: int) -> Recipe:
    """The recipe with another network, at another sampling of the same field of view."""
    finer = recipe.engine.nominal_nm_px / nm_px

    def resampled(section):
        low, high = section.sampling_angstrom_px
        return section.model_copy(
            update={
                "sampling_angstrom_px": (low / finer, high / finer),
                "side_px": _whole(section.side_px * finer),
            }
        )

    return recipe.model_copy(
        update={
            "engine": recipe.engine.model_copy(update={"nominal_nm_px": nm_px}),
            "specimen": resampled(recipe.specimen),
            "validation_specimen": resampled(recipe.validation_specimen),
            "data": recipe.data.model_copy(
                update={"crop_px": _whole(recipe.data.crop_px * finer), "training": specimens}
            ),
            "train": recipe.train.model_copy(
                update={"network": network, "steps": steps, "validate_every": steps, "patience": 0}
            ),
        }
    )


def measured(cache: Path, trained: dict[str, Path]) -> list[Size]:
    """Judge and time networks, by label, from their checkpoints; in timing they take turns."""
    torch.set_num_threads(1)
    found, onnx = [], {}
    rng = np.random.default_rng(0)
    for label, folder in trained.items():
        checkpoint = Checkpoint.load(folder / "checkpoint.pt")
        network = network_of(checkpoint)
        scores = _scores(network, checkpoint.recipe, cache)
        found.append((label, scores, sum(p.numel() for p in network.parameters())))
        channels = checkpoint.recipe.input_channels
        to_onnx(Probabilities(network), folder / "network.onnx", network.multiple_of, channels)
        side_px = _whole(FIELD_NM / checkpoint.recipe.engine.nominal_nm_px)
        image = rng.normal(size=(1, channels, side_px, side_px)).astype(np.float32)
        onnx[label] = (openvino_maps(folder / "network.onnx", threads=1), image)
    taken: dict[str, list[float]] = {label: [] for label in onnx}
    for turn in range(_REPEATS + 1):
        for label, (maps, image) in onnx.items():
            began = time.perf_counter()
            maps(image)
            if turn:  # the first does not count
                taken[label].append(1e3 * (time.perf_counter() - began))
    return [Size(label, scores, count, statistics.median(taken[label])) for label, scores, count in found]


def _scores(network: Slim | FusionNet, recipe: Recipe, cache: Path) -> dict[float, Score]:
    maps = network_maps(network)
    found = {
        dose: candidates(maps, network.stride, some, recipe)
        for dose, some in judged_images(recipe, cache).items()
    }
    threshold = best_threshold(found)
    return {dose: score_at(some, threshold) for dose, some in found.items()}


def _whole(side_px: float) -> int:
    return max(_GRAIN_PX, round(side_px / _GRAIN_PX) * _GRAIN_PX)


def markdown(sizes: list[Size], recipe: Recipe, steps: int, specimens: int) -> str:
    """A table, the fastest first."""
    doses = list(sizes[0].scores)
    head = ["network", "nm/px", "weights", f"ms for ({FIELD_NM:g} nm)²"]
    head += [f"F1 at {dose:g} e/Å²" for dose in doses] + [f"rms at {dose:g}, pm" for dose in doses[:2]]
    lines = [
        f"{recipe.name}, seed {recipe.train.seed}: each network from nothing, {steps} steps of {recipe.data.batch} "
        f"images of {specimens} specimens, at its best threshold on {recipe.data.validation} validation images per "
        f"dose, all conditions; network alone in OpenVINO, fp32, one core of {processor()}, in turns.",
        "",
        f"| {' | '.join(head)} |",
        "| --- " * len(head) + "|",
    ]
    for size in sorted(sizes, key=lambda size: size.ms):
        network, _, nm_px = size.label.partition("@")
        cells = [network, nm_px, f"{size.parameters:,}", f"{size.ms:.1f}"]
        cells += [f"{score.f1:.3f}" for score in size.scores.values()]
        cells += [f"{size.scores[dose].rms_pm:.1f}" for dose in doses[:2]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """`python -m training.sizes`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path, help="folder of the trainings, one in each folder, and of sizes.md")
    parser.add_argument(
        "networks", nargs="+", help=f"{', '.join(get_args(NetworkName))}, each perhaps @NM_PX"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--specimens", type=int, default=320, help="to train on")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of exit waves")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="processes that make images")
    asked = parser.parse_args()
    try:
        recipe, trained = with_seed(load_recipe(asked.recipe), asked.seed), {}
        for wanted in asked.networks:
            network, _, nm_px = wanted.partition("@")
            if network not in get_args(NetworkName):
                raise RecipeError(
                    f"there is no network {network!r}: expected {', '.join(get_args(NetworkName))}"
                )
            sampling = float(nm_px or recipe.engine.nominal_nm_px)
            label = f"{network}@{sampling:g}"
            folder = trained[label] = asked.out / label
            train(
                variant(recipe, network, sampling, asked.steps, asked.specimens), folder, cache=asked.cache,
                resume=(folder / "checkpoint.pt").exists(), device=asked.device, threads=1, workers=asked.workers,
            )  # fmt: skip
        table = markdown(measured(asked.cache, trained), recipe, asked.steps, asked.specimens)
        (asked.out / "sizes.md").write_text(table, encoding="utf-8")
        print(table)
    except (RecipeError, TrainingError, CacheError) as error:
        sys.exit(f"refused: {error}")


if __name__ == "__main__":
    main()
