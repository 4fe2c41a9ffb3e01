"""Discs, rings, whole or dashed, and arrows onto pictures, with smooth edges, in place."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _blend(picture, i, j, colour, alpha):
    for c in range(3):
        picture[i, j, c] = np.uint8(picture[i, j, c] + alpha * (colour[c] - picture[i, j, c]) + 0.5)


@njit(cache=True, nogil=True)
def paint_discs(picture, yx_px, radius_px, width_px, colour, alpha, dashes=0):
    """Discs, or with a width above 0 rings, of one colour.

    Parameters
    ----------
    picture : (ny, nx, 3) u1.
    yx_px : (n, 2) f8, centres.
    radius_px, width_px : of a disc; of a ring, to the middle of its line, which is so wide.
    colour : (3,) f8, 0 to 255.
    alpha : (n,) f8, 1 covers.
    dashes : of a ring, as long as the gaps between them; 0: its line is whole.
    """
    ny, nx = picture.shape[:2]
    reach = radius_px + width_px + 1.0
    dash_rad = np.pi / max(dashes, 1)
    for k in range(len(yx_px)):
        y, x = yx_px[k]
        if not (y > -reach and x > -reach and y < ny + reach and x < nx + reach):
            continue
        for i in range(max(int(y - reach), 0), min(int(y + reach) + 2, ny)):
            for j in range(max(int(x - reach), 0), min(int(x + reach) + 2, nx)):
                distance = np.sqrt((i - y) ** 2 + (j - x) ** 2)
                outside = abs(distance - radius_px) - width_px / 2 if width_px > 0 else distance - radius_px
                cover = min(max(0.5 - outside, 0.0), 1.0) * alpha[k]
                if dashes > 0:
                    from_middle_rad = abs(np.arctan2(i - y, j - x) % (2 * dash_rad) - dash_rad)
                    beyond = (from_middle_rad - dash_rad / 2) * distance
                    cover *= min(max(0.5 - beyond, 0.0), 1.0)
                if cover > 0:
                    _blend(picture, i, j, colour, cover)


@njit(cache=True, nogil=True)
def _beside(y, x, y0, x0, y1, x1):
    """The distance of a point from a line between two points."""
    dy, dx = y1 - y0, x1 - x0
    t = ((y - y0) * dy + (x - x0) * dx) / max(dy * dy + dx * dx, 1e-9)
    t = min(max(t, 0.0), 1.0)
    return np.sqrt((y - y0 - t * dy) ** 2 + (x - x0 - t * dx) ** 2)


@njit(cache=True, nogil=True)
def paint_arrows(picture, start_yx_px, end_yx_px, width_px, head_px, colour, alpha):
    """Arrows of one colour; parameters as for `paint_discs`, heads with sides `head_px` long."""
    ny, nx = picture.shape[:2]
    for k in range(len(start_yx_px)):
        y0, x0 = start_yx_px[k]
        y1, x1 = end_yx_px[k]
        length = np.sqrt((y1 - y0) ** 2 + (x1 - x0) ** 2)
        if not length > 0:
            continue
        uy, ux = (y1 - y0) / length, (x1 - x0) / length
        # the head's two sides, 30 degrees off the line
        ya, xa = y1 - head_px * (0.866 * uy + 0.5 * ux), x1 - head_px * (0.866 * ux - 0.5 * uy)
        yb, xb = y1 - head_px * (0.866 * uy - 0.5 * ux), x1 - head_px * (0.866 * ux + 0.5 * uy)
        reach = width_px + 1.0
        for i in range(
            max(int(min(y0, y1, ya, yb) - reach), 0), min(int(max(y0, y1, ya, yb) + reach) + 2, ny)
        ):
            for j in range(
                max(int(min(x0, x1, xa, xb) - reach), 0), min(int(max(x0, x1, xa, xb) + reach) + 2, nx)
            ):
                distance = min(
                    _beside(i, j, y0, x0, y1, x1),
                    _beside(i, j, y1, x1, ya, xa),
                    _beside(i, j, y1, x1, yb, xb),
                )
                cover = min(max(0.5 - distance + width_px / 2, 0.0), 1.0) * alpha[k]
                if cover > 0:
                    _blend(picture, i, j, colour, cover)
