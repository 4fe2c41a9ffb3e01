"""STEM images, drawn afresh for every step: bright columns in ADF and HAADF, dark ones in ABF.

Imaging is incoherent: I = object ⊗ probe, the object a Gaussian spot of thermal width for every column with a weight
Σ Z^n over its atoms (n about 1.7 in HAADF; Treacy, Microsc. Microanal. 17, 847 (2011)). The probe has a core, a little
elongated, and tails. A scan takes the image row by row, so what moves meanwhile displaces it: the truth is where the
columns are in the image as taken. Then come background, dose, and what people do to their files.

A picture is made at the pixels it is scanned with, and brought to the engine's by the live path's own resampler.
Brightness is in units of the typical bright column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from scipy.fft import fftfreq, irfft2, next_fast_len, rfft2, rfftfreq
from scipy.ndimage import gaussian_filter, map_coordinates, median_filter
from scipy.spatial import cKDTree

from stream.resample import Resampler
from training.crystals import Crystal, LatticeSettings, Range, make_crystal
from training.scan import ScanSettings, paint, read, scan

_FWHM = 2.3548  # of a Gaussian, in units of its σ
_MARGIN_PX = 24  # simulated around the picture, for tails and displacements


class StemSettings(ScanSettings):
    """Ranges drawn anew for every image; uniform, the dose and the share collected uniform in their logarithm.

    Attributes
    ----------
    sampling_angstrom_px : the engine's pixel, the jitter of the magnification.
    exponent : n of Z^n.
    abf_fraction, abf_exponent : of the images, those with dark columns, and their n: light columns are seen, too.
    fwhm_spacings : of the spots (probe, source and vibration together), in spacings between strong columns.
    tail_share, tail_widths : part of the probe in its tails, and their σ in that of the core.
    elongation : largest relative difference of the core's axes.
    dose_e_angstrom2 : per image.
    collected : share of the beam's electrons that a typical bright column sends to the detector.
    read_noise : rms, of a typical bright column's signal.
    background : level between the columns, of a bright column's own signal; slowly varying by `unevenness` of that.
    film_fraction : of the images, those with amorphous areas or contamination.
    pixel_ratio : a scanned pixel, in pixels of the engine; `as_scanned_fraction` of the images have the engine's.
    processed_fraction : of the images, those smoothed, clipped, of 8 bits, or of another gamma.
    blank_fraction : of the images, those with a scale bar and its label burnt in, or an empty border.
    least_contrast : of what is a column, in typical bright columns: from the first on a column is labelled, more
        and more; from the second on it is judged. Contrast is the noise-free signal at the column's place less its
        mean on a circle of half the distance to its neighbour.
    label_spacings, label_px : w of the label maps: share of the distance to the nearest column, within these limits.
    """

    sampling_angstrom_px: Range = (0.2, 0.2)
    exponent: Range = (1.6, 1.9)
    abf_fraction: float = Field(0.0, ge=0, le=1)
    abf_exponent: Range = (0.5, 0.9)
    fwhm_spacings: Range = (0.28, 0.75)
    tail_share: Range = (0.0, 0.5)
    tail_widths: Range = (2.0, 4.0)
    elongation: float = Field(0.2, ge=0, le=0.5)
    dose_e_angstrom2: Range = (300.0, 1e5)
    collected: Range = (0.01, 0.1)
    read_noise: Range = (0.0, 0.1)
    background: Range = (0.05, 1.0)
    unevenness: float = Field(0.5, ge=0, le=1)
    film_fraction: float = Field(0.4, ge=0, le=1)
    pixel_ratio: Range = (0.75, 2.0)
    as_scanned_fraction: float = Field(0.4, ge=0, le=1)
    processed_fraction: float = Field(0.35, ge=0, le=1)
    blank_fraction: float = Field(0.06, ge=0, le=1)
    least_contrast: Range = (0.04, 0.1)
    label_spacings: float = Field(0.24, gt=0, le=0.3)
    label_px: Range = (1.5, 3.0)


@dataclass(frozen=True, slots=True)
class StemScene:
    """One image before any noise, at the pixels it is scanned with.

    Attributes
    ----------
    signal : (ny, nx) f4, in typical bright columns, background included.
    resampler : to the engine's pixels.
    yx_px : (n, 2) f8, columns as imaged, in the engine's pixels; also those centred up to half a spacing beyond the
        border, of which a part is seen.
    inside : (n,) bool, those that are centred in the image.
    contrast : (n,) f8, of each at its own place (`StemSettings.least_contrast`).
    kind : (n,) u1, its class, 1 the first.
    spacing_px : between nearest strong columns, in the engine's pixels.
    pixel_angstrom : side of a scanned pixel.
    dose_e_angstrom2, collected, read_noise : as drawn.
    name : of the lattice.
    dark : whether columns are dark.
    blank : (ny, nx) bool, pixels that show no specimen but `blank_bright` paint; None without any.
    """

    signal: np.ndarray
    resampler: Resampler
    yx_px: np.ndarray
    inside: np.ndarray
    contrast: np.ndarray
    kind: np.ndarray
    spacing_px: float
    pixel_angstrom: float
    dose_e_angstrom2: float
    collected: float
    read_noise: float
    name: str
    dark: bool
    blank: np.ndarray | None = None
    blank_bright: bool = False


def draw_scene(
    settings: StemSettings, lattices: LatticeSettings, side_px: int, seed: Sequence[int]
) -> StemScene:
    """Draw a crystal, a probe and a scan; the same seed gives the same picture.

    Parameters
    ----------
    side_px : of the picture in the engine's pixels.
    """
    rng = np.random.default_rng([*seed, 0x57E])
    dark = bool(rng.random() < settings.abf_fraction)
    engine_angstrom = float(rng.uniform(*settings.sampling_angstrom_px))
    ratio = 1.0
    if rng.random() > settings.as_scanned_fraction:
        ratio = float(np.exp(rng.uniform(*np.log(settings.pixel_ratio))))
    side = round(side_px / ratio)
    resampler = Resampler((side, side), side_px / side, 1.0)
    pixel_angstrom = engine_angstrom * side_px / side
    whole = side + 2 * _MARGIN_PX
    exponent = float(rng.uniform(*(settings.abf_exponent if dark else settings.exponent)))
    crystal = make_crystal(lattices, rng, exponent, whole, pixel_angstrom, side / side_px)
    sigma = crystal.spacing_px * rng.uniform(*settings.fwhm_spacings) / _FWHM
    if dark:  # a wide probe leaves it open whether columns or the gaps between them are dark
        sigma *= 0.8
    image, sigma = _object(crystal, sigma, settings, rng, whole)
    y_of_row, x_of_pixel, yx = scan(crystal.yx_px - _MARGIN_PX, sigma, settings, rng, side)
    signal = read(image, y_of_row + _MARGIN_PX, x_of_pixel + _MARGIN_PX) / _typical(crystal, image)
    contrast = _contrast(signal, yx)
    inside = ((yx > -0.5) & (yx < side - 0.5)).all(1)
    beyond = ~inside & (np.maximum(-0.5 - yx, yx - side + 0.5).max(1) < crystal.spacing_px / 2)
    contrast[beyond] = _contrast(image, crystal.yx_px)[beyond] / _typical(crystal, image)
    shown = (inside | beyond) & (contrast >= settings.least_contrast[0])
    signal = _with_background(signal, sigma, settings, rng)
    if dark:
        depth = rng.uniform(0.15, 0.5)
        signal = (1.1 * signal.max() - signal) * depth + rng.uniform(0, 1)
    blank, bright = None, False
    if rng.random() < settings.blank_fraction:
        blank, bright = _blank(rng, side), bool(rng.random() < 0.5)
        y, x = np.clip(np.rint(yx).astype(int), 0, side - 1).T
        shown &= ~blank[y, x]
    low, high = np.log(settings.dose_e_angstrom2)
    return StemScene(
        signal=signal.astype(np.float32),
        resampler=resampler,
        yx_px=(yx[shown] + 0.5) / np.array(resampler.scale_yx) - 0.5,
        inside=inside[shown],
        contrast=contrast[shown],
        kind=crystal.kind[shown],
        spacing_px=crystal.spacing_px * side_px / side,
        pixel_angstrom=pixel_angstrom,
        dose_e_angstrom2=float(np.exp(rng.uniform(low, high))),
        collected=float(np.exp(rng.uniform(*np.log(settings.collected)))),
        read_noise=float(rng.uniform(*settings.read_noise)),
        name=crystal.name,
        dark=dark,
        blank=blank,
        blank_bright=bright,
    )


def expose(scene: StemScene, seed: Sequence[int], dose_e_angstrom2: float | None = None) -> np.ndarray:
    """What the detector reports of a scene, (ny, nx) f4 in electrons per scanned pixel, at its own dose or another."""
    rng = np.random.default_rng([*seed, 0xD05E])
    dose = scene.dose_e_angstrom2 if dose_e_angstrom2 is None else dose_e_angstrom2
    typical = dose * scene.pixel_angstrom**2 * scene.collected
    counts = rng.poisson(np.maximum(scene.signal, 0) * typical)
    noise = rng.normal(0, scene.read_noise * typical, counts.shape)
    return (counts + noise).astype(np.float32)


def burnt_in(image: np.ndarray, scene: StemScene) -> np.ndarray:
    """The image (ny, nx) with the scene's scale bar or empty border in its darkest or brightest grey."""
    if scene.blank is None:
        return image
    paint = image.max() if scene.blank_bright else image.min()
    return np.where(scene.blank, paint, image)


def processed(counts: np.ndarray, settings: StemSettings, seed: Sequence[int]) -> np.ndarray:
    """What is left of an image after its way through people's programs, (ny, nx) f4; mostly the image itself."""
    rng = np.random.default_rng([*seed, 0xF11E])
    image = counts
    if rng.random() >= settings.processed_fraction:
        return image
    if rng.random() < 0.5:
        image = gaussian_filter(image, rng.uniform(0.4, 1.3))
    elif rng.random() < 0.3:
        image = median_filter(image, 3)
    if rng.random() < 0.6:  # eight bits, some clipped, another gamma
        low = np.quantile(image, rng.uniform(0, 0.03))
        high = np.quantile(image, 1 - rng.choice([0.0, 0.001, 0.02]))
        grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1) ** rng.uniform(0.6, 1.6)
        image = np.rint(255 * grey)
    return image.astype(np.float32)


def _object(crystal: Crystal, sigma: float, settings: StemSettings, rng, side: int):
    """The picture without background (side, side) f4, painted column by column, and the σ of its spots in pixels.

    The probe's core and the spots are Gaussian, so are painted as one; what makes the core longer along one axis, and
    the tails, come as a filter.
    """
    sigma = max(sigma, 0.8)  # narrower spots than this no scan can show
    spline = 1 / 3  # variance that reading between the pixels adds (cubic B-spline)
    image = np.zeros((side, side), np.float32)
    paint(image, crystal.yx_px, crystal.weight, np.sqrt(sigma**2 - spline))
    share, wide = rng.uniform(*settings.tail_share), sigma * rng.uniform(*settings.tail_widths)
    longer = sigma**2 * ((1 + rng.uniform(0, settings.elongation)) ** 2 - 1)
    angle = rng.uniform(0, np.pi)
    n = next_fast_len(side, real=True)
    qy, qx = fftfreq(n).astype("f4")[:, None], rfftfreq(n).astype("f4")[None, :]
    along = qy * np.sin(angle) + qx * np.cos(angle)
    core = np.exp(-2 * np.pi**2 * longer * along**2)
    tails = np.exp(-2 * np.pi**2 * (wide**2 - sigma**2) * (qy**2 + qx**2))
    filtered = rfft2(image, s=(n, n)) * ((1 - share) * core + share * tails)
    return np.asarray(irfft2(filtered, s=(n, n)))[:side, :side], sigma


def _typical(crystal: Crystal, image: np.ndarray) -> float:
    """The signal of a typical bright column: nine in ten are darker; 1 without any."""
    if len(crystal.yx_px) == 0:
        return 1.0
    y, x = np.rint(crystal.yx_px).astype(int).clip(0, len(image) - 1).T
    return max(float(np.quantile(image[y, x], 0.9)), 1e-6)


def _contrast(signal: np.ndarray, yx: np.ndarray) -> np.ndarray:
    """The signal at each place (n, 2) less its mean on a circle of half the distance to the nearest, (n,)."""
    if len(yx) < 2:
        return np.zeros(len(yx))
    radius = cKDTree(yx).query(yx, 2)[0][:, 1] / 2
    angles = np.arange(8) * np.pi / 4
    circle = np.stack([np.sin(angles), np.cos(angles)], -1)
    around = yx[:, None] + radius[:, None, None] * circle
    places = np.concatenate([yx[:, None], around], 1)
    values = map_coordinates(signal, places.reshape(-1, 2).T, order=1, mode="nearest").reshape(-1, 9)
    return values[:, 0] - values[:, 1:].mean(1)


def _with_background(signal: np.ndarray, sigma: float, settings: StemSettings, rng) -> np.ndarray:
    """Detector offset, slow unevenness, and seldom amorphous film or contamination."""
    side = len(signal)
    level = rng.uniform(*settings.background)
    y, x = np.meshgrid(*2 * [np.linspace(-0.5, 0.5, side)], indexing="ij")
    ramp = (y * rng.normal() + x * rng.normal()) * rng.uniform(0, settings.unevenness)
    signal = signal + level * (1 + ramp + rng.uniform(0, settings.unevenness) * _field(rng, side))
    if rng.random() < settings.film_fraction:
        cover = np.clip(_field(rng, side) + rng.uniform(-0.5, 1), 0, 1)
        grain = gaussian_filter(rng.normal(size=signal.shape), max(sigma * rng.uniform(0.6, 1.2), 0.6))
        grain *= rng.uniform(0, 0.25) / (grain.std() + 1e-9)
        signal = signal + cover * (rng.uniform(0, 1.0) + grain)
    flicker = rng.normal(0, rng.uniform(0, 0.03), (side, 1))
    return np.maximum(signal * (1 + flicker) - min(signal.min(), 0), 0)


def _field(rng, side: int) -> np.ndarray:
    """A slowly varying field (side, side), within -1 and 1: a few cosines."""
    order = np.arange(rng.integers(3, 9))
    waves = np.cos(np.pi * (np.arange(side)[:, None] + 0.5) / side * order)
    strength = rng.normal(size=(len(order), len(order))) / (1 + order[:, None] + order)
    strength[0, 0] = 0
    field = waves @ strength @ waves.T
    return field / np.abs(field).max()


def _blank(rng, side: int) -> np.ndarray:
    """(side, side) bool: a scale bar with its label above it, or an empty border."""
    if rng.random() < 0.5:
        return _scale_bar(rng, side)
    blank = np.zeros((side, side), bool)
    blank[: rng.integers(side // 16, side // 4)] = True
    return np.rot90(blank, rng.integers(4))


def _scale_bar(rng, side: int) -> np.ndarray:
    """(side, side) bool: in a lower corner or anywhere along the lower border."""
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    y, x = side - rng.integers(side // 16, side // 8), rng.integers(side // 2)
    pen.rectangle((x, y, x + rng.integers(side // 8, side // 2), y + max(side // 80, 1)), fill=255)
    length = rng.choice(["0.5", "1", "2", "3", "5", "10", "20", "50"])
    font = ImageFont.load_default(float(rng.uniform(0.05, 0.14) * side))
    pen.text((x + rng.integers(side // 16 + 1), y - side // 80), f"{length} nm", 255, font, anchor="ld")
    return np.asarray(canvas) > 127
