"""Bright or dark blobs of one size, without a network: particles, and atoms that stand out of a lattice.

The size comes from the picture itself: a Laplacian of Gaussian whose pass band is centred on the
strongest spatial frequency of what fills the picture (atoms of a lattice, particles of an array).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import convolve, gaussian_laplace, maximum_filter
from scipy.signal import find_peaks
from skimage.filters import threshold_otsu

from stream.matching import neighbours

Contrast = Literal["bright", "dark"]

SIGMA_OF_PERIOD = np.sqrt(2) / (2 * np.pi)  # the LoG of this sigma passes this period best
_NOISES = 5.0  # standard deviations of the noise that no particle is fainter than
_SHELL = 18  # neighbours to be compared with: two shells of a close-packed layer
_MAD = 1.4826  # median absolute deviation to standard deviation
# what is left of white noise after structure up to second order is removed has 6 times its deviation
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float64)


@dataclass(frozen=True, slots=True)
class Blobs:
    """Blobs of one image.

    Attributes
    ----------
    yx_px : (n, 2) f8, centres, pixels of the image.
    height : (n,) f8, of the LoG's response: contrast, in the image's unit.
    noise : the response's standard deviation where there is only white noise.
    """

    yx_px: np.ndarray
    height: np.ndarray
    noise: float

    def __len__(self) -> int:
        return len(self.height)

    def take(self, which: np.ndarray) -> Blobs:
        """Some of them, by index or mask."""
        return Blobs(self.yx_px[which], self.height[which], self.noise)


def strongest_period(images: np.ndarray) -> float:
    """The period of what fills the images (k, ny, nx): the most prominent ring of their mean power spectrum.

    Raises
    ------
    ValueError
        If no ring stands out.
    """
    _, ny, nx = images.shape
    window = np.hanning(ny)[:, None] * np.hanning(nx)
    power = np.zeros((ny, nx))
    for image in images:
        power += np.abs(np.fft.fft2((image - image.mean(dtype=np.float64)) * window)) ** 2
    side = min(ny, nx)
    ring = np.rint(np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)) * side).astype(np.int64)
    mean = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    profile = np.log(mean[: side // 2] + np.finfo(np.float64).tiny)
    peaks, found = find_peaks(profile, prominence=np.log(2))
    if len(peaks) == 0:
        raise ValueError(
            f"no period stands out in the power spectrum of {len(images)} images: expected a ring of twice the "
            "power around it; give the period"
        )
    at = int(peaks[np.argmax(found["prominences"])])
    before, here, after = profile[at - 1 : at + 2]
    return float(side / (at + 0.5 * (before - after) / (before - 2 * here + after)))


def find_blobs(image: np.ndarray, period_px: float, contrast: Contrast) -> Blobs:
    """Every local maximum of the LoG's response, noise included.

    Parameters
    ----------
    image : (ny, nx), any unit.
    period_px : as from `strongest_period`, in pixels.
    contrast : of the blobs against their surroundings.

    Maxima nearer to the border than one sigma, not seen whole, are left out.
    """
    sigma = SIGMA_OF_PERIOD * period_px
    picture = np.asarray(image, np.float64)
    picture = picture - picture.mean()  # the cut-off kernel does not quite vanish on a constant
    sign = -1.0 if contrast == "bright" else 1.0
    response = sign * sigma**2 * gaussian_laplace(picture, sigma)
    peak = (response == maximum_filter(response, size=2 * round(sigma) + 1)) & (response > 0)
    edge = max(round(sigma), 1)
    inside = np.zeros_like(peak)
    inside[edge:-edge, edge:-edge] = True
    yx = np.argwhere(peak & inside)
    height = response[tuple(yx.T)]
    # the mean absolute value, as a standard deviation: J. Immerkær, CVIU 64 (1996) 300
    pixel_noise = np.sqrt(np.pi / 2) / 6 * float(np.abs(convolve(picture, _NOISE_KERNEL)).mean())
    noise = pixel_noise / (np.sqrt(2 * np.pi) * sigma)  # the kernel's norm
    return Blobs(yx + parabola(response, yx), height, noise)


def particles(blobs: Blobs) -> Blobs:
    """Those that are no noise: above Otsu's threshold between faint and strong, and 5 standard deviations.

    Otsu's threshold lies about half way up: particles less than half as strong as most are left out.
    """
    if len(blobs) == 0:
        return blobs
    least = max(threshold_otsu(blobs.height), _NOISES * blobs.noise) if np.ptp(blobs.height) > 0 else 0.0
    return blobs.take(blobs.height > least)


def outstanding(blobs: Blobs, period_px: float, far: float = 7.0) -> Blobs:
    """Those that are far stronger than their neighbours: atoms of another element, say.

    Parameters
    ----------
    blobs : every maximum, as `find_blobs` gives them: atoms of the lattice, and noise.
    far : how many standard deviations above the median of the 18 nearest; median and deviation (from the
        median absolute deviation, and no less than the noise) are hardly moved by the outliers themselves.
    """
    near = neighbours(blobs.yx_px, 6 * period_px, _SHELL)
    enough = np.count_nonzero(near >= 0, axis=1) >= _SHELL // 2
    height = np.where(near >= 0, blobs.height[near], np.nan)[enough]
    usual = np.nanmedian(height, axis=1)
    spread = _MAD * np.nanmedian(np.abs(height - usual[:, None]), axis=1)
    spread = np.maximum(spread, blobs.noise)  # of 18, some happen to lie close together
    which = np.flatnonzero(enough)[blobs.height[enough] > usual + far * spread]
    return blobs.take(which)


def parabola(image: np.ndarray, yx: np.ndarray) -> np.ndarray:
    """Sub-pixel offsets (n, 2) of maxima at inner pixels (n, 2), from a parabola along each axis."""
    y, x = yx.T
    offsets = []
    for dy, dx in ((1, 0), (0, 1)):
        before, here, after = image[y - dy, x - dx], image[y, x], image[y + dy, x + dx]
        curvature = np.minimum(before - 2 * here + after, -1e-12)
        offsets.append(np.clip((before - after) / (2 * curvature), -0.5, 0.5))
    return np.stack(offsets, -1)
