"""How far trainings of one recipe differ that began with other seeds: `python -m training.spread runs/seed-*`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.checkpoint import Checkpoint, TrainingError, with_seed


@dataclass(frozen=True)
class Spread:
    """F1 on the validation set over several trainings.

    Attributes
    ----------
    recipe, step : what they followed, and how far.
    seeds : of each.
    f1 : per column of validation.csv, (seeds,) f8.
    """

    recipe: str
    step: int
    seeds: tuple[int, ...]
    f1: dict[str, np.ndarray]

    def markdown(self) -> str:
        """A table: mean and standard deviation (n - 1) over the seeds."""
        rows = [
            f"| {name} | {values.mean():.4f} | {values.std(ddof=1):.4f} | {', '.join(f'{x:.4f}' for x in values)} |"
            for name, values in self.f1.items()
        ]
        seeds = f"{len(self.seeds)} seeds ({', '.join(map(str, self.seeds))})"
        title = f"{self.recipe} after {self.step} steps, over {seeds}"
        return "\n".join(
            [title, "", "| | mean | standard deviation | each |", "| --- | --- | --- | --- |", *rows]
        )


def spread(folders: Sequence[Path]) -> Spread:
    """Read the last validations of trainings.

    Raises
    ------
    TrainingError
        If there are fewer than two, two of one seed, or they are not of one recipe and length.
    """
    if len(folders) < 2:
        raise TrainingError(
            f"a spread needs two trainings or more, got {len(folders)}: train with another --seed"
        )
    checkpoints = [Checkpoint.load(folder / "checkpoint.pt") for folder in folders]
    first, seeds = checkpoints[0], tuple(one.recipe.train.seed for one in checkpoints)
    if len(set(seeds)) < len(seeds):
        raise TrainingError(
            f"the seeds are {seeds}, expected each once: a training says nothing beside itself"
        )
    scores = []
    for folder, one in zip(folders, checkpoints, strict=True):
        if with_seed(one.recipe, first.recipe.train.seed) != first.recipe:
            raise TrainingError(
                f"{folder} follows another recipe than {folders[0]}, expected only the seeds to differ"
            )
        with (folder / "validation.csv").open(newline="", encoding="utf-8") as file:
            *_, last = csv.DictReader(file)
        if int(last["step"]) != first.step:
            raise TrainingError(
                f"{folder} was last validated at step {last['step']}, expected {first.step}, where {folders[0]} ends: "
                "resume it"
            )
        scores.append(last)
    names = [name for name in scores[0] if name != "step"]
    f1 = {name: np.array([float(row[name]) for row in scores]) for name in names}
    return Spread(first.recipe.name, first.step, seeds, f1)


if __name__ == "__main__":
    try:
        print(spread([Path(folder) for folder in sys.argv[1:]]).markdown())
    except TrainingError as error:
        sys.exit(f"refused: {error}")
