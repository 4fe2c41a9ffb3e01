"""Training a network from a recipe: `train("training/recipes/au-on-oxide.toml", out)`.

Several processes, a GPU each: `torchrun --nproc-per-node 2 -m training.train RECIPE OUT`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits  # comes with abTEM

from training.checkpoint import TrainingError, checkpoint_to_resume, with_seed
from training.curves import Curve
from training.dataset import DEFAULT_CACHE
from training.descent import Descent
from training.device_images import DeviceImages
from training.evaluate import candidates, network_maps, score_at
from training.exitwave import CacheError
from training.ranks import joined
from training.recipe import Recipe, RecipeError, load_recipe
from training.samples import draw_samples
from training.shipped import begin_with
from training.sources import Shown, judged_images, make_waves, training_images

log = logging.getLogger(__name__)
_ROW = 50  # steps that are averaged into a row of curve.csv
_SETTLING = 32  # batches that an engine's norms are measured on
Batch = tuple[torch.Tensor, torch.Tensor]


def train(
    recipe: Recipe | Path | str,
    out_dir: Path | str,
    *,
    cache: Path | str = DEFAULT_CACHE,
    resume: bool = False,
    start_from: Path | str | None = None,
    seed: int | None = None,
    device: str = "auto",
    threads: int = 2,
    workers: int = 1,
) -> Path:
    """Train as the recipe says; on a GPU, as its section [gpu] says otherwise.

    Writes into `out_dir`: `checkpoint.pt`, the last, and `best.pt`, that of the highest F1 averaged over doses;
    `curve.csv` (step, loss, rate, seconds per step in all and of these waiting for images), `validation.csv` (F1 per
    dose) and `samples/step-*.png`. Interrupted, it goes on from the last checkpoint with `resume`; on a CPU to the bit
    on the same machine, on a GPU as far as its kernels are deterministic.

    Parameters
    ----------
    recipe : or its file.
    cache : folder of exit waves.
    start_from : checkpoint of another training of the same network, or engine in fp32 (.onnx), whose weights this one
        begins with.
    seed : in place of the recipe's: of the first weights and of all images.
    device : "auto", "cpu" or a card like "cuda:0".
    threads : of torch on a CPU.
    workers : processes that make images on a CPU; those of STEM recipes also where the network is on a GPU.

    Returns
    -------
    The last checkpoint; where the recipe stops early, the best.

    Raises
    ------
    RecipeError
        If the recipe cannot be followed.
    TrainingError
        If the loss is no longer a number, the folder holds another training, a checkpoint is of another recipe, or
        there is no such device.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    recipe, out, cache = with_seed(recipe, seed), Path(out_dir), Path(cache)
    with joined(device) as ranks:
        recipe = recipe.followed_on("cuda" if ranks.device.type == "cuda" else "cpu")
        path, start = out / "checkpoint.pt", None
        if resume:
            start = checkpoint_to_resume(path, recipe, ranks.count)
        elif path.exists():
            raise TrainingError(f"{out} already holds a training; resume it, or train into another folder")
        torch.set_num_threads(threads)
        torch.manual_seed(recipe.train.seed)
        descent = Descent(recipe, ranks, start, Path(start_from) if start_from else None)
        if not descent.finished:
            if ranks.writes:  # the others read them when they are there
                make_waves(recipe, cache, max(2, os.cpu_count() or 2))
            ranks.wait()
            if descent.shipped:
                begin_with(descent.network, descent.shipped, _never_trained_on(recipe, cache, descent))
            _go_down(descent, out, _images(recipe, cache, descent, workers), cache)
        return out / "best.pt" if recipe.train.patience else path


def _images(recipe: Recipe, cache: Path, descent: Descent, workers: int) -> Iterator[Batch]:
    """The batches of the steps to come, where the network is: of n processes, each takes every n-th."""
    ranks = descent.ranks
    numbers = range(descent.step * ranks.count + ranks.rank, recipe.train.steps * ranks.count, ranks.count)
    made = training_images(recipe, cache, descent.network.stride, ranks.device)
    if isinstance(made, DeviceImages):
        return (made[number] for number in numbers)
    loader = torch.utils.data.DataLoader(
        made,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )
    return ((images.to(ranks.device), labels.to(ranks.device)) for images, labels in loader)


def _never_trained_on(recipe: Recipe, cache: Path, descent: Descent) -> Iterator[torch.Tensor]:
    """Images as training has them, of steps after the last one; where the network is."""
    made, device = (
        training_images(recipe, cache, descent.network.stride, descent.ranks.device),
        descent.ranks.device,
    )
    return (made[recipe.train.steps + number][0].to(device) for number in range(_SETTLING))


def _go_down(descent: Descent, out: Path, images: Iterator[Batch], cache: Path) -> None:
    """Step by step to the end, writing down what becomes of it; of several processes, only the first writes."""
    recipe, ranks, settings = descent.recipe, descent.ranks, descent.recipe.train
    scribe = _Scribe(descent, out, judged_images(recipe, cache)) if ranks.writes else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=scribe is None) as progress:
        task = progress.add_task(recipe.name, total=settings.steps, completed=descent.step)
        losses, waited_s, since_s = [], 0.0, time.monotonic()
        descent.network.train()
        while not descent.finished:
            before_s = time.monotonic()
            batch, labels = next(images)
            if ranks.device.type == "cuda":  # images are finished only then
                torch.cuda.synchronize(ranks.device)
            waited_s += time.monotonic() - before_s
            losses.append(descent.down(batch, labels))
            step, last = descent.step, descent.step == settings.steps
            if len(losses) == _ROW or last:
                mean, pace_s = sum(losses) / len(losses), (time.monotonic() - since_s) / len(losses)
                if scribe:
                    scribe.note(mean, pace_s, waited_s / len(losses))
                progress.update(task, completed=step, description=f"{recipe.name}  loss {mean:.4f}")
                losses, waited_s, since_s = [], 0.0, time.monotonic()
            judged = step % settings.validate_every == 0 or last
            if scribe and judged:
                scribe.validate()
            if scribe and (judged or step % settings.checkpoint_every == 0):
                descent.checkpoint().save(out / "checkpoint.pt")
            if judged:
                if ranks.agree(descent.stopping.done):
                    log.info("no better F1 in %d validations: stopped at step %d", settings.patience, step)
                    break
                losses, waited_s, since_s = [], 0.0, time.monotonic()


class _Scribe:
    """Writes the tables, the pictures and the best checkpoint into a folder."""

    def __init__(self, descent: Descent, out: Path, shown: Shown) -> None:
        self.descent, self.out, self.shown = descent, out, shown
        out.mkdir(parents=True, exist_ok=True)
        self.curve = Curve(
            out / "curve.csv", ["loss", "rate", "s_per_step", "s_waiting_for_images"], descent.step
        )
        self.scores = Curve(
            out / "validation.csv", [f"f1_{dose:g}_e_angstrom2" for dose in shown], descent.step
        )

    def note(self, loss: float, s_per_step: float, s_waiting: float) -> None:
        """A row of the curve."""
        self.curve.add(
            self.descent.step,
            f"{loss:.6f}",
            f"{self.descent.rate:.3e}",
            f"{s_per_step:.4f}",
            f"{s_waiting:.4f}",
        )

    def validate(self) -> None:
        """A row of F1 by dose, a picture, and the checkpoint if it is the best so far."""
        descent, recipe = self.descent, self.descent.recipe
        maps = network_maps(descent.network)
        found = {
            dose: candidates(maps, descent.network.stride, some, recipe) for dose, some in self.shown.items()
        }
        f1 = {dose: score_at(some, 0.5).f1 for dose, some in found.items()}
        descent.network.train()
        log.info("step %d: F1 %s", descent.step, {f"{dose:g} e/Å²": round(x, 4) for dose, x in f1.items()})
        self.scores.add(descent.step, *(f"{x:.4f}" for x in f1.values()))
        draw_samples(self.out / f"samples/step-{descent.step:06d}.png", self.shown, found)
        if descent.stopping.is_best(sum(f1.values()) / len(f1), descent.late):
            descent.checkpoint().save(self.out / "best.pt")


def _one_thread(_: int) -> None:
    """In a process that makes images: numpy's products of matrices (`labels.column_map`) stall with a second one."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def main() -> None:
    """`python -m training.train`, which torchrun starts several of; rank 0 exports the engine in the end."""
    parser = argparse.ArgumentParser(
        description="Train as `hopscope train` does, in the processes of torchrun."
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of exit waves")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUT")
    parser.add_argument("--start-from", type=Path, help="a checkpoint, or a -fp32.onnx, to begin with")
    parser.add_argument("--seed", type=int, help="in place of the recipe's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch, per process")
    parser.add_argument("--workers", type=int, default=1, help="processes that make images, per process")
    parser.add_argument(
        "--no-export", action="store_true", help="leave the engine to `hopscope train --resume`"
    )
    options = vars(parser.parse_args())
    export_it = not options.pop("no_export") and os.environ.get("RANK", "0") == "0"
    recipe, out = options.pop("recipe"), options.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        checkpoint = train(recipe, out, **options)
        if export_it:
            from training.export import export

            export(checkpoint, load_recipe(recipe).name, out, cache=options["cache"])
    except (RecipeError, TrainingError, CacheError) as error:
        sys.exit(f"refused: {error}")


if __name__ == "__main__":
    main()
