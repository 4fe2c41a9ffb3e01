"""Peaks of an image's power spectrum: the spatial frequencies of the lattices in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.fft import fft2, fftfreq, fftshift
from scipy.ndimage import gaussian_filter, maximum_filter

MOST_PEAKS = 40
TILE_PX = 2048  # no piece is larger
_SMOOTHING_BINS = 1.0
_NEIGHBOURHOOD_BINS = 7  # a peak is the highest of so many
_RING_BINS = 3  # width of the rings in which the background is taken
LEAST_PERIODS = 10  # across the image; what is coarser is the specimen's outline
FINEST = 0.48  # cycles per pixel; beyond lies the Nyquist frequency
_CLIPPED = (
    5e-4  # share of the darkest and of the brightest pixels that are cut to the next ones: X-rays, hot pixels
)
_SIGNIFICANT = 6.0  # deviations of one spectrum; 1e5 smoothed exponential deviates seldom reach it


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peaks of a power spectrum, the strongest first; one of each pair ±q.

    Attributes
    ----------
    q : (n,) c16, frequencies in cycles per pixel, along x + i · along y.
    strength : (n,) f8, power over that of the background at the same |q|; what exceeds it counts √n times in n images.
    bin : of the spectrum, in cycles per pixel.
    """

    q: np.ndarray
    strength: np.ndarray
    bin: float

    def __len__(self) -> int:
        return len(self.q)


def spectrum_peaks(
    images: Sequence[np.ndarray], bad_pixels: np.ndarray | None = None, most_px: int = TILE_PX
) -> Peaks:
    """The peaks of the mean power spectrum of images; a drift between them does no harm.

    Every image is windowed (Hann). The background is the median in rings, which a crystal's few peaks do not move.
    Peaks are refined to a fraction of a bin by their centroid.

    Parameters
    ----------
    images : (ny, nx) each, one shape, any integer or real dtype.
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed.
    most_px : larger images are cut, and the spectra of the pieces averaged: a scan that wanders smears the peaks of a
        large image over many bins, and of a small one over few.
    """
    pieces = [piece for image in images for piece in _pieces(image, bad_pixels, most_px)]
    power = np.mean([np.abs(np.asarray(fft2(piece))) ** 2 for piece in pieces], axis=0)
    flat = gaussian_filter(_flattened(fftshift(power), len(pieces)), _SMOOTHING_BINS, mode="wrap")
    flat = 1 + (flat - 1) * np.sqrt(len(pieces))  # the noise of a mean is less
    ny, nx = pieces[0].shape
    qy, qx = fftshift(fftfreq(ny))[:, None], fftshift(fftfreq(nx))[None, :]
    bin_size = 1 / min(ny, nx)
    radius = np.hypot(qy, qx)
    is_peak = (
        (flat == maximum_filter(flat, _NEIGHBOURHOOD_BINS, mode="wrap"))
        & (flat > 1 + _SIGNIFICANT)
        & (radius > LEAST_PERIODS * bin_size)
        & (radius < FINEST)
        & ((qy > 0) | ((qy == 0) & (qx > 0)))
    )
    yx = np.argwhere(is_peak)
    yx = yx[np.argsort(-flat[is_peak], kind="stable")][:MOST_PEAKS]
    q = np.array([_centroid(flat, y, x) for y, x in yx], complex).reshape(-1)
    return Peaks(q, flat[tuple(yx.T)], bin_size)


def filled(image: np.ndarray, bad_pixels: np.ndarray | None) -> np.ndarray:
    """f8, the median in place of what must not be believed, outliers cut off."""
    counts = np.array(image, np.float64)
    good = np.isfinite(counts) if bad_pixels is None else np.isfinite(counts) & ~bad_pixels
    low, middle, high = np.quantile(counts[good], [_CLIPPED, 0.5, 1 - _CLIPPED]) if good.any() else (0, 0, 0)
    counts[~good] = middle
    return np.clip(counts, low, high)


def seen_in_words(peaks: Peaks) -> str:
    """What the spectrum shows, for whoever must decide."""
    if len(peaks) == 0:
        return "no peak above the noise"
    periods = ", ".join(f"{1 / abs(q):.3g}" for q in peaks.q[:5])
    return f"{len(peaks)} peaks (the strongest at periods of {periods} px)"


def _pieces(image: np.ndarray, bad_pixels: np.ndarray | None, most_px: int) -> Iterator[np.ndarray]:
    """Windowed f8 images of at most `most_px` to a side, zero on average."""
    counts = filled(image, bad_pixels)
    ny, nx = (n // -(-n // most_px) for n in counts.shape)
    window = np.hanning(ny)[:, None] * np.hanning(nx)
    for top in range(0, counts.shape[0] - ny + 1, ny):
        for left in range(0, counts.shape[1] - nx + 1, nx):
            piece = counts[top : top + ny, left : left + nx]
            yield (piece - piece.mean()) * window


def _flattened(power: np.ndarray, averaged: int) -> np.ndarray:
    """Power over the background at the same |q|: 1 on average where there is nothing but noise."""
    ny, nx = power.shape
    radius = np.hypot(fftshift(fftfreq(ny))[:, None], fftshift(fftfreq(nx))[None, :])
    width = _RING_BINS / min(ny, nx)
    ring = (radius / width).astype(np.int64).ravel()
    order = np.argsort(ring, kind="stable")
    values = power.ravel()[order]
    edges = np.searchsorted(ring[order], np.arange(ring.max() + 2))
    median = np.array([np.median(values[a:b]) for a, b in pairwise(edges)])
    # median of the mean of n exponential deviates, over their mean (Wilson-Hilferty)
    median = np.maximum(median / (1 - 1 / (9 * averaged)) ** 3, np.finfo(float).tiny)
    centre = (np.arange(len(median)) + 0.5) * width
    return power / np.exp(np.interp(radius, centre, np.log(median)))


def _centroid(flat: np.ndarray, y: int, x: int) -> complex:
    """Frequency of the peak at bin (y, x) of a shifted spectrum, along x + i · along y."""
    ny, nx = flat.shape
    step = np.arange(-2, 3)
    around = flat[np.ix_((y + step) % ny, (x + step) % nx)]
    around = around - around.min()
    dy, dx = (around.sum(1) * step).sum() / around.sum(), (around.sum(0) * step).sum() / around.sum()
    return complex((x - nx // 2 + dx) / nx, (y - ny // 2 + dy) / ny)
