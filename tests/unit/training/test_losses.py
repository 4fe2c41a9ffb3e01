# ruff: noqa: E402  (what needs torch is imported after asking for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.labels import column_map
from training.losses import misplacement

YX = np.array([[20.3, 14.8], [20.1, 30.2], [41.7, 22.0], [0.4, 50.0]])


def maps(yx: np.ndarray, width_px: float, height: float = 0.9, classes: int = 1) -> torch.Tensor:
    whole = height * torch.from_numpy(column_map(yx, (32, 32), width_px, stride=2))[None, None]
    return whole.repeat(1, classes, 1, 1) / classes


def logits(foreground: torch.Tensor) -> torch.Tensor:
    return torch.cat([1 - foreground.sum(1, keepdim=True), foreground], 1).clamp_min(1e-12).log()


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("height", [0.9, 0.3])
def test_misplacement_is_the_shift_over_the_square_of_the_width(height, classes):
    shift = np.array([0.3, -0.2])
    off = misplacement(logits(maps(YX + shift, 2.4, height, classes)), maps(YX, 2.4, 1.0, classes)).item()
    assert off == pytest.approx(np.hypot(*shift) / 2 / 1.2**2, rel=0.1)  # map pixels are two of the image


def test_a_peak_that_is_lower_or_wider_is_not_misplaced():
    labels = maps(YX[:3], 2.4, 1.0)
    for width, height in ((2.4, 0.2), (3.2, 0.6), (2.0, 0.9)):
        assert misplacement(logits(maps(YX[:3], width, height)), labels).item() < 0.02


def test_misplacement_pulls_a_peak_to_its_column():
    labels, yx = maps(YX, 2.4, 1.0), torch.tensor(YX + 0.4, requires_grad=True)
    at = torch.arange(32) * 2.0 + 0.5
    distance2 = (at[:, None, None] - yx[:, 0]) ** 2 + (at[None, :, None] - yx[:, 1]) ** 2
    foreground = 0.8 * torch.exp(-distance2 / 2 / 2.4**2).sum(-1)[None, None]
    misplacement(logits(foreground.float()), labels).backward()
    assert yx.grad is not None
    assert (yx.grad > 0).all()


def test_nothing_to_see_is_nothing_misplaced():
    empty = torch.zeros(1, 1, 32, 32)
    flat = torch.zeros(1, 2, 32, 32, requires_grad=True)
    loss = misplacement(flat, empty)
    loss.backward()
    assert loss.item() == 0
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()
