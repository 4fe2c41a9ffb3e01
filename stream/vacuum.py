"""The noise of a camera: what is left of an image of vacuum without its illumination, and its power spectrum.

What shows a specimen is refused: the noise varies more in some place than the light explains, or a lattice stands out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import fft2, fftfreq
from scipy.signal.windows import tukey

from stream.frame import CalibrationError
from stream.spectrum import spectrum_peaks

_RINGS = 48
_COARSEST_PERIODS = 8  # across the image: what is coarser is illumination
_TAPER = 0.25  # share of each side that fades out: steep spectra leak through hard borders
_PATCH_PX = 64  # in which noise is compared across the image
_MOST_UNEVEN = 1.5  # noise of one patch over the median, each relative to its light
_LATTICE = 12.0  # strength of a peak that is no noise
_FILTERED = 1e-6  # no camera's noise falls to less of its power
_OUTLIERS, _FAR = 1e-4, 10.0  # so few pixels, so many deviations off, are X-rays
ELSEWHERE = "take one without a specimen, or give the --region that is vacuum"


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The power of the noise, averaged over rings.

    Attributes
    ----------
    q : (n,) of the Nyquist frequency.
    power : (n,) f8, 1 on average over all pixels.
    error : (n,) f8, relative, of one standard deviation.
    """

    q: np.ndarray
    power: np.ndarray
    error: np.ndarray


def vacuum_noise(image: np.ndarray, bad_pixels: np.ndarray | None) -> np.ndarray:
    """What is left of an image (ny, nx) without its illumination, a polynomial of fourth degree; 0 at bad pixels.

    Raises
    ------
    CalibrationError
        If too few pixels are good, there is no noise, or more of it in some place than the light explains.
    """
    good = np.isfinite(image) if bad_pixels is None else np.isfinite(image) & ~bad_pixels
    if good.mean() < 0.9:
        raise CalibrationError(
            f"only {good.mean():.0%} of the pixels are good, expected 90 %: choose another region"
        )
    light = _light(np.where(good, image, 0.0), good)
    noise = np.where(good, image - light, 0.0)
    if not noise.std() > 1e-6 * np.abs(light).max():
        raise CalibrationError(
            "there is no noise in it: expected an image as a camera takes it, got a smooth one"
        )
    far = np.abs(noise) > _FAR * noise.std()
    if 0 < far.mean() < _OUTLIERS:
        noise = np.where(far, 0.0, noise)
    _refuse_uneven(noise, light)
    return noise


def _light(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The illumination: the polynomial of total degree four that is nearest to the good pixels."""
    ny, nx = image.shape
    block = max(1, min(ny, nx) // 64)
    (my, mx), cut = (ny // block, nx // block), np.s_[: ny // block * block, : nx // block * block]
    count = good[cut].reshape(my, block, mx, block).sum((1, 3)).ravel()
    total = image[cut].reshape(my, block, mx, block).sum((1, 3)).ravel()
    powers = [(i, j) for i in range(5) for j in range(5 - i)]

    def terms(y: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
        return [y**i * x**j for i, j in powers]

    ys, xs = (2 * ((np.arange(m) + 0.5) * block - 0.5) / n - 1 for m, n in ((my, ny), (mx, nx)))
    known = count > 0
    matrix = np.stack([term.ravel()[known] for term in terms(*np.meshgrid(ys, xs, indexing="ij"))], 1)
    weight = np.sqrt(count[known])
    fit = np.linalg.lstsq(matrix * weight[:, None], total[known] / count[known] * weight, rcond=None)[0]
    y, x = 2 * np.arange(ny)[:, None] / ny - 1, 2 * np.arange(nx)[None, :] / nx - 1
    return sum((factor * term for factor, term in zip(fit, terms(y, x), strict=True)), np.zeros((ny, nx)))


def _refuse_uneven(noise: np.ndarray, light: np.ndarray) -> None:
    """Shot noise goes with the light; where it does not, there is something to see."""
    my, mx = (n // _PATCH_PX for n in noise.shape)
    cut = np.s_[: my * _PATCH_PX, : mx * _PATCH_PX]

    def patches(image: np.ndarray) -> np.ndarray:
        return image[cut].reshape(my, _PATCH_PX, mx, _PATCH_PX).swapaxes(1, 2).reshape(my * mx, -1)

    per_light = patches(noise).var(1)
    level = patches(light).mean(1)
    if level.min() > 0:
        per_light = per_light / level
    uneven = float(per_light.max() / np.median(per_light))
    if uneven > _MOST_UNEVEN:
        raise CalibrationError(
            f"not an image of vacuum: one part of it varies {uneven:.1f} times as much as the rest, expected at most "
            f"{_MOST_UNEVEN}; {ELSEWHERE}"
        )


def _refuse_lattice(noises: list[np.ndarray]) -> None:
    peaks = spectrum_peaks(noises)
    if len(peaks) and peaks.strength[0] > _LATTICE:
        raise CalibrationError(
            f"not an image of vacuum: a lattice or a fixed pattern of {1 / abs(peaks.q[0]):.2f} pixels stands "
            f"{peaks.strength[0]:.0f} times above the noise; {ELSEWHERE}"
        )


def noise_spectrum(noises: list[np.ndarray]) -> Spectrum:
    """The power spectrum of noise (ny, nx), averaged over images and over rings up to the Nyquist frequency.

    Raises
    ------
    CalibrationError
        If a lattice stands out of it, or some frequencies were filtered out.
    """
    ny, nx = noises[0].shape
    sides = [tukey(n, _TAPER) for n in (ny, nx)]
    power = np.mean([np.abs(np.asarray(fft2(noise * np.outer(*sides)))) ** 2 for noise in noises], axis=0)
    radius = 2 * np.hypot(fftfreq(ny)[:, None], fftfreq(nx)[None, :])
    edges = np.linspace(2 * max(_COARSEST_PERIODS / min(ny, nx), 0.01), 1.0, _RINGS + 1)
    ring = np.searchsorted(edges, radius.ravel(), side="right") - 1
    inside = (ring >= 0) & (ring < _RINGS)
    ring, values, q = ring[inside], power.ravel()[inside], radius.ravel()[inside]
    count = np.bincount(ring, minlength=_RINGS)
    mean = np.bincount(ring, values, _RINGS) / count
    if mean.min() < _FILTERED * mean.max():
        raise CalibrationError(
            f"some frequencies are missing (q = {edges[mean.argmin()]:.2f} of the Nyquist frequency): expected an "
            "image as the camera gave it, got one that was filtered or enlarged"
        )
    _refuse_lattice(noises)
    # of ±q only one is another measurement, and what is tapered off measures nothing
    tapered = float(np.prod([np.mean(side**4) / np.mean(side**2) ** 2 for side in sides]))
    return Spectrum(
        np.bincount(ring, q, _RINGS) / count, mean / mean.mean(), np.sqrt(2 * tapered / (count * len(noises)))
    )
