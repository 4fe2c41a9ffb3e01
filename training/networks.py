"""The reference FusionNet (Madsen et al. 2018, section 2.2) and its fast relatives.

Every network maps normalized images (b, c, ny, nx) to logits (b, k + 1, ny / stride, nx / stride); both sides of
the input must be multiples of `multiple_of`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

NetworkName = Literal[
    "slim16_s2", "slim16_wide_s2", "slim16_refined_s2", "slim32_s2", "fn16_s2", "fusionnet32"
]


class Slim(nn.Module):
    """Two conv3x3 per block behind a space-to-depth stem; the map comes out at the stem's resolution.

    Convolution, batch norm, ReLU in this order: it quantizes well, and the norm folds into the convolution.
    Four levels of F, 2F, 4F, 6F features with additive skips; the coarsest has a residual block more, for a view of
    240 pixels: whether atoms are dark or bright is told by the particle's edge, not by its bulk. `wide` has one more
    still, of every second and every fourth pixel, for a view of 430. `refined` has a residual block more wherever what
    was seen at a coarser level has been added.
    """

    def __init__(
        self,
        features: int,
        stride: int = 2,
        channels: int = 1,
        classes: int = 1,
        wide: bool = False,
        refined: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.multiple_of = stride, stride * 8
        widths = [features * k for k in (1, 2, 4, 6)]
        self.stem = nn.PixelUnshuffle(stride)
        self.pool = nn.MaxPool2d(2)
        inputs = [channels * stride**2, *widths]
        self.down = nn.ModuleList([_block(a, b) for a, b in zip(inputs, widths, strict=False)])
        self.deep = _block(widths[-1], widths[-1])
        self.wide = (
            nn.Sequential(*(_conv_norm(widths[-1], widths[-1], dilation=d) for d in (2, 4))) if wide else None
        )
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths)])
        self.join = nn.ModuleList([_block(w, w) for w in widths[:-1]])
        self.refine = nn.ModuleList([_block(w, w) for w in widths[:-1]] if refined else [])
        self.head = nn.Conv2d(features, classes + 1, 1)

    @property
    def additions(self) -> dict[str, nn.Sequential]:
        """The residual blocks that a network without them can be given, by name."""
        wide = {} if self.wide is None else {"wide": self.wide}
        return wide | {f"refine.{level}": block for level, block in enumerate(self.refine)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.down[0](self.stem(images))
        skips = []
        for level in self.down[1:]:
            skips.append(x)
            x = level(self.pool(x))
        x = x + self.deep(x)
        if self.wide is not None:
            x = x + self.wide(x)
        for level in reversed(range(len(skips))):
            # never negative: unsigned eight bits hold it to the last one
            x = self.join[level](torch.relu(skips[level] + self.up[level](x)))
            if self.refine:
                x = x + self.refine[level](x)
        return self.head(x)


class FusionNet(nn.Module):
    """Four levels of F to 8F features with residual blocks and additive long skips.

    At each level, down and up: conv3x3, a residual block of three conv3x3, conv3x3. `stride` 1 is the paper's
    network, with ReLU before batch norm; behind a stem (`stride` 2) the norm comes first, to quantize well.
    """

    def __init__(self, features: int, stride: int = 1, channels: int = 1, classes: int = 1) -> None:
        super().__init__()
        self.stride, self.multiple_of = stride, stride * 8
        norm_first = stride > 1
        widths = [features * 2**level for level in range(4)]
        self.stem = nn.PixelUnshuffle(stride) if stride > 1 else nn.Identity()
        inputs = [channels * stride**2, *widths]
        self.down = nn.ModuleList(
            [_FusionLevel(a, b, norm_first) for a, b in zip(inputs, widths, strict=False)]
        )
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * w, w, 4, 2, 1) for w in widths[:-1]])
        self.join = nn.ModuleList([_FusionLevel(w, w, norm_first) for w in widths[:-1]])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(features, classes + 1, 1)
        for transposed in self.up:
            _bilinear_(transposed.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.down[0](self.stem(images))
        skips = []
        for level in self.down[1:]:
            skips.append(x)
            x = level(self.pool(x))
        for up, join, skip in reversed(list(zip(self.up, self.join, skips, strict=True))):
            x = join(skip + up(x))
        return self.head(x)


class _FusionLevel(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm_first: bool) -> None:
        super().__init__()
        self.enter = _conv_norm(inputs, outputs, norm_first)
        self.residual = nn.Sequential(*[_conv_norm(outputs, outputs, norm_first) for _ in range(3)])
        self.leave = _conv_norm(outputs, outputs, norm_first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        return self.leave(x + self.residual(x))


class EveryWay(nn.Module):
    """A network asked in the eight orientations that a picture can have: the mean of its logits.

    Nothing is learned for it. What it does to noise differs from one orientation to the next, and does so less in the
    mean, at eight times the work (D. Cireşan, U. Meier, J. Schmidhuber, CVPR 2012, for such committees).
    """

    def __init__(self, network: Slim | FusionNet) -> None:
        super().__init__()
        self.network, self.mean, self.head = network, _Mean(), network.head
        self.stride, self.multiple_of = network.stride, network.multiple_of

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        views = []
        for picture, turned in ((images, False), (images.transpose(2, 3), True)):
            for axes in ((), (2,), (3,), (2, 3)):
                logits = self.network(picture.flip(axes)).flip(axes) if axes else self.network(picture)
                views.append(logits.transpose(2, 3) if turned else logits)
        return self.mean(views)


class _Mean(nn.Module):
    """By itself, so that what is exported can be told by its name."""

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        total = views[0]
        for view in views[1:]:
            total = total + view
        return total / len(views)


def build_network(name: NetworkName, channels: int = 1, classes: int = 1) -> Slim | FusionNet:
    """A network by the name of its kind, its features and its stride."""
    if name == "fusionnet32":
        return FusionNet(32, 1, channels, classes)
    if name == "fn16_s2":
        return FusionNet(16, 2, channels, classes)
    features, refined = 32 if name == "slim32_s2" else 16, name == "slim16_refined_s2"
    return Slim(features, 2, channels, classes, wide=refined or name == "slim16_wide_s2", refined=refined)


def _conv_norm(inputs: int, outputs: int, norm_first: bool = True, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=not norm_first)
    norm = nn.BatchNorm2d(outputs)
    return nn.Sequential(conv, norm, nn.ReLU()) if norm_first else nn.Sequential(conv, nn.ReLU(), norm)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_conv_norm(inputs, outputs), *_conv_norm(outputs, outputs))


def _bilinear_(weight: torch.Tensor) -> None:
    """Fill a (in, out, 4, 4) transposed convolution so that it enlarges by two bilinearly, averaging channel pairs."""
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    inputs, outputs = weight.shape[:2]
    spread = math.ceil(inputs / outputs)
    with torch.no_grad():
        weight.zero_()
        for i in range(inputs):
            weight[i, i % outputs] = torch.outer(tent, tent) / spread
