"""From probability maps to atomic columns.

`find_columns` is the live way: one pass over the maps, local maxima, a parabola through the logarithm.
`find_columns_watershed` is how Madsen et al. read their maps: the reference it must agree with, and far
slower.

Maps are (k, ny, nx) f4, channel 0 the background, every pixel's channels adding to 1. Map pixel (i, j) of
stride s lies at image pixel ((i + 0.5) s - 0.5, (j + 0.5) s - 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.peaks import maxima, suppress

_WIDTHS = (0.5, 2.0)  # times the usual width: what is narrower or wider than this is weighed as this


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one frame, in raster order of their maxima.

    Attributes
    ----------
    yx_px : (n, 2) f4, positions in image pixels.
    sigma_px : (n,) f4, width of the peak in image pixels; NaN where it has none (no maximum in the fit).
    score : (n,) f4, foreground probability (1 - background) at the maximum; where an engine's usual width is known,
        `weighed` by the peak's own.
    kind : (n,) u1, the most probable channel other than the background: the index into the engine's
        `classes`, so 1 is the first kind of column.
    """

    yx_px: np.ndarray
    sigma_px: np.ndarray
    score: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


def find_columns(
    maps: np.ndarray,
    stride: int = 1,
    threshold: float = 0.5,
    min_distance_px: float = 0.0,
    usual_sigma_px: float | None = None,
) -> Columns:
    """Local maxima of the foreground probability, to a fraction of a pixel.

    A maximum is a pixel, or a connected plateau of equal pixels, that all of its neighbours (8) lie below; a
    plateau gives one column. Its position and width come from a Gaussian through the 5x5 pixels around it: a
    parabola fitted to ln p by weighted least squares (Guo, IEEE Signal Process. Mag. 28, 134 (2011)), on what
    there is of the 5x5 at borders. His weights p² are for independent noise; what disturbs a map is the next
    column, so they are also damped with the distance, and pixels where p rises again stay out. The fit may
    move a column by 1 map pixel in y and x at most, and never off the image; a peak without curvature stays
    at its pixel, with NaN for a width.

    Parameters
    ----------
    maps : (k, ny, nx) f4, channel 0 the background.
    stride : image pixels per map pixel.
    threshold : lowest score of a column; NaN in a map is no column.
    min_distance_px : of two columns nearer than this, in image pixels, the one of lower probability goes.
    usual_sigma_px : width of a usual column's peak in image pixels, by which scores are `weighed`; None: they are not.

    Returns
    -------
    Columns, in image pixels.

    Raises
    ------
    ValueError
        If maps, stride, threshold or distance make no sense.
    """
    maps = _checked(maps, stride)
    if not 0 < threshold < 1:
        raise ValueError(
            f"impossible threshold: expected a probability inside (0, 1), got {threshold}; 0.5 is usual"
        )
    if not 0 <= min_distance_px < np.inf:
        raise ValueError(f"impossible distance: expected min_distance_px >= 0, got {min_distance_px}")
    peaks, kind = maxima(maps, np.float32(lowest_height(threshold, usual_sigma_px)))
    if min_distance_px > 0 and len(peaks) > 1:
        kept = suppress(peaks, np.argsort(-peaks[:, 3], kind="stable"), min_distance_px / stride)
        peaks, kind = peaks[kept], kind[kept]
    found = in_image_px(peaks[:, :2], peaks[:, 2], peaks[:, 3], kind, stride)
    return weighed(found, usual_sigma_px, threshold)


def lowest_height(threshold: float, usual_sigma_px: float | None) -> float:
    """The lowest probability at its maximum that a column of a score of `threshold` or more can have."""
    return threshold if usual_sigma_px is None else threshold / (threshold + _WIDTHS[1] * (1 - threshold))


def weighed(found: Columns, usual_sigma_px: float | None, threshold: float) -> Columns:
    """Columns scored by the odds at the maximum times the peak's width in usual ones; those of `threshold` or more.

    The score is that product as a probability again, p r / (p r + 1 - p) with r = σ / usual σ. A column whose place is
    uncertain has a lower and wider peak than one that is as sure to be there: by p alone, the best threshold is the
    lower the lower the dose. The probability in the whole peak, p σ², is high for whatever is wide, the smear of two
    columns too. By what lies between, one threshold serves all doses best. A peak without a width has the usual one.
    Where no usual width is known, columns stay as they are.
    """
    if usual_sigma_px is None:
        return found
    width = np.clip(np.nan_to_num(found.sigma_px / np.float32(usual_sigma_px), nan=1.0), *_WIDTHS)
    score = (found.score * width / (found.score * width + 1 - found.score)).astype(np.float32)
    kept = score >= threshold
    return Columns(found.yx_px[kept], found.sigma_px[kept], score[kept], found.kind[kept])


def find_columns_watershed(
    maps: np.ndarray, stride: int = 1, threshold: float = 0.5, ratio: float = 0.12, limit: float = 0.995
) -> Columns:
    """The papers' interpretation (Madsen et al. 2018, section 2.5; Madsen's thesis, eq. 6.14 to 6.16).

    Minima of the background below `limit` seed a watershed (Meyer's algorithm) bounded at `limit`. In a
    segment, class weights are the normalized sums of each class map (eq. 6.14), the position is the centre of
    mass of the foreground (eq. 6.15), and the segment is dropped where foreground < ratio × background, both
    summed (eq. 6.16, which is printed the other way round).

    The papers recommend a ratio of 0.5 and call it uncritical. Bounded at 0.995, however, a lone Gaussian of
    full height only reaches 0.23, and a column at the edge of a particle 0.35: the default is what a lone
    Gaussian of height one half has. The demand on the maximum, `threshold`, is not the papers': it makes this
    ask what `find_columns` asks.

    Parameters
    ----------
    maps : (k, ny, nx) f4, channel 0 the background.
    stride : image pixels per map pixel.
    threshold : lowest foreground probability of a column at its maximum; 0 for the papers' way alone.
    ratio, limit : see above.

    Returns
    -------
    Columns; sigma_px is the root mean square radius of the segment's foreground over √2.

    Raises
    ------
    ValueError
        If maps or stride make no sense.
    """
    from skimage.measure import label  # takes a second to import; the live path never comes here
    from skimage.morphology import local_minima
    from skimage.segmentation import watershed

    maps = _checked(maps, stride)
    background = maps[0]
    below = background < limit
    seeds = np.asarray(label(local_minima(background) & below))
    count = int(seeds.max(initial=0))
    segments = watershed(background, seeds, mask=below).ravel()

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(segments, weights=values.ravel(), minlength=count + 1)[1:]

    foreground = 1.0 - background.astype(np.float64)
    weight = sums(foreground)
    score = np.zeros(count + 1)
    np.maximum.at(score, segments, foreground.ravel())
    kept = (weight >= ratio * sums(background)) & (score[1:] >= threshold)
    y, x = np.indices(background.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        yx = np.stack([sums(foreground * y), sums(foreground * x)], axis=1) / weight[:, None]
        square = sums(foreground * (y**2 + x**2)) / weight - (yx**2).sum(axis=1)
    classes = np.stack([sums(channel) for channel in maps[1:]])
    sigma = np.sqrt(np.maximum(square, 0.0) / 2)
    return in_image_px(yx[kept], sigma[kept], score[1:][kept], 1 + classes.argmax(axis=0)[kept], stride)


def _checked(maps: np.ndarray, stride: int) -> np.ndarray:
    if maps.ndim != 3 or maps.shape[0] < 2 or maps.dtype != np.float32:
        raise ValueError(
            f"not probability maps: expected f4 (k >= 2, ny, nx), got {maps.dtype} {maps.shape}; "
            "pass the maps of one image, background first"
        )
    if stride < 1:
        raise ValueError(f"impossible stride: expected image pixels per map pixel >= 1, got {stride}")
    return np.ascontiguousarray(maps)


def in_image_px(
    yx: np.ndarray, sigma: np.ndarray, score: np.ndarray, kind: np.ndarray, stride: int
) -> Columns:
    """Columns in image pixels from positions and widths in map pixels."""
    return Columns(
        yx_px=((yx + 0.5) * stride - 0.5).astype(np.float32),
        sigma_px=(sigma * stride).astype(np.float32),
        score=score.astype(np.float32),
        kind=kind.astype(np.uint8),
    )
