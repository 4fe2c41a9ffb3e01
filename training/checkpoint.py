"""A training as it stands: written whole or not at all, and only resumed by the recipe it was begun with."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.recipe import Recipe


class TrainingError(Exception):
    """Training cannot start or go on; what was written before is untouched."""


@dataclass(frozen=True)
class Checkpoint:
    """A network as trained so far, with the recipe it follows and all that is needed to go on.

    `best_f1` and `stale` are the early stopping's (`curves.EarlyStopping`), `processes` how many trained together.
    `begun_with` tells the trainings whose weights this one began with, the first of them first.
    """

    recipe: Recipe
    step: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    commit: str = "unknown"
    best_f1: float = -1.0
    stale: int = 0
    processes: int = 1
    begun_with: tuple[str, ...] = ()

    @property
    def lineage(self) -> tuple[str, ...]:
        """What a training that begins with these weights is `begun_with`."""
        recipe = self.recipe
        mine = f"{recipe.name}, seed {recipe.train.seed}, {self.step} steps, commit {self.commit}"
        return (*self.begun_with, mine)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            torch.save({**self.__dict__, "recipe": self.recipe.model_dump_json()}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read one.

        Raises
        ------
        TrainingError
            If the file is not a checkpoint of this program.
        """
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            return cls(**{**stored, "recipe": Recipe.model_validate_json(stored["recipe"])})
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"{path} is not a checkpoint that can be read ({error}); train anew"
            ) from error


def checkpoint_to_resume(path: Path, recipe: Recipe, processes: int) -> Checkpoint:
    """The checkpoint to go on from.

    Raises
    ------
    TrainingError
        If there is none, or it is of another recipe, another seed or another number of processes.
    """
    if not path.exists():
        raise TrainingError(f"nothing to resume: there is no {path}; train without resuming")
    start = Checkpoint.load(path)
    theirs, ours = start.recipe, recipe
    if theirs != ours and theirs == with_seed(ours, theirs.train.seed):
        raise TrainingError(
            f"{path} was trained with seed {theirs.train.seed}, not {ours.train.seed}: "
            f"resume with --seed {theirs.train.seed}, or train into another folder"
        )
    if theirs != ours:
        digests = [hashlib.sha256(r.model_dump_json().encode()).hexdigest()[:8] for r in (theirs, ours)]
        raise TrainingError(
            f"{path} was trained by another recipe ({digests[0]}, not {digests[1]}): resume with the recipe it was "
            "started with, on the device it was started on (a section [gpu] makes another recipe of it), or train "
            "into another folder"
        )
    if start.processes != processes:
        raise TrainingError(
            f"{path} was trained by {start.processes} processes, not {processes}: their images would not go on where "
            "they stopped; resume with as many, or train into another folder"
        )
    return start


def with_seed(recipe: Recipe, seed: int | None) -> Recipe:
    """The recipe with another seed; itself for None."""
    if seed is None:
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})


def commit_of_this_checkout() -> str:
    """The commit, marked where files differ from it; "unknown" outside of a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-modified"]
    try:
        asked = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()
