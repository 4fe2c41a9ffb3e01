"""What a network must beat: a Laplacian of Gaussian tuned on every image by itself."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_laplace, maximum_filter

from training.dataset import Truth
from training.evaluate import Score, judge

_SIGMAS_PX = (1.2, 1.7, 2.2, 2.8, 3.5, 4.2, 5.0)
_THRESHOLDS = 24


def tuned_log(image: np.ndarray, truth: Truth) -> Score:
    """The best that a Laplacian of Gaussian can do on this image, knowing the truth.

    Scale (1.2 to 5 pixels), sign and threshold are those of the highest F1 against the truth itself.
    """
    best = judge(np.zeros((0, 2)), truth)
    for sigma in _SIGMAS_PX:
        response = gaussian_laplace(image.astype(np.float32), sigma)
        for signed in (response, -response):
            peak = (signed == maximum_filter(signed, size=2 * round(sigma) + 1)) & (signed > 0)
            yx = np.argwhere(peak)
            height = signed[peak]
            yx = yx + _parabola(signed, yx)
            for part in np.linspace(0, 1, _THRESHOLDS, endpoint=False):
                score = judge(yx[height >= np.quantile(height, part)], truth)
                if score.f1 > best.f1:
                    best = score
    return best


def _parabola(image: np.ndarray, yx: np.ndarray) -> np.ndarray:
    """Sub-pixel offsets (n, 2) of maxima at integer pixels (n, 2), from a parabola along each axis."""
    padded = np.pad(image, 1, mode="edge")
    y, x = yx.T + 1
    offsets = []
    for dy, dx in ((1, 0), (0, 1)):
        before, here, after = padded[y - dy, x - dx], padded[y, x], padded[y + dy, x + dx]
        curvature = np.minimum(before - 2 * here + after, -1e-12)
        offsets.append(np.clip((before - after) / (2 * curvature), -0.5, 0.5))
    return np.stack(offsets, -1)
