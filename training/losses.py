"""What a network is scored by while it learns."""

from __future__ import annotations

import math

import torch
from torch import nn

EXACT_PX = 0.2  # of the map
_MIDDLE = 12  # of the 25 pixels of a fit
_NEXT = [6, 7, 8, 11, 13, 16, 17, 18]  # and those around it


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
    """How far columns would be reported from where they are: mean over the labels' peaks, in pixels of the map.

    At each peak of the label, the fit by which columns are found (`stream.peaks`) is made of the network's map and of
    the label; the loss is Huber's of their distance along y and along x: squares up to `EXACT_PX`, so that the columns
    of noisy images, which are off by more, do not outweigh the others. Cross-entropy hardly asks where a peak is: a
    fifth of its width costs 0.3 % of what a missed column does. What the network does not see (low in its own map)
    counts the less; shapes as above.
    """
    shown = torch.logsumexp(torch.log_softmax(logits.float(), 1)[:, 1:], 1)
    label = foreground.float().sum(1)
    image, i, j = _peaks(label)
    height, best = shown.detach()[(image[:, None], *_around(i, j, 1))].max(1)  # where the fit begins
    p, q = i + best // 3 - 1, j + best % 3 - 1
    found, is_peak = _fit(shown, image, p, q)
    there, _ = _fit(label.clamp_min(1e-6).log(), image, i, j)
    off = found + torch.stack([p - i, q - j], 1) - there
    seen = height.exp() * is_peak
    loss = nn.functional.huber_loss(off, torch.zeros_like(off), reduction="none", delta=EXACT_PX).sum(1)
    return (loss * seen).sum() / seen.sum().clamp_min(1)


def _peaks(label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, row and column of the label's maxima; not of those so near to the border that a fit has less than 5x5."""
    peak = (label == nn.functional.max_pool2d(label[:, None], 3, 1, 1)[:, 0]) & (label > 0.3)
    inner = torch.zeros_like(peak)
    inner[:, 3:-3, 3:-3] = peak[:, 3:-3, 3:-3]
    image, i, j = inner.nonzero(as_tuple=True)
    return image, i, j


def _around(i: torch.Tensor, j: torch.Tensor, reach: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns, (n, pixels), of the pixels around each of n."""
    steps = torch.arange(-reach, reach + 1, device=i.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return i[:, None] + y.flatten(), j[:, None] + x.flatten()


def _fit(
    log_p: torch.Tensor, image: torch.Tensor, i: torch.Tensor, j: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """ln p = a + b y + c x + d (y² + x²) around pixels (i, j), as in `stream.peaks`.

    Returns
    -------
    Its maximum, (n, 2) pixels from there, and at most one along y and along x; and (n,) whether it has one and (i, j)
    is a maximum of the map.
    """
    rows, columns = _around(i, j, 2)
    z = log_p[image[:, None], rows, columns]
    y, x = (rows - i[:, None]).float(), (columns - j[:, None]).float()
    with torch.no_grad():
        inward = (rows - (y / 2).trunc().long(), columns - (x / 2).trunc().long())
        rises = (y.abs().maximum(x.abs()) == 2) & (z >= log_p[(image[:, None], *inward)])
        used = ~rises & (z > math.log(1e-3))
        weight = used * torch.exp(2 * (z - z.amax(1, keepdim=True)) - (y**2 + x**2) / 3)
    terms = torch.stack([torch.ones_like(y), y, x, y**2 + x**2], 2)
    weighed = (terms * weight[..., None]).transpose(1, 2)
    few = 1e-4 * torch.eye(4, device=z.device)  # so that there is a solution where too few pixels are used
    _, b, c, d = torch.linalg.solve(weighed @ terms + few, weighed @ z[..., None])[..., 0].unbind(1)
    is_peak = (d < -1e-2) & (z[:, _NEXT] <= z[:, _MIDDLE, None]).all(1)
    place = -0.5 * torch.stack([b, c], 1) / torch.where(is_peak, d, -1.0)[:, None]
    return place.clamp(-1, 1), is_peak
