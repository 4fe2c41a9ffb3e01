"""Where a training runs: one process on a CPU or a GPU, or several that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from training.checkpoint import TrainingError

# A first run makes exit waves in one process while the others wait; torchrun itself ends them all when one dies.
_LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one network together.

    Attributes
    ----------
    rank, count : the how manieth of how many; rank 0 writes.
    device : the network's.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()

    def share(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over all processes; its batch norms follow rank 0."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(
            network, device_ids=[self.device] if self.device.type == "cuda" else None
        )

    def mean(self, value: torch.Tensor) -> float:
        """Over all processes; not a number if one is none."""
        if self.count > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
            value /= self.count
        return value.item()

    def agree(self, decision: bool) -> bool:
        """What rank 0 decides."""
        if self.count == 1:
            return decision
        flag = torch.tensor([float(decision)], device=self.device)
        dist.broadcast(flag, 0)
        return bool(flag.item())


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the other processes, if torchrun started this one (gloo between CPUs, nccl between GPUs).

    Parameters
    ----------
    device : "auto", "cpu", or a card like "cuda:0"; auto and "cuda" take the card of the process's number.

    Raises
    ------
    TrainingError
        If there is no such device, or several processes are to share one card.
    """
    count, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    chosen = _device(device, local)
    if count == 1:
        yield Ranks(0, 1, chosen)
        return
    if chosen.type == "cuda" and chosen.index != local:
        raise TrainingError(
            f"{count} processes cannot all train on {chosen}: expected --device cuda or auto, which give each its own"
        )
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_LONGEST_WAIT)
    try:
        yield Ranks(dist.get_rank(), count, chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and cards == 0):
        return torch.device("cpu")
    wanted = f"cuda:{local}" if name in ("auto", "cuda") else name
    if not (wanted.startswith("cuda:") and wanted[5:].isdecimal()):
        raise TrainingError(f"cannot train on {name!r}: expected auto, cpu, cuda, or a card like cuda:0")
    if int(wanted[5:]) >= cards:
        raise TrainingError(
            f"cannot train on {wanted}: torch sees {cards} cards; check its CUDA build and nvidia-smi, or take cpu"
        )
    device = torch.device(wanted)
    torch.cuda.set_device(device)
    return device
