"""Training a network from a recipe: `train("training/recipes/au-on-oxide.toml", out)`."""

from __future__ import annotations

import csv
import hashlib
import logging
import pickle
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from training.dataset import DEFAULT_CACHE
from training.evaluate import evaluate_network
from training.losses import mean_squared_error, soft_cross_entropy
from training.networks import build_network
from training.recipe import Recipe, load_recipe
from training.sources import judged_images, training_images

log = logging.getLogger(__name__)
_LOSSES = {"cross-entropy": soft_cross_entropy, "mean-squared": mean_squared_error}


class TrainingError(Exception):
    """Training cannot start or go on; what was written before is untouched."""


@dataclass(frozen=True)
class Checkpoint:
    """A network as trained so far, with the recipe it follows and all that is needed to go on."""

    recipe: Recipe
    step: int
    network: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    commit: str = "unknown"

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        partial = path.with_suffix(".part")
        torch.save({**self.__dict__, "recipe": self.recipe.model_dump_json()}, partial)
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


def train(
    recipe_path: Path | str,
    out_dir: Path | str,
    *,
    cache: Path | str = DEFAULT_CACHE,
    resume: bool = False,
    start_from: Path | str | None = None,
    threads: int = 2,
    workers: int = 1,
) -> Path:
    """Train as the recipe says.

    Writes `checkpoint.pt`, `curve.csv` (step, loss, rate, seconds per step) and `validation.csv` (F1 per dose) into
    `out_dir`. Interrupted, it goes on from the last checkpoint with `resume`, to the bit on the same machine.

    Parameters
    ----------
    cache : folder of exit waves.
    start_from : checkpoint of another training of the same network, whose weights this one begins with.
    threads : of torch; workers : processes that make images.

    Returns
    -------
    The path of the last checkpoint.

    Raises
    ------
    RecipeError
        If the recipe cannot be followed.
    TrainingError
        If the loss is no longer a number, the folder holds another training, or a checkpoint is of another recipe.
    """
    recipe = load_recipe(recipe_path)
    out, cache = Path(out_dir), Path(cache)
    path = out / "checkpoint.pt"
    start = _checkpoint_to_resume(path, recipe) if resume else None
    if path.exists() and start is None:
        raise TrainingError(f"{out} already holds a training; resume it, or train into another folder")
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.train.seed)
    settings = recipe.train
    network = build_network(settings.network, classes=len(recipe.classes)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), settings.peak_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.peak_rate, settings.steps, pct_start=settings.warm_up
    )
    if start is not None:
        network.load_state_dict(start.network)
        optimizer.load_state_dict(start.optimizer)
        schedule.load_state_dict(start.schedule)
    elif start_from is not None:
        former = Checkpoint.load(Path(start_from))
        held, wanted = ((r.train.network, len(r.classes)) for r in (former.recipe, recipe))
        if held != wanted:
            raise TrainingError(
                f"{start_from} holds a {held[0]} of {held[1]} classes, this recipe trains a {wanted[0]} of "
                f"{wanted[1]}: start from a checkpoint of the same network"
            )
        network.load_state_dict(former.network)
    first, commit = (0, _commit()) if start is None else (start.step, start.commit)

    dataset = training_images(recipe, cache, network.stride)
    judged = judged_images(recipe, cache)
    images = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, settings.steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )
    out.mkdir(parents=True, exist_ok=True)
    loss_of = _LOSSES[settings.loss]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, (out / "curve.csv").open("a", newline="") as file:
        curve = csv.writer(file)
        if first == 0:
            curve.writerow(["step", "loss", "rate", "s_per_step"])
        task = progress.add_task(recipe.name, total=settings.steps, completed=first)
        losses, since = [], time.monotonic()
        network.train()
        for step, (batch, labels) in enumerate(images, first + 1):
            loss = _descend(network, optimizer, loss_of, batch, labels, settings.bf16)
            if not torch.isfinite(torch.tensor(loss)):
                raise TrainingError(
                    f"the loss is {loss} at step {step}, expected a number: lower train.peak_rate; the last checkpoint "
                    f"({path}) is untouched"
                )
            schedule.step()
            losses.append(loss)
            if len(losses) == 50 or step == settings.steps:
                mean, pace = sum(losses) / len(losses), (time.monotonic() - since) / len(losses)
                curve.writerow([step, f"{mean:.6f}", f"{schedule.get_last_lr()[0]:.3e}", f"{pace:.4f}"])
                file.flush()
                progress.update(task, completed=step, description=f"{recipe.name}  loss {mean:.4f}")
                losses, since = [], time.monotonic()
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                state = network.state_dict(), optimizer.state_dict(), schedule.state_dict()
                Checkpoint(recipe, step, *state, commit).save(path)
            if step % settings.validate_every == 0 or step == settings.steps:
                _validate(network, judged, recipe, step, out / "validation.csv")
                since = time.monotonic()
    return path


def _descend(
    network: nn.Module, optimizer, loss_of, images: torch.Tensor, labels: torch.Tensor, bf16: bool
) -> float:
    """One step; the loss before it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    loss = loss_of(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _validate(network: nn.Module, judged, recipe: Recipe, step: int, path: Path) -> None:
    """Append one row of F1 by dose."""
    scores = evaluate_network(network, judged, recipe)
    new = not path.exists()
    with path.open("a", newline="") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(["step", *(f"f1_{dose:g}_e_angstrom2" for dose in scores)])
        rows.writerow([step, *(f"{score.f1:.4f}" for score in scores.values())])
    log.info("step %d: F1 %s", step, {f"{dose:g} e/Å²": round(score.f1, 4) for dose, score in scores.items()})
    network.train()


def _checkpoint_to_resume(path: Path, recipe: Recipe) -> Checkpoint:
    if not path.exists():
        raise TrainingError(f"nothing to resume: there is no {path}; train without resuming")
    start = Checkpoint.load(path)
    if start.recipe != recipe:
        digests = [
            hashlib.sha256(r.model_dump_json().encode()).hexdigest()[:8] for r in (start.recipe, recipe)
        ]
        raise TrainingError(
            f"{path} was trained by another recipe ({digests[0]}, not {digests[1]}): resume with the recipe it was "
            "started with, or train into another folder"
        )
    return start


def _commit() -> str:
    """The commit of this checkout, marked where files differ from it; "unknown" outside of one."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-modified"]
    try:
        asked = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
