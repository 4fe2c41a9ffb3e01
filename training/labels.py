"""The maps a network is to produce (SCIENCE of the label: Madsen et al. 2018, section 2.4)."""

from __future__ import annotations

import numpy as np


def column_map(
    yx_px: np.ndarray,
    shape_yx: tuple[int, int],
    width_px: float | np.ndarray,
    stride: int = 1,
    height: float | np.ndarray = 1.0,
) -> np.ndarray:
    """P(y, x) = Σ_n h_n exp(-|r - r_n|² / 2w²), at most 1.

    Parameters
    ----------
    yx_px : (n, 2) column positions in pixels of the image.
    shape_yx : (ny, nx) of the map; its pixel (i, j) lies at image pixel ((i + 0.5) stride - 0.5, ...).
    width_px : w, one for all columns or (n,), in pixels of the image.
    height : h, one for all or (n,): less than 1 where it is not certain that a column is to be reported.

    Returns
    -------
    (ny, nx) f4.
    """
    if len(yx_px) == 0:
        return np.zeros(shape_yx, np.float32)
    y, x = (((np.arange(n) + 0.5) * stride - 0.5).astype(np.float32) for n in shape_yx)
    yx_px = np.asarray(yx_px, np.float32)
    narrowness = np.float32(1 / 2) / np.broadcast_to(np.asarray(width_px, np.float32), len(yx_px)) ** 2
    # a two-dimensional Gaussian is a product: the sum over columns is one product of matrices
    along_y = np.exp(-((yx_px[:, :1] - y) ** 2) * narrowness[:, None])
    along_x = np.exp(-((yx_px[:, 1:] - x) ** 2) * narrowness[:, None])
    along_y *= np.broadcast_to(np.asarray(height, np.float32), len(yx_px))[:, None]
    return np.minimum(along_y.T @ along_x, np.float32(1))
