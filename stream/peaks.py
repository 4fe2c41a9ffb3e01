"""The compiled part of `stream.columns`: maxima of a probability map, their fits, the best of close ones."""

from __future__ import annotations

import numpy as np
from numba import njit

NEARNESS = (1.0, np.exp(-1 / 3), np.exp(-4 / 3))  # a Gaussian of 1.2 pixels


@njit(cache=True, nogil=True)
def maxima(maps, threshold):
    """Maxima of 1 - maps[0]: (n, 4) of y, x, sigma (map pixels) and score, and (n,) u1 of classes."""
    background = maps[0]
    classes, ny, nx = maps.shape
    most = ((ny + 1) // 2) * ((nx + 1) // 2)
    found = np.empty((most, 4))
    kind = np.empty(most, np.uint8)
    seen = np.zeros((1, 1), np.bool_)  # pixels of plateaus already looked at; grown when the first one is met
    plateau = np.empty((1, 2), np.int32)
    ceiling = np.float32(1) - threshold
    n = 0
    for i in range(ny):
        for j in range(nx):
            b = background[i, j]
            if not b <= ceiling:
                continue
            if (j > 0 and background[i, j - 1] < b) or (j + 1 < nx and background[i, j + 1] < b):
                continue  # most pixels are done here
            lowest = True
            flat = False
            for u in range(max(i - 1, 0), min(i + 2, ny)):
                for v in range(max(j - 1, 0), min(j + 2, nx)):
                    if background[u, v] < b:
                        lowest = False
                    elif background[u, v] == b and (u != i or v != j):
                        flat = True
            if not lowest:
                continue
            at_y, at_x = i, j
            if flat:
                if seen.size == 1:
                    seen = np.zeros((ny, nx), np.bool_)
                    plateau = np.empty((ny * nx, 2), np.int32)
                if seen[i, j]:
                    continue
                at_y, at_x = _middle_of_plateau(background, i, j, seen, plateau)
                if at_y < 0:
                    continue
            y, x, sigma = _gaussian(background, at_y, at_x)
            found[n, 0], found[n, 1], found[n, 2], found[n, 3] = y, x, sigma, np.float32(1) - b
            best = 1
            for k in range(2, classes):
                if maps[k, at_y, at_x] > maps[best, at_y, at_x]:
                    best = k
            kind[n] = best
            n += 1
    return found[:n].copy(), kind[:n].copy()


@njit(cache=True, nogil=True)
def _middle_of_plateau(background, i, j, seen, plateau):
    """The plateau's pixel nearest to its centre, or (-1, -1) if it has a lower neighbour; marks it seen."""
    ny, nx = background.shape
    b = background[i, j]
    seen[i, j] = True
    plateau[0, 0], plateau[0, 1] = i, j
    size = 1
    at = 0
    lowest = True
    sum_y = 0.0
    sum_x = 0.0
    while at < size:
        y, x = plateau[at, 0], plateau[at, 1]
        at += 1
        sum_y += y
        sum_x += x
        for u in range(max(y - 1, 0), min(y + 2, ny)):
            for v in range(max(x - 1, 0), min(x + 2, nx)):
                if background[u, v] < b:
                    lowest = False
                elif background[u, v] == b and not seen[u, v]:
                    seen[u, v] = True
                    plateau[size, 0], plateau[size, 1] = u, v
                    size += 1
    if not lowest:
        return -1, -1
    best = 0
    nearest = np.inf
    for k in range(size):
        # whole numbers, so that ties are ties; of those, the first in raster order, whoever looks for it
        distance = (size * plateau[k, 0] - sum_y) ** 2 + (size * plateau[k, 1] - sum_x) ** 2
        before = plateau[k, 0] * nx + plateau[k, 1] < plateau[best, 0] * nx + plateau[best, 1]
        if distance < nearest or (distance == nearest and before):
            best, nearest = k, distance
    return int(plateau[best, 0]), int(plateau[best, 1])


@njit(cache=True, nogil=True)
def _gaussian(background, i, j):
    """Fit ln p = a + b y + c x + d (y² + x²) around (i, j): y, x and sigma in map pixels."""
    ny, nx = background.shape
    peak = np.float64(1.0) - background[i, j]
    # sums of w times products of 1, y, x and r²; and of w ln p times 1, y, x, r²
    s1 = sy = sx = sr = syy = syx = syr = sxx = sxr = srr = 0.0
    t1 = ty = tx = tr = 0.0
    for u in range(max(i - 2, 0), min(i + 3, ny)):
        for v in range(max(j - 2, 0), min(j + 3, nx)):
            p = np.float32(1) - background[u, v]
            if not p > np.float32(1e-3):  # weighs nothing, and its logarithm is noise; NaN too
                continue
            if max(abs(u - i), abs(v - j)) == 2:
                inner = background[u - (u > i) + (u < i), v - (v > j) + (v < j)]
                if background[u, v] <= inner:  # rises again: the neighbour's
                    continue
            y, x = float(u - i), float(v - j)
            r = y * y + x * x
            w = (p / peak) ** 2 * NEARNESS[abs(u - i)] * NEARNESS[abs(v - j)]
            s1 += w
            sy += w * y
            sx += w * x
            sr += w * r
            syy += w * y * y
            syx += w * y * x
            syr += w * y * r
            sxx += w * x * x
            sxr += w * x * r
            srr += w * r * r
            w *= np.log(p)
            t1 += w
            ty += w * y
            tx += w * x
            tr += w * r
    # Gauss elimination, one unknown after the other: a, b, c, d
    if s1 < 1e-9:
        return float(i), float(j), np.nan
    syy, syx, syr, ty = syy - sy * sy / s1, syx - sy * sx / s1, syr - sy * sr / s1, ty - sy * t1 / s1
    sxx, sxr, tx = sxx - sx * sx / s1, sxr - sx * sr / s1, tx - sx * t1 / s1
    srr, tr = srr - sr * sr / s1, tr - sr * t1 / s1
    if syy < 1e-9:
        return float(i), float(j), np.nan
    sxx, sxr, tx = sxx - syx * syx / syy, sxr - syx * syr / syy, tx - syx * ty / syy
    srr, tr = srr - syr * syr / syy, tr - syr * ty / syy
    if sxx < 1e-9:
        return float(i), float(j), np.nan
    srr, tr = srr - sxr * sxr / sxx, tr - sxr * tx / sxx
    if srr < 1e-9 or not tr / srr < -1e-6:
        return float(i), float(j), np.nan
    d = tr / srr
    c = (tx - sxr * d) / sxx
    b = (ty - syr * d - syx * c) / syy
    y = i + min(max(-0.5 * b / d, -1.0), 1.0)
    x = j + min(max(-0.5 * c / d, -1.0), 1.0)
    return min(max(y, -0.5), ny - 0.5), min(max(x, -0.5), nx - 0.5), np.sqrt(-0.5 / d)


@njit(cache=True, nogil=True)
def suppress(peaks, order, distance):
    """Which peaks no better one lies nearer to than `distance` (map pixels); `order` is best first."""
    side = max(distance, 1.0)
    low_y, low_x = peaks[:, 0].min(), peaks[:, 1].min()
    ny = int((peaks[:, 0].max() - low_y) / side) + 1
    nx = int((peaks[:, 1].max() - low_x) / side) + 1
    first = np.full((ny, nx), -1, np.int64)  # boxes, each a chain of the peaks kept in it
    following = np.full(len(peaks), -1, np.int64)
    kept = np.zeros(len(peaks), np.bool_)
    for n in order:
        box_y, box_x = int((peaks[n, 0] - low_y) / side), int((peaks[n, 1] - low_x) / side)
        alone = True
        for u in range(max(box_y - 1, 0), min(box_y + 2, ny)):
            for v in range(max(box_x - 1, 0), min(box_x + 2, nx)):
                other = first[u, v]
                while other >= 0 and alone:
                    dy, dx = peaks[n, 0] - peaks[other, 0], peaks[n, 1] - peaks[other, 1]
                    alone = dy * dy + dx * dx >= distance * distance
                    other = following[other]
        if alone:
            kept[n] = True
            following[n] = first[box_y, box_x]
            first[box_y, box_x] = n
    return kept
