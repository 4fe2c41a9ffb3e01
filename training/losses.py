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


def misplacement(logits: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
    """How far the map's peaks lie from the labels', in 1 / pixels of the map; the mean over the labels' peaks.

    Of log(map / label), the slope averaged over a peak with the label's fourth power: a peak of width s that lies d
    off has a slope of d / s² there, whatever its height; one that is only wider has none. Cross-entropy hardly asks
    where a peak is: a shift by a fifth of its width costs less than a hundredth of what a missed column does. What the
    network does not see (low in its own map) counts the less; shapes as above.
    """
    shown = torch.logsumexp(torch.log_softmax(logits.float(), 1)[:, 1:], 1, keepdim=True)
    label = foreground.float().sum(1, keepdim=True)
    ratio = nn.functional.pad(shown - label.clamp_min(1e-2).log(), (1, 1, 1, 1), mode="replicate")
    slope = torch.cat(
        [ratio[..., 2:, 1:-1] - ratio[..., :-2, 1:-1], ratio[..., 1:-1, 2:] - ratio[..., 1:-1, :-2]], 1
    )
    weight = label**4
    over_peak = nn.functional.avg_pool2d(torch.cat([slope / 2 * weight, weight], 1), 5, 1, 2)
    off = torch.linalg.vector_norm(over_peak[:, :2] / over_peak[:, 2:].clamp_min(1e-6), dim=1, keepdim=True)
    peak = (label == nn.functional.max_pool2d(label, 3, 1, 1)) & (label > 0.5)
    seen = shown.detach().exp() * peak
    return (off * seen).sum() / seen.sum().clamp_min(1)
