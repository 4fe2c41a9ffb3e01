"""A scanned picture: spots painted, and read row by row by a beam that drifts, jitters and lags. Lengths in pixels."""

from __future__ import annotations

import numpy as np
from numba import njit
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import gaussian_filter1d

Range = tuple[float, float]


class ScanSettings(BaseModel):
    """How the beam strays, in scanned pixels; drawn anew for every image.

    Attributes
    ----------
    jitter_px : range of the rms displacement of rows.
    drift_px : largest over the image, along y and x.
    flyback_px : largest lag where rows begin.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    jitter_px: Range = (0.0, 0.5)
    drift_px: float = Field(8.0, ge=0)
    flyback_px: float = Field(3.0, ge=0)


def scan(
    yx: np.ndarray, sigma: float, settings: ScanSettings, rng: np.random.Generator, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where in the simulated area pixels are taken, y (side,) and x (side, side), and where columns come to lie.

    A row is displaced as a whole: by drift, which goes on, and by jitter, which is new in every row or wanders from
    row to row. Where rows begin the beam lags behind. A column's rows are displaced one by one; its place is their mean
    under the spot.
    """
    row = np.arange(side)
    drift = rng.normal(0, settings.drift_px / 2, 2).clip(-settings.drift_px, settings.drift_px)
    jitter = rng.normal(0, rng.uniform(*settings.jitter_px), side)
    if rng.random() < 0.5:  # a wandering beam
        jitter = gaussian_filter1d(jitter, rng.uniform(0.5, 6))
    bend = np.sin(row / side * rng.uniform(1, 6) + rng.uniform(0, 6)) * rng.uniform(0, 1.5)
    sideways = drift[1] * (row / side - 0.5) + jitter + bend
    downwards = drift[0] * (row / side - 0.5)
    lag = rng.uniform(0, settings.flyback_px) * (rng.random() < 0.3)
    reach = rng.uniform(5, 25)

    scan_y = row + downwards
    scan_x = row + sideways[:, None] + lag * np.exp(-row / reach)
    smooth = gaussian_filter1d(sideways, sigma, mode="nearest")
    seen = yx.astype(float)
    for _ in range(8):  # the place whose scan position is the column's
        seen[:, 0] = yx[:, 0] - np.interp(seen[:, 0], row, downwards)
        sags = lag * np.exp(-np.maximum(seen[:, 1], -reach) / reach)
        seen[:, 1] = yx[:, 1] - np.interp(seen[:, 0], row, smooth) - sags
    return scan_y, scan_x, seen


@njit(cache=True, nogil=True)
def paint(image, yx, weight, sigma):
    """Add a Gaussian of a height and a width to the image for every column, out to 4.5 σ."""
    ny, nx = image.shape
    reach = 4.5 * sigma
    for k in range(len(yx)):
        y, x = yx[k]
        low_x, high_x = max(int(np.ceil(x - reach)), 0), min(int(x + reach), nx - 1)
        across = np.exp(-0.5 * ((np.arange(low_x, high_x + 1) - x) / sigma) ** 2)
        for i in range(max(int(np.ceil(y - reach)), 0), min(int(y + reach), ny - 1) + 1):
            height = weight[k] * np.exp(-0.5 * ((i - y) / sigma) ** 2)
            for j in range(len(across)):
                image[i, low_x + j] += height * across[j]


@njit(cache=True, nogil=True)
def _spline(t):
    """Weights of the cubic B-spline for the four pixels around a place t of 0 to 1 after the second."""
    return (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )


@njit(cache=True, nogil=True)
def read(image, y_of_row, x_of_pixel):
    """The image (ny, nx) where the scan takes it, smoothed by a cubic B-spline; every row at one height y."""
    ny, nx = image.shape
    out = np.empty(x_of_pixel.shape, np.float32)
    for i in range(out.shape[0]):
        top = min(max(int(np.floor(y_of_row[i])), 1), ny - 3)
        a, b, c, d = _spline(y_of_row[i] - top)
        row = a * image[top - 1] + b * image[top] + c * image[top + 1] + d * image[top + 2]
        for j in range(out.shape[1]):
            left = min(max(int(np.floor(x_of_pixel[i, j])), 1), nx - 3)
            a, b, c, d = _spline(x_of_pixel[i, j] - left)
            out[i, j] = a * row[left - 1] + b * row[left] + c * row[left + 1] + d * row[left + 2]
    return out
