"""Images at another sampling: what a network was trained at is seldom what the microscope was set to."""

from __future__ import annotations

import numpy as np
from numba import njit

from stream.normalize import still

LEAST_KNOWN = 0.5  # weight of good pixels that a resampled pixel needs


class Resampler:
    """Resample images from one pixel size to another with a cubic kernel (Keys 1981, a = -1/2).

    Shrinking stretches the kernel by as much, so that nothing is aliased; the number of pixels is rounded, and
    the field of view is kept exactly. Where the two pixel sizes give the same number, images pass unchanged.

    Parameters
    ----------
    shape_yx : (ny, nx) of the images to come.
    pixel_size_nm : of the images to come, in nm.
    target_pixel_size_nm : wanted, in nm.

    Attributes
    ----------
    input_shape_yx, shape_yx : (ny, nx) of the images to come, and of the resampled ones.
    scale_yx : input pixels per output pixel.
    identity : whether nothing changes.
    taps : along y and x: first input pixel (n,) and weights (n, taps) of every output pixel.

    Raises
    ------
    ValueError
        If shape or pixel sizes are impossible.
    """

    def __init__(self, shape_yx: tuple[int, int], pixel_size_nm: float, target_pixel_size_nm: float) -> None:
        if not (0 < pixel_size_nm < np.inf and 0 < target_pixel_size_nm < np.inf):
            raise ValueError(
                f"impossible pixel size: expected nm per pixel above 0, got {pixel_size_nm} and {target_pixel_size_nm}"
            )
        if len(shape_yx) != 2 or min(shape_yx) < 1:
            raise ValueError(f"not an image's shape: expected (ny, nx) of 1 or more, got {shape_yx}")
        self.input_shape_yx = (int(shape_yx[0]), int(shape_yx[1]))
        ny, nx = (max(1, round(n * pixel_size_nm / target_pixel_size_nm)) for n in self.input_shape_yx)
        self.shape_yx = (ny, nx)
        self.scale_yx = (self.input_shape_yx[0] / ny, self.input_shape_yx[1] / nx)
        self.identity = self.shape_yx == self.input_shape_yx
        self.taps = self._y, self._x = _taps(self.input_shape_yx[0], ny), _taps(self.input_shape_yx[1], nx)

    def __call__(self, image: np.ndarray, bad_pixels: np.ndarray | None = None) -> np.ndarray:
        """Resample one image.

        Parameters
        ----------
        image : (ny, nx), any integer or real dtype.
        bad_pixels : (ny, nx) bool, True where a pixel must not be believed; it takes no part.

        Returns
        -------
        f4 of `shape_yx`; NaN where half of the kernel's weight or more lies on bad pixels.

        Raises
        ------
        ValueError
            If a shape or dtype is not the promised one.
        """
        if image.shape != self.input_shape_yx or image.dtype.kind not in "iuf":
            raise ValueError(
                f"cannot resample this image: expected integers or real numbers of shape {self.input_shape_yx}, got "
                f"{image.dtype} of shape {image.shape}; make a Resampler for that shape, or convert it"
            )
        if bad_pixels is not None and (bad_pixels.shape != image.shape or bad_pixels.dtype != np.bool_):
            raise ValueError(
                f"mask does not fit: expected bool of shape {image.shape}, got {bad_pixels.dtype} of shape "
                f"{bad_pixels.shape}; pass True where a pixel is bad"
            )
        if not image.dtype.isnative or image.dtype == np.float16:
            image = image.astype(np.float32)
        if self.identity:
            out = image.astype(np.float32)
            if bad_pixels is not None:
                out[bad_pixels] = np.nan
            return out
        out = np.empty(self.shape_yx, np.float32)
        if bad_pixels is None:
            _resample(still(image), *self._y, *self._x, out)
        else:
            known = np.empty(self.shape_yx, np.float32)
            _resample(still(np.where(bad_pixels, 0, image)), *self._y, *self._x, out)
            _resample(still((~bad_pixels).view(np.uint8)), *self._y, *self._x, known)
            out /= np.where(known > LEAST_KNOWN, known, np.float32(np.nan))
        return out

    def to_input_px(self, yx_px: np.ndarray) -> np.ndarray:
        """Positions (n, 2) in pixels of the resampled image -> in pixels of the image that came in."""
        scale = np.asarray(self.scale_yx, np.float64)
        return ((yx_px + 0.5) * scale - 0.5).astype(np.asarray(yx_px).dtype)


def _taps(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """First input pixel (n_out,) and weights (n_out, taps) of every output pixel along one axis."""
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    at = (np.arange(n_out) + 0.5) * scale - 0.5
    taps = min(int(np.ceil(4 * stretch)) + 1, n_in)
    first = np.clip(np.ceil(at - 2 * stretch).astype(np.int64), 0, n_in - taps)
    distance = np.abs(first[:, None] + np.arange(taps) - at[:, None]) / stretch
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return first, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


# sums may be reordered, which lets them be vectorized; NaN stays NaN
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _resample(image, first_y, weight_y, first_x, weight_x, out):
    row = np.empty(image.shape[1], np.float32)
    for i in range(out.shape[0]):
        row[:] = 0
        for k in range(weight_y.shape[1]):
            source, w = image[first_y[i] + k], weight_y[i, k]
            for x in range(len(row)):
                row[x] += w * np.float32(source[x])
        for j in range(out.shape[1]):
            total = np.float32(0)
            start = first_x[j]
            for k in range(weight_x.shape[1]):
                total += weight_x[j, k] * row[start + k]
            out[i, j] = total
