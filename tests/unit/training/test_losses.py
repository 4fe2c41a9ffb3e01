"""The loss for positions: what is asked of a map is where its columns would be reported."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from stream.columns import find_columns
from training.labels import column_map
from training.losses import misplacement, soft_cross_entropy

STRIDE, WIDTH_PX, SIDE = 2, 2.25, 80  # of gold's maps


def columns(rng: np.random.Generator) -> np.ndarray:
    """A lattice of columns that are displaced, in pixels of the image."""
    grid = np.stack(np.meshgrid(*[np.arange(8, 152, 12.0)] * 2, indexing="ij"), -1).reshape(-1, 2)
    return grid + rng.normal(0, 1, grid.shape)


def drawn(yx_px: np.ndarray, width_px: float = WIDTH_PX, height: float = 1.0) -> np.ndarray:
    return column_map(yx_px, (SIDE, SIDE), width_px, STRIDE, height)


def logits_of(shown: np.ndarray) -> torch.Tensor:
    shown = shown.clip(1e-6, 1 - 1e-6)
    return torch.log(torch.from_numpy(np.stack([1 - shown, shown]))[None])


def label_of(yx_px: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(drawn(yx_px))[None, None]


@pytest.mark.parametrize("shift_px", [0.1, 0.2, 0.3])
def test_it_is_the_square_of_how_far_columns_are_off(shift_px: float) -> None:
    yx_px = columns(np.random.default_rng(1))
    loss = misplacement(logits_of(drawn(yx_px + np.array([0, shift_px]))), label_of(yx_px))
    assert float(loss) == pytest.approx((shift_px / STRIDE) ** 2 / 2, rel=0.03)


def test_how_high_and_how_wide_peaks_are_is_not_asked() -> None:
    yx_px = columns(np.random.default_rng(2))
    for width_px, height in ((WIDTH_PX, 1.0), (WIDTH_PX, 0.4), (1.2 * WIDTH_PX, 0.8)):
        assert float(misplacement(logits_of(drawn(yx_px, width_px, height)), label_of(yx_px))) < 1e-3


def test_it_is_least_where_columns_are_reported_where_they_are() -> None:
    """Gradient descent on a map's own pixels; a loss that flat peaks satisfy would leave the columns anywhere."""
    rng = np.random.default_rng(3)
    yx_px = columns(rng)
    label = label_of(yx_px)
    logits = logits_of(drawn(yx_px + rng.normal(0, 0.5, yx_px.shape))).requires_grad_()
    descent = torch.optim.Adam([logits], 0.02)
    off = []
    for _ in range(150):
        maps = torch.softmax(logits.detach(), 1)[0].numpy()
        found = find_columns(maps, STRIDE, 0.3).yx_px
        apart_px = np.linalg.norm(found[:, None] - yx_px[None], axis=2).min(0)
        off.append(np.sqrt((apart_px**2).mean()))
        descent.zero_grad()
        (misplacement(logits, label) + 0.1 * soft_cross_entropy(logits, label)).backward()
        descent.step()
    assert off[0] > 0.5
    assert off[-1] < 0.05


def test_rubbish_has_a_loss_and_a_slope() -> None:
    rng = np.random.default_rng(4)
    generator = torch.Generator().manual_seed(4)
    for scale in (0.0, 0.1, 1.0, 5.0, 20.0) * 10:
        logits = (scale * torch.randn((2, 2, SIDE, SIDE), generator=generator)).requires_grad_()
        labels = torch.cat([label_of(rng.uniform(0, 160, (80, 2))), torch.zeros(1, 1, SIDE, SIDE)])
        loss = misplacement(logits, labels)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


def test_a_map_without_columns_costs_nothing() -> None:
    logits = torch.zeros(1, 2, SIDE, SIDE, requires_grad=True)
    loss = misplacement(logits, torch.zeros(1, 1, SIDE, SIDE))
    loss.backward()
    assert loss.item() == 0
