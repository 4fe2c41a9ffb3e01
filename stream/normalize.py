"""Local contrast normalization: the same for training and for the live path.

From every pixel its local mean is taken, and what remains is divided by its local standard deviation, both
under a Gaussian window much wider than a column and its neighbourhood (Madsen et al. 2018, eq. 2 and 3;
Madsen's thesis, eq. 6.10 and 6.11). The image is mirrored at its borders (half-sample symmetric), which
makes the Gaussian diagonal in the DCT-II basis with the multiplier `exp(-(π k σ / N)² / 2)` for mode k of N.

What is not a measurement stays out of both averages (normalized convolution) and comes out as 0, the local
mean: bad pixels, pixels that are not finite, everything where less than a thousandth of the window is good,
and everything where the contrast is rounding, as in the shadow of a beam stop: a dead flat image becomes all
zeros.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.fft import dctn, idctn

FLAT = 1e-6  # a local deviation below this fraction of the local mean is rounding (f4 resolves 6e-8)
FAINT = 3e-3  # and so is one below this fraction of the whole image's deviation
LEAST_WEIGHT = 1e-3  # less of the window than this tells nothing
LAST_MULTIPLIER = 1e-7  # modes damped more than this lie below the resolution of f4
ROWS_PER_SIGMA = 8  # bands of rows per sigma: more is nearer to the exact way, and slower


def normalize_exact(images: np.ndarray, sigma_px: float, bad_pixels: np.ndarray | None = None) -> np.ndarray:
    """Normalize an image, or a stack of registered images together; the reference for `Normalizer`.

    Mean and deviation are shared by the images of a stack, so that relative intensities survive.

    Parameters
    ----------
    images : (ny, nx) or (k, ny, nx), any integer or real dtype.
    sigma_px : standard deviation of the Gaussian window, in pixels.
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed.

    Returns
    -------
    (ny, nx) or (k, ny, nx) f4: zero mean and unit variance under the window.

    Raises
    ------
    ValueError
        If the shapes or the width make no sense.
    """
    stack = np.asarray(images, np.float64)
    if stack.ndim not in (2, 3) or stack.size == 0:
        raise ValueError(
            f"not an image: expected (ny, nx) or (k, ny, nx), got {stack.shape}; pass one image or stack"
        )
    stack = stack.reshape(-1, *stack.shape[-2:])
    ny, nx = _checked_shape(stack.shape[-2:], sigma_px)
    good = np.isfinite(stack)
    if bad_pixels is not None:
        good &= ~_checked_mask(bad_pixels, (ny, nx))
    multiplier = np.outer(_multiplier(ny, sigma_px), _multiplier(nx, sigma_px))

    def blur(image: np.ndarray) -> np.ndarray:
        return np.asarray(idctn(dctn(image, norm="ortho") * multiplier, norm="ortho"))

    weight = blur(good.mean(axis=0))
    known = weight > LEAST_WEIGHT
    weight = np.where(known, weight, 1.0)
    mean = blur(np.where(good, stack, 0.0).mean(axis=0)) / weight
    stack = np.where(good & known, stack - mean, 0.0)
    deviation = np.sqrt(np.maximum(blur((stack**2).mean(axis=0)) / weight, 0.0))
    overall = np.sqrt((stack**2).sum() / max(good.sum(), 1))
    seen = deviation > np.maximum(FLAT * np.abs(mean), FAINT * overall)
    normalized = np.where(seen, stack / np.where(seen, deviation, 1.0), 0.0)
    return normalized.reshape(np.shape(images)).astype(np.float32)


class Normalizer:
    """The fast way to `normalize_exact`; they differ by a few 1e-4 on average, below 1e-2 at most.

    A wide Gaussian has few modes. Along x they are used as they are: blurring a row is a product with a
    (nx, modes) matrix and one with its transpose. Along y rows are first summed in bands of about σ/8, the
    blurred rows are found at the edges of the bands, and every row takes its mean and deviation from a line
    between the two edges. What remains are three passes over the image and a few small matrix products. It
    works in buffers of its own: one thread at a time.

    Parameters
    ----------
    shape_yx : (ny, nx) of every image to come, in pixels.
    sigma_px : standard deviation of the Gaussian window, in pixels.
    channels : images in a stack; they share their mean and deviation.
    """

    def __init__(self, shape_yx: tuple[int, int], sigma_px: float, channels: int = 1) -> None:
        self.shape_yx = _checked_shape(shape_yx, sigma_px)
        self.sigma_px = float(sigma_px)
        self.channels = channels
        ny = self.shape_yx[0]
        bands = max(1, round(ny * ROWS_PER_SIGMA / sigma_px)) if sigma_px > ROWS_PER_SIGMA else ny
        self._edges = np.linspace(0, ny, bands + 1).round().astype(np.int64)
        matrices = blur_matrices(self.shape_yx, self.sigma_px, self._edges, ny / bands)
        bands_to_edges, self._to_modes, self._from_modes = matrices
        self._bands_to_edges = bands_to_edges / channels  # of the mean of a stack
        self._rows_per_band = channels * np.diff(self._edges)[:, None].astype("f4")
        nx = self.shape_yx[1]
        self._sums = np.empty((bands, nx), "f4")
        self._counts = np.empty((bands, nx), "f4")

    def __call__(
        self, images: np.ndarray, bad_pixels: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Normalize an image, or a stack of registered images together.

        Parameters
        ----------
        images : (ny, nx) for one channel, or (channels, ny, nx); any integer or real dtype, read as f4.
        bad_pixels : (ny, nx) bool, True where a pixel must not be believed, in any image of a stack.
        out : of the shape of `images`, f4, C-ordered, to write into.

        Returns
        -------
        f4 of the shape of `images`: zero mean and unit variance under the window; `out` if given.

        Raises
        ------
        ValueError
            If a shape or dtype is not the promised one.
        """
        images = self._readable(images)
        if out is None:
            out = np.empty(images.shape, "f4")
        elif out.shape != images.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(
                f"cannot write the normalized image: expected C-ordered f4 of shape {images.shape}, got "
                f"{out.dtype} of shape {out.shape}; pass such an array, or none"
            )
        stack, written = (images, out) if images.ndim == 3 else (images[None], out[None])
        sums, counts = self._sums, self._rows_per_band
        if bad_pixels is None:
            _sum_rows(stack, self._edges, sums)
            if not np.isfinite(total := sums.sum(dtype=np.float64)):
                bad_pixels = np.zeros(
                    self.shape_yx, np.bool_
                )  # the pixels that are not finite are found below
        if bad_pixels is not None:
            bad_pixels = _checked_mask(bad_pixels, self.shape_yx)
            counts = self._counts
            _sum_good_rows(stack, bad_pixels, self._edges, sums, counts)
            total = sums.sum(dtype=np.float64)
            pixels = counts.sum(dtype=np.float64)
        else:
            pixels = float(stack.size)
        # the mean of all is taken out first: the products then round what varies, not what is large
        level = np.float32(total / max(pixels, 1.0))
        sums -= level * counts
        mean = self._blur(sums)
        if bad_pixels is None:
            mean += level
            _subtract(stack, self._edges, mean, written, sums)
            variance = self._blur(sums)
        else:
            weight = self._blur(counts)
            unknown = weight <= LEAST_WEIGHT
            weight[unknown] = 1.0
            mean /= weight
            mean += level
            _subtract_good(stack, bad_pixels, self._edges, mean, written, sums)
            variance = self._blur(sums)
            variance /= weight
            variance[unknown] = 0.0
        deviation = np.sqrt(np.maximum(variance, 0.0))
        overall = np.float32(np.sqrt(sums.sum(dtype=np.float64) / max(pixels, 1.0)))
        deviation[~(deviation > np.maximum(FLAT * np.abs(mean), FAINT * overall))] = np.inf
        _scale(written, self._edges, 1.0 / deviation)
        return out

    def _readable(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        one = self.channels == 1 and images.shape == self.shape_yx
        if not one and images.shape != (self.channels, *self.shape_yx):
            raise ValueError(
                f"image of another shape: expected {self.channels} of {self.shape_yx}, got {images.shape}; "
                "make a Normalizer for that shape"
            )
        if images.dtype.kind not in "iuf":
            raise ValueError(
                f"image of an unusable dtype: expected integers or real numbers, got {images.dtype}; "
                "convert it first"
            )
        if images.dtype == np.float16:
            return still(images.astype(np.float32))
        return still(images if images.dtype.isnative else images.astype(images.dtype.newbyteorder("=")))

    def _blur(self, sums: np.ndarray) -> np.ndarray:
        """Sums over bands (bands, nx) -> the mean image's blurred rows at the bands' edges (bands + 1, nx)."""
        return (self._bands_to_edges @ (sums @ self._to_modes)) @ self._from_modes


def blur_matrices(
    shape_yx: tuple[int, int], sigma_px: float, edges: np.ndarray, rows_per_band: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Gaussian as products: blurred rows at the bands' edges = (B @ (sums @ T)) @ F.

    Parameters
    ----------
    shape_yx, sigma_px : of the images and the window.
    edges : (bands + 1,) of the bands of rows.
    rows_per_band : of most of them.

    Returns
    -------
    B (bands + 1, bands), T (nx, modes), F (modes, nx), all f4; `sums` (bands, nx) are over the rows of each band.
    """
    ny, nx = shape_yx
    damping_y = _multiplier(ny, sigma_px)
    damping_y = damping_y[damping_y > LAST_MULTIPLIER]
    k = np.arange(len(damping_y))
    if rows_per_band == 1:  # a row takes the mean of its two edges, which damps mode k by exactly this
        gain_y = damping_y / np.cos(0.5 * np.pi * k / ny)
    else:  # summing over a band and drawing lines across it each damp mode k once more by sinc², undone here
        gain_y = damping_y / np.sinc(0.5 * k * rows_per_band / ny) ** 4
    damping_x = _multiplier(nx, sigma_px)
    damping_x = damping_x[damping_x > LAST_MULTIPLIER]
    modes_y = np.add.reduceat(_modes(np.arange(ny) + 0.5, ny, len(damping_y)), edges[:-1], axis=0)
    modes_y /= np.diff(edges)[:, None]
    bands_to_edges = ((_modes(edges, ny, len(damping_y)) * gain_y) @ modes_y.T).astype("f4")
    modes_x = _modes(np.arange(nx) + 0.5, nx, len(damping_x))
    from_modes = np.ascontiguousarray((modes_x * damping_x).T, dtype="f4")
    return bands_to_edges, modes_x.astype("f4"), from_modes


def _multiplier(n: int, sigma_px: float) -> np.ndarray:
    """Of a Gaussian in the DCT-II basis of n samples."""
    return np.exp(-0.5 * (np.pi * sigma_px * np.arange(n) / n) ** 2)


def _modes(at: np.ndarray, n: int, count: int) -> np.ndarray:
    """The first orthonormal DCT-II modes of n samples at positions from the border, (len(at), count)."""
    k = np.arange(count)
    return np.where(k == 0, np.sqrt(1 / n), np.sqrt(2 / n)) * np.cos(np.pi / n * np.outer(at, k))


def _checked_shape(shape_yx: tuple[int, ...], sigma_px: float) -> tuple[int, int]:
    if len(shape_yx) != 2 or min(shape_yx) < 1:
        raise ValueError(
            f"not an image's shape: expected (ny, nx) of 1 or more, got {shape_yx}; pass both sides"
        )
    if not (np.isfinite(sigma_px) and sigma_px > 0):
        raise ValueError(
            f"impossible window: expected sigma_px > 0, got {sigma_px}; pass its width in pixels"
        )
    return int(shape_yx[0]), int(shape_yx[1])


def _checked_mask(bad_pixels: np.ndarray, shape_yx: tuple[int, int]) -> np.ndarray:
    if bad_pixels.shape != shape_yx or bad_pixels.dtype != np.bool_:
        raise ValueError(
            f"mask does not fit: expected bool of shape {shape_yx}, got {bad_pixels.dtype} of shape "
            f"{bad_pixels.shape}; pass True where a pixel is bad"
        )
    return still(bad_pixels)


def still(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written: for numba those are of another type, and one kernel per dtype is enough."""
    view = array.view()
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True)
def _sum_rows(stack, edges, sums):
    for band in range(len(edges) - 1):
        total = sums[band]
        total[:] = 0
        for k in range(len(stack)):
            for y in range(edges[band], edges[band + 1]):
                row = stack[k, y]
                for x in range(len(row)):
                    total[x] += np.float32(row[x])


@njit(cache=True, nogil=True)
def _sum_good_rows(stack, bad, edges, sums, counts):
    for band in range(len(edges) - 1):
        total, count = sums[band], counts[band]
        total[:] = 0
        count[:] = 0
        for k in range(len(stack)):
            for y in range(edges[band], edges[band + 1]):
                for x in range(len(total)):
                    value = np.float32(stack[k, y, x])
                    if np.isfinite(value) and not bad[y, x]:
                        total[x] += value
                        count[x] += np.float32(1)


@njit(cache=True, nogil=True)
def _subtract(stack, edges, mean, out, squares):
    for band in range(len(edges) - 1):
        above, below, total = mean[band], mean[band + 1], squares[band]
        total[:] = 0
        for k in range(len(stack)):
            for y in range(edges[band], edges[band + 1]):
                t = np.float32((y + 0.5 - edges[band]) / (edges[band + 1] - edges[band]))
                row, out_row = stack[k, y], out[k, y]
                for x in range(len(row)):
                    value = np.float32(row[x]) - (above[x] + t * (below[x] - above[x]))
                    out_row[x] = value
                    total[x] += value * value


@njit(cache=True, nogil=True)
def _subtract_good(stack, bad, edges, mean, out, squares):
    for band in range(len(edges) - 1):
        above, below, total = mean[band], mean[band + 1], squares[band]
        total[:] = 0
        for k in range(len(stack)):
            for y in range(edges[band], edges[band + 1]):
                t = np.float32((y + 0.5 - edges[band]) / (edges[band + 1] - edges[band]))
                for x in range(len(total)):
                    value = np.float32(stack[k, y, x])
                    if np.isfinite(value) and not bad[y, x]:
                        value -= above[x] + t * (below[x] - above[x])
                        out[k, y, x] = value
                        total[x] += value * value
                    else:
                        out[k, y, x] = np.float32(0)


@njit(cache=True, nogil=True)
def _scale(out, edges, factor):
    for band in range(len(edges) - 1):
        above, below = factor[band], factor[band + 1]
        for k in range(len(out)):
            for y in range(edges[band], edges[band + 1]):
                t = np.float32((y + 0.5 - edges[band]) / (edges[band + 1] - edges[band]))
                row = out[k, y]
                for x in range(len(row)):
                    row[x] *= above[x] + t * (below[x] - above[x])
