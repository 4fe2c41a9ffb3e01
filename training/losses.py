"""What a network is scored by while it learns."""

from __future__ import annotations

import torch
from torch import nn


def soft_cross_entropy(logits: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy between class maps and soft labels, in nats.

    Parameters
    ----------
    logits : (b, k + 1, ny, nx), channel 0 the background.
    foreground : (b, k, ny, nx), label maps of the classes; the background's is 1 - their sum.
    """
    background = (1 - foreground.sum(1, keepdim=True)).clamp_min(0)
    return nn.functional.cross_entropy(logits.float(), torch.cat([background, foreground], 1))


def mean_squared_error(logits: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the class maps, as Madsen et al. (2018) trained; shapes as above."""
    return nn.functional.mse_loss(torch.softmax(logits.float(), 1)[:, 1:], foreground)
