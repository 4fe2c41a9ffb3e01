"""Small movies of blobs with known places; for tests of finding and following without a network."""

from __future__ import annotations

import numpy as np


def draw(
    yx_px: np.ndarray, height: np.ndarray | float, sigma_px: float, shape: tuple[int, int]
) -> np.ndarray:
    """Gaussians, (ny, nx) f8."""
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])
    image = np.zeros(shape)
    for (cy, cx), h in zip(yx_px, np.broadcast_to(height, len(yx_px)), strict=True):
        image += h * np.exp(-(((y - cy) ** 2)[:, :1] + (x - cx) ** 2) / (2 * sigma_px**2))
    return image


def triangular(spacing_px: float, shape: tuple[int, int], turn: float = 0.2) -> np.ndarray:
    """The points of a close-packed layer within a frame, (n, 2)."""
    n = int(2 * max(shape) / spacing_px)
    i, j = np.mgrid[-n : n + 1, -n : n + 1]
    flat = spacing_px * np.stack([(np.sqrt(3) / 2 * j).ravel(), (i + 0.5 * j).ravel()], -1)
    c, s = np.cos(turn), np.sin(turn)
    yx = flat @ np.array([[c, s], [-s, c]]) + np.array(shape) / 2
    return yx[np.all((yx > -spacing_px) & (yx < np.array(shape) + spacing_px), axis=1)]


def honeycomb(period_px: float, shape: tuple[int, int]) -> np.ndarray:
    """Graphene's atoms within a frame, (n, 2); `period_px` is that of its first reflections."""
    lattice = triangular(2 / np.sqrt(3) * period_px, shape, turn=0.0)
    bond = 2 / 3 * period_px
    yx = np.concatenate([lattice, lattice + np.array([bond, 0.0])])
    return yx[np.all((yx > -period_px) & (yx < np.array(shape) + period_px), axis=1)]
