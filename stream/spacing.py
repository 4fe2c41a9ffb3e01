"""How far apart nearest columns lie in a picture, in pixels, whatever the material: a scale without nanometres.

The picture is cut into tiles of some ten cells, in which neither a wandering scan nor a second grain does much harm. In
each the autocorrelation shows the translations of its lattice, and all cells of the tile laid upon one another are one
cell with little noise. Its maxima are the columns, those of a faint second sublattice too, which stand nearer than the
translations: 0.19 nm in WSe2, whose cells repeat after 0.33 nm. Tiles are judged one by one, and must agree. Columns
too faint to rise out of the noise of some 400 cells are none here.

Columns are narrow, and what is between them is wide: bright columns make a picture's values skew to one side, dark ones
to the other. A honeycomb too blurred to show its columns is like dark columns of a hexagonal lattice, √3 times as far
apart; that is refused, and so is what is no lattice: in an amorphous film, or where planes show but no columns, nothing
is repeated in two directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn, fft2, fftfreq, fftshift, idctn, ifft2, irfft2, rfft2
from scipy.ndimage import gaussian_filter, maximum_filter
from skimage.morphology import reconstruction

from stream.blobs import Contrast, parabola
from stream.frame import CalibrationError
from stream.spectrum import Peaks, filled, seen_in_words, spectrum_peaks

LEAST_AGREE = 0.7  # of the tiles that show a lattice: those whose spacing is the one that is told
LEAST_TILES = 0.2  # of all tiles: those that must show a lattice, or the picture shows none
OTHER_SPACING = 0.1  # spacings that differ by more, relatively, are two
LEAST_SKEWNESS = (
    0.2  # of a picture of bright columns; with less it does not matter only if both give one spacing
)
LEAST_SPACING_PX = 2.5  # nearer maxima are the camera's noise

_NONE = "the spacing of the columns cannot be estimated: expected a lattice"
_ADVICE = "give --spacing-px"
_STRONG = 8  # peaks of the spectrum among which the longest period is looked for
_CELLS = (10, 20, 40)  # along a tile, in longest periods: larger ones where too little is seen in small ones
_MOST_TILES, _MOST_PX = 48, 4_000_000  # that are looked at
_SLOW = 0.4  # of the lowest frequency of the lattice: what varies more slowly is thickness
_TRANSLATION = 0.7  # of the autocorrelation's highest maximum: what repeats the picture, not a part of it
_REPEATED = 0.4  # of the shortest translations' height: what their sums and differences must reach
_APART_RAD = np.deg2rad(25)  # two translations that span a cell
_BINS_PER_PX = 2  # of the averaged cell
_SURE = (
    9.0  # power over noise of a Fourier coefficient of the cell that is believed: 1 in 8000 of noise alone
)
_PROMINENT = 0.04  # of the cell's contrast: what rises less above the saddle to a higher maximum is a ripple


@dataclass(frozen=True, slots=True)
class Spacing:
    """How far apart nearest columns lie, and how sure it is.

    Attributes
    ----------
    spacing_px : median distance of a column from its nearest, in pixels of the picture.
    relative_error : standard error, from how much the tiles differ; a distorted scan is wrong everywhere alike.
    repeats_px : the shortest translation of the lattice; longer than the spacing where a cell holds several columns.
    tiles, tiles_seen : that agree, and that the picture was cut into.
    contrast : of the columns that were measured.
    """

    spacing_px: float
    relative_error: float
    repeats_px: float
    tiles: int
    tiles_seen: int
    contrast: Contrast

    def __str__(self) -> str:
        return (
            f"nearest {self.contrast} columns {self.spacing_px:.4g} px apart ± {100 * self.relative_error:.1f} %, "
            f"the lattice repeats after {self.repeats_px:.4g} px, in {self.tiles} of {self.tiles_seen} tiles"
        )


def estimate_spacing(images: Sequence[np.ndarray], bad_pixels: np.ndarray | None = None) -> Spacing:
    """The distance between nearest columns in images of one scale.

    Parameters
    ----------
    images : (ny, nx) each, one shape and scale, any integer or real dtype.
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed.

    Raises
    ------
    CalibrationError
        If no lattice is seen, or parts of the picture show different spacings; it says what was seen.
    """
    peaks = spectrum_peaks(images, bad_pixels)
    if not _spanning(peaks):
        raise CalibrationError(f"{_NONE} in two directions, got {seen_in_words(peaks)}; {_ADVICE}")
    lowest_q = float(np.abs(peaks.q[:_STRONG]).min())
    told, seen = None, f"none in any part of the picture ({seen_in_words(peaks)})"
    for cells in _CELLS:
        tiles = list(_tiles(images, bad_pixels, cells / lowest_q))
        found = [one for one in (_tile_spacing(tile, lowest_q) for tile in tiles) if one is not None]
        if len(found) >= max(1, LEAST_TILES * len(tiles)):
            if told is not None:
                return _nearer(told, found, len(tiles))
            told = _agreed(found, len(tiles))
        elif found:
            seen = f"one in {len(found)} of {len(tiles)} parts of the picture ({seen_in_words(peaks)})"
        if cells / lowest_q > min(images[0].shape):
            break
    if told is None:
        raise CalibrationError(f"{_NONE}, got {seen}; {_ADVICE}")
    return told


def _nearer(told: Spacing, found: list[tuple[float, ...]], tiles_seen: int) -> Spacing:
    """What larger tiles show, if that is nearer: they average more noise away, and show fainter columns between."""
    try:
        larger = _agreed(found, tiles_seen)
    except CalibrationError:
        return told
    return larger if np.log(told.spacing_px / larger.spacing_px) > OTHER_SPACING else told


def _agreed(found: list[tuple[float, ...]], tiles_seen: int) -> Spacing:
    """What the tiles that show a lattice agree upon; raises CalibrationError if they do not."""
    bright, dark, repeats, skewness = np.array(found).T
    skew = float(np.median(skewness))
    spacing = dark if skew < 0 else bright
    middle = float(np.median(spacing))
    between = float(np.median(bright if skew < 0 else dark))
    honeycomb = skew < 0 and abs(np.log(middle / between) - np.log(3) / 2) < OTHER_SPACING
    if (abs(skew) < LEAST_SKEWNESS or honeycomb) and abs(np.log(middle / between)) > OTHER_SPACING:
        raise CalibrationError(
            "the spacing of the columns cannot be told: expected columns that are brighter or darker than all between "
            f"them, got maxima {np.median(bright):.3g} px apart and minima {np.median(dark):.3g} px, and either may be "
            f"columns; {_ADVICE}"
        )
    agree = np.abs(np.log(spacing / middle)) < OTHER_SPACING
    if agree.mean() < LEAST_AGREE:
        some = ", ".join(f"{px:.3g}" for px in np.quantile(spacing, [0.1, 0.5, 0.9], method="nearest"))
        raise CalibrationError(
            "the spacing of the columns cannot be told: expected one in all parts of the picture, got "
            f"{some} px (lowest, middle and highest of {len(found)} parts); {_ADVICE}"
        )
    spread = float(np.std(np.log(spacing[agree]))) if agree.sum() > 2 else OTHER_SPACING / 2
    return Spacing(
        spacing_px=float(np.median(spacing[agree])),
        relative_error=spread / float(np.sqrt(agree.sum())),
        repeats_px=float(np.median(repeats[agree])),
        tiles=int(agree.sum()),
        tiles_seen=tiles_seen,
        contrast="dark" if skew < 0 else "bright",
    )


def _spanning(peaks: Peaks) -> bool:
    """Whether the strong peaks of a spectrum do not lie on one line: fringes are no lattice."""
    q = peaks.q[:_STRONG]
    return len(q) > 1 and bool((np.abs(np.sin(np.angle(q / q[0]))) > np.sin(_APART_RAD)).any())


def _tiles(
    images: Sequence[np.ndarray], bad_pixels: np.ndarray | None, side_px: float
) -> Iterator[np.ndarray]:
    """Square tiles of all images, some evenly chosen; the last ones overlap those before, so that no border is lost."""
    ny, nx = images[0].shape
    side = int(min(side_px, ny, nx))
    tops, lefts = (np.linspace(0, n - side, -(-n // side)).round().astype(int) for n in (ny, nx))
    places = [(i, top, left) for i in range(len(images)) for top in tops for left in lefts]
    most = min(_MOST_TILES, len(places), -(-_MOST_PX // side**2))
    chosen = np.linspace(0, len(places) - 1, most).round().astype(int)
    counts, of = np.empty((0, 0)), -1
    for i, top, left in (places[k] for k in chosen):
        if i != of:
            counts, of = filled(images[i], bad_pixels), i
        yield counts[top : top + side, left : left + side]


def _tile_spacing(tile: np.ndarray, lowest_q: float) -> tuple[float, float, float, float] | None:
    """(nearest maxima, nearest minima, shortest translation) in px, skewness; None if the tile shows no lattice."""
    window = np.hanning(tile.shape[0])[:, None] * np.hanning(tile.shape[1])
    flat = _without_slow(tile, _SLOW * lowest_q)
    cell = _translations(_autocorrelation(flat, window), 2 / lowest_q)
    if cell is None:
        return None
    drawn = _mean_cell(flat, window, cell)
    bright, dark = (_nearest_px(one, cell) for one in (drawn, -drawn))
    if bright is None or dark is None or min(bright, dark) < LEAST_SPACING_PX:
        return None  # only noise, or ridges
    skewness = float(((drawn - drawn.mean()) ** 3).mean() / drawn.std() ** 3)
    return bright, dark, float(np.linalg.norm(cell, axis=1).min()), skewness


def _nearest_px(drawn: np.ndarray, cell: np.ndarray) -> float | None:
    """Median distance of a mean cell's maxima from their nearest, those of other cells among them."""
    tops = np.argwhere(_prominent(drawn))
    if len(tops) == 0:
        return None
    wrapped = np.pad(drawn, 1, mode="wrap")
    yx = (tops + parabola(wrapped, tops + 1)) / drawn.shape @ cell
    steps = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)]) @ cell
    apart = np.linalg.norm(yx[:, None, None] - yx[:, None] - steps, axis=-1).reshape(len(yx), -1)
    return float(np.median(np.where(apart > 1e-6, apart, np.inf).min(axis=1)))


def _without_slow(tile: np.ndarray, slow_q: float) -> np.ndarray:
    """What varies faster than slow_q, in cycles per pixel; the tile is mirrored at its borders."""
    y, x = (np.arange(n) / (2 * n) for n in tile.shape)
    passed = 1 - np.exp(-(y[:, None] ** 2 + x**2) / (2 * slow_q**2))
    return np.asarray(idctn(np.asarray(dctn(tile, norm="ortho")) * passed, norm="ortho"))


def _autocorrelation(flat: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Of the windowed tile over that of the window, zero shift in the middle."""
    shape = [2 * n for n in flat.shape]
    ripple = (flat - np.average(flat, weights=window)) * window
    product = fftshift(np.asarray(irfft2(np.abs(np.asarray(rfft2(ripple, shape))) ** 2, shape)))
    along_y, along_x = (np.pad(np.correlate(h, h, "full"), (1, 0)) for h in map(np.hanning, flat.shape))
    overlap = np.outer(along_y, along_x)
    return product / np.maximum(overlap, 1e-2 * overlap.max())


def _translations(correlation: np.ndarray, farthest_px: float) -> np.ndarray | None:
    """The two shortest translations (2, 2) (y, x) of a lattice, from an autocorrelation; None if there is none."""
    middle = np.array(correlation.shape) // 2
    reach = int(min(farthest_px, *(middle // 3)))
    near = correlation[middle[0] - reach : middle[0] + reach + 1, middle[1] - reach : middle[1] + reach + 1]
    yx = np.argwhere(near == maximum_filter(near, 5)) - reach
    length = np.linalg.norm(yx, axis=1)
    inside = (length > LEAST_SPACING_PX) & (np.abs(yx) < reach).all(axis=1)
    yx, length = yx[inside], length[inside]
    if len(yx) < 4:
        return None
    height = near[tuple((yx + reach).T)]
    high = height >= _TRANSLATION * height.max()
    yx = yx[high][np.argsort(length[high], kind="stable")]
    angle = np.arctan2(*yx.T)
    apart = np.flatnonzero(np.abs(np.sin(angle - angle[0])) > np.sin(_APART_RAD))
    if height.max() <= 0 or len(apart) == 0:
        return None
    return _refined(correlation, np.array([yx[0], yx[apart[0]]], float), height.max())


def _refined(correlation: np.ndarray, cell: np.ndarray, height: float) -> np.ndarray | None:
    """Translations fitted to the maxima at their sums and differences; None where those are not repeated."""
    middle = np.array(correlation.shape) // 2
    orders = np.array([(1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2), (2, 1), (1, 2), (2, -1), (1, -2)])
    step = np.arange(-2, 3)
    for _ in range(2):
        yx, weight = [], []
        for order in orders:
            at = np.rint(order @ cell).astype(int) + middle
            if (at < 3).any() or (at >= np.array(correlation.shape) - 3).any():
                return None
            around = correlation[np.ix_(at[0] + step, at[1] + step)]
            top = np.array(np.unravel_index(around.argmax(), around.shape)) - 2
            if around.max() < _REPEATED * height:
                return None
            yx.append(at + top + parabola(correlation, (at + top)[None])[0] - middle)
            weight.append(around.max())
        root = np.sqrt(weight)[:, None]
        cell = np.linalg.lstsq(root * orders, root * np.array(yx), rcond=None)[0]
    return cell


def _mean_cell(flat: np.ndarray, window: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The mean of all cells of a tile; its Fourier coefficients that noise explains are zero."""
    bins = np.maximum(4, np.rint(_BINS_PER_PX * np.linalg.norm(cell, axis=1))).astype(int)
    place = np.moveaxis(np.indices(flat.shape), 0, -1) @ np.linalg.inv(cell)
    at = np.floor((place % 1) * bins).astype(int) % bins
    index = (at[..., 0] * bins[1] + at[..., 1]).ravel()
    # a lattice in step with the pixels leaves bins empty: their neighbours tell
    total, weight = (
        gaussian_filter(np.bincount(index, one.ravel(), bins.prod()).reshape(bins), 1.0, mode="wrap")
        for one in (window * flat, window)
    )
    mean = total / np.maximum(weight, 1e-12)
    noise = np.average((flat - mean.ravel()[index].reshape(flat.shape)) ** 2, weights=window)
    coefficients = np.asarray(fft2(mean)) / bins.prod()
    variance = noise * (window**2).sum() / window.sum() ** 2
    order = np.stack(np.meshgrid(*(fftfreq(n, 1 / n) for n in bins), indexing="ij"), -1)
    q = np.linalg.norm(order @ np.linalg.inv(cell).T, axis=-1)
    coefficients[(np.abs(coefficients) ** 2 < _SURE * variance) | (q > 0.5)] = 0
    return np.real(np.asarray(ifft2(coefficients)))


def _prominent(drawn: np.ndarray) -> np.ndarray:
    """Where a periodic picture has a maximum that is more than a ripple; bool of its shape."""
    height = _PROMINENT * np.ptp(drawn)
    if height == 0:
        return np.zeros(drawn.shape, bool)
    around = np.tile(drawn, (3, 3))
    left = around - reconstruction(around - height, around)  # as high as `height` at such maxima alone
    return (left >= (1 - 1e-9) * height)[
        drawn.shape[0] : 2 * drawn.shape[0], drawn.shape[1] : 2 * drawn.shape[1]
    ]
