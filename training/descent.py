"""The network on its way down: forward, back, a step; on a CPU, a GPU, or several of them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from training.checkpoint import Checkpoint, TrainingError, commit_of_this_checkout
from training.curves import EarlyStopping
from training.losses import mean_squared_error, misplacement, soft_cross_entropy
from training.networks import build_network
from training.ranks import Ranks
from training.recipe import Recipe
from training.shipped import Weights, lineage_of, weights_of

LOSSES = {"cross-entropy": soft_cross_entropy, "mean-squared": mean_squared_error}


class Descent:
    """The network with its optimizer and schedule, from the beginning or from a checkpoint.

    Attributes
    ----------
    shipped : weights of an engine that it is still to be given, for which images are needed (`shipped.begin_with`).
    """

    def __init__(
        self, recipe: Recipe, ranks: Ranks, start: Checkpoint | None, start_from: Path | None
    ) -> None:
        self.recipe, self.ranks, settings = recipe, ranks, recipe.train
        self.loss_of = LOSSES[settings.loss]
        network = build_network(settings.network, recipe.input_channels, len(recipe.classes)).to(
            memory_format=torch.channels_last
        )
        self.begun_with = start.begun_with if start else ()
        self.shipped: Weights | None = None
        if start is None and start_from is not None and start_from.suffix == ".onnx":
            self.shipped, self.begun_with = weights_of(start_from, network), lineage_of(start_from)
        elif start is None and start_from is not None:
            former = Checkpoint.load(start_from)
            held, wanted = (
                f"a {r.train.network} of {r.input_channels} images to {len(r.classes)} classes"
                for r in (former.recipe, recipe)
            )
            if held != wanted:
                raise TrainingError(
                    f"{start_from} holds {held}, this recipe trains {wanted}: start from a checkpoint of the same "
                    "network"
                )
            network.load_state_dict(former.network)
            self.begun_with = former.lineage
        elif start is not None:
            network.load_state_dict(start.network)
        self.network = network.to(ranks.device)
        self.shared = ranks.share(self.network)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), settings.peak_rate, weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.peak_rate, settings.steps, pct_start=settings.warm_up
        )
        self.step, self.commit = 0, commit_of_this_checkout()
        self.stopping = EarlyStopping(settings.patience)
        if start is not None:
            self.optimizer.load_state_dict(start.optimizer)
            self.schedule.load_state_dict(start.schedule)
            self.step, self.commit = start.step, start.commit
            self.stopping = EarlyStopping(settings.patience, start.best_f1, start.stale)

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.train.steps or self.stopping.done

    @property
    def rate(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    @property
    def late(self) -> bool:
        """Whether the rate has come down to less than half its peak."""
        settings = self.recipe.train
        return self.step > settings.warm_up * settings.steps and self.rate < settings.peak_rate / 2

    def down(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One step; the loss before it, averaged over all processes.

        Raises
        ------
        TrainingError
            If the loss or its slope is not a number; the weights are then as they were.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.train.bf16):
            logits = self.shared(images.contiguous(memory_format=torch.channels_last))
        loss = self.loss_of(logits, labels)
        if self.recipe.train.position_weight:
            loss = loss + self.recipe.train.position_weight * misplacement(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        slope = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        mean = self.ranks.mean(loss)
        for what, value in (("loss", mean), ("gradient", slope.item())):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {what} is {value} at step {self.step + 1}, expected a number: lower train.peak_rate; what "
                    "was written before is untouched"
                )
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return mean

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.recipe,
            self.step,
            self.network.state_dict(),
            self.optimizer.state_dict(),
            self.schedule.state_dict(),
            self.commit,
            self.stopping.best_f1,
            self.stopping.stale,
            self.ranks.count,
            self.begun_with,
        )
