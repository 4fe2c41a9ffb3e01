"""The normalized picture that columns were found in, with the network's map of it, and a look at places in both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import njit

REACH = 2  # samples on either side of a place
SAMPLES = (2 * REACH + 1) ** 2  # of a patch


@dataclass(frozen=True, slots=True)
class Picture:
    """The normalized picture that columns were found in.

    Attributes
    ----------
    image : (ny, nx) f4, mean 0 and variance 1 locally.
    zoom : frame pixels per pixel of it, along y and x.
    background : (my, mx) f4, 1 - P(column) by the network; None where it was not asked.
    stride : pixels of the image per pixel of the background.
    """

    image: np.ndarray
    zoom: tuple[float, float] = (1.0, 1.0)
    background: np.ndarray | None = None
    stride: int = 1

    def to_image_px(self, yx_px: np.ndarray) -> np.ndarray:
        """Positions (n, 2) in pixels of the frame, in pixels of the image."""
        return (yx_px + 0.5) / np.asarray(self.zoom) - 0.5

    def to_map_px(self, yx_px: np.ndarray) -> np.ndarray:
        """Positions (n, 2) in pixels of the frame, in pixels of the background."""
        return (yx_px + 0.5) / (self.stride * np.asarray(self.zoom)) - 0.5

    @property
    def map_px(self) -> float:
        """Frame pixels per pixel of the background, the mean of y and x."""
        return self.stride * float(np.sqrt(np.prod(self.zoom)))


@njit(cache=True, nogil=True)
def highest(background, yx, wanted, reach):
    """P(column) at the highest maximum (n,) f4 within `reach` pixels, along y and x, of each position's own pixel.

    0 where there is none: the skirt of a neighbour's maximum does not count.
    """
    ny, nx = background.shape
    out = np.zeros(len(yx), np.float32)
    for k in range(len(yx)):
        if not wanted[k]:
            continue
        y, x = int(np.rint(yx[k, 0])), int(np.rint(yx[k, 1]))
        lowest = np.float32(1)
        if 0 <= y < ny and 0 <= x < nx and _is_least(background, y, x):
            lowest = min(lowest, background[y, x])  # of a column it mostly is this one: no other needs a look
        for i in range(max(y - reach, 0), min(y + reach + 1, ny)):
            for j in range(max(x - reach, 0), min(x + reach + 1, nx)):
                value = background[i, j]
                if value < lowest and _is_least(background, i, j):
                    lowest = value
        out[k] = np.float32(1) - lowest
    return out


@njit(cache=True, nogil=True)
def _is_least(background, y, x):
    """Whether none of the neighbours (8) of a pixel is lower."""
    ny, nx = background.shape
    for i in range(max(y - 1, 0), min(y + 2, ny)):
        for j in range(max(x - 1, 0), min(x + 2, nx)):
            if background[i, j] < background[y, x]:
                return False
    return True


@cache
def look_by(step: int):
    """A kernel (image, yx, wanted, patches) that looks at positions in squares of `step` pixels: of every step one by
    itself, for a compiler that knows the step makes it twice as fast.
    """
    side = 2 * REACH + 1
    wide = side * step + 1

    @njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
    def look(image, yx, wanted, patches):
        """Means over squares of `step` pixels, on a grid of them around each position; at the border, its pixels.

        Fills the rows of `patches` that are wanted; the others are 0.
        """
        ny, nx = image.shape
        line = np.empty(wide, np.float32)  # the sum of the lines of one row of squares
        one, scale = np.float32(1), np.float32(1.0 / step**2)
        for k in range(len(yx)):
            patch = patches[k]
            patch[:] = 0
            if not wanted[k]:
                continue
            y = yx[k, 0] - (REACH * step + 0.5 * (step - 1))
            x = yx[k, 1] - (REACH * step + 0.5 * (step - 1))
            top, left = int(np.floor(y)), int(np.floor(x))
            fy, fx = np.float32(y - top), np.float32(x - left)
            if top < 0 or left < 0 or top + wide > ny or left + wide > nx:
                _look_at_border(image, top, left, fy, fx, step, patch)
                continue
            for i in range(side):
                # of the first line what lies within the squares, of the one after the last too
                first = top + i * step
                for u in range(wide):
                    lines = (one - fy) * image[first, left + u] + fy * image[first + step, left + u]
                    for v in range(1, step):
                        lines += image[first + v, left + u]
                    line[u] = lines
                for j in range(side):
                    total = line[j * step] + fx * (line[j * step + step] - line[j * step])
                    for u in range(1, step):
                        total += line[j * step + u]
                    patch[i * side + j] = total * scale

    return look


@njit(cache=True, nogil=True)
def _look_at_border(image, top, left, fy, fx, step, patch):
    """The same of one position, of which some pixels lie outside: those of the border stand for them."""
    ny, nx = image.shape
    side = 2 * REACH + 1
    for i in range(side):
        for j in range(side):
            for v in range(step + 1):
                down = 1 - fy if v == 0 else fy if v == step else np.float32(1)
                row = min(max(top + i * step + v, 0), ny - 1)
                for u in range(step + 1):
                    along = 1 - fx if u == 0 else fx if u == step else np.float32(1)
                    at = min(max(left + j * step + u, 0), nx - 1)
                    patch[i * side + j] += down * along * image[row, at] / step**2
