"""Resampling and local normalization on the card: the exact scheme of `stream.normalize`, with narrower bands."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream.normalize import blur_matrices
from stream.resample import Resampler

BANDS_PER_SIGMA = 24  # at least; three times the CPU's and all of one height: products cost little here
THREADS = 128


class DeviceResampler:
    """`stream.resample.Resampler` on a device; pixels that are not finite take no part."""

    def __init__(self, device: Any, resampler: Resampler) -> None:
        self._device = device
        (self._ny, self._nx), (self._ny_out, self._nx_out) = resampler.input_shape_yx, resampler.shape_yx
        self._taps: list[Any] = []
        for first, weight in resampler.taps:
            self._taps += [device.put(first.astype("i4")), device.put(weight)]
        self._sizes = [np.int32(weight.shape[1]) for _, weight in resampler.taps]

    def __call__(self, images: Any, out: Any) -> None:
        """(b, ny, nx) f4 -> (b, ny', nx') f4, NaN where too little is known."""
        grid = (-(-self._nx_out // 32), -(-self._ny_out // 8), images.shape[0])
        sides = [np.int32(n) for n in (self._ny, self._nx, self._ny_out, self._nx_out)]
        self._device.launch("resample", grid, (32, 8, 1), images, *self._taps, out, *sides, *self._sizes)


class DeviceNormalizer:
    """Local normalization of up to `most` images or stacks at once, as `normalize_exact` does it.

    Between the edges of a band sums, weights and variance lie on lines, and every row takes its own ratio and root of
    them. Where a band is one row (sigma below twice BANDS_PER_SIGMA) that is exact to rounding, from 1 px on; in
    bands of two rows and more it is right to 1e-4 on average.

    Parameters
    ----------
    device : of `stream.device`.
    shape_yx : (ny, nx) of the images, in pixels.
    sigma_px : of the Gaussian window.
    most : images, or stacks, in the largest batch.
    channels : images in a stack; they share their mean and deviation.
    """

    def __init__(
        self, device: Any, shape_yx: tuple[int, int], sigma_px: float, most: int = 1, channels: int = 1
    ) -> None:
        self.shape_yx, self.channels = shape_yx, channels
        nx = shape_yx[1]
        self._device = device
        height = max(1, int(sigma_px // BANDS_PER_SIGMA))
        edges = np.append(np.arange(0, shape_yx[0], height), shape_yx[0])
        to_edges, to_modes, from_modes = blur_matrices(shape_yx, sigma_px, edges, height)
        self._bands = bands = len(edges) - 1
        self._edges = device.put(edges.astype("i4"))
        self._to_edges = device.put(np.repeat(to_edges[None], 2 * most, axis=0))  # one for each it multiplies
        self._to_modes = device.put(to_modes)
        self._from_modes = device.put(from_modes)
        modes = from_modes.shape[0]
        self._sums = device.empty((most, 2, bands, nx), "f4")
        self._squares = device.empty((most, bands, nx), "f4")
        self._blurred = device.empty((most, 2, bands + 1, nx), "f4")
        self._variance = device.empty((most, bands + 1, nx), "f4")
        self._modes = device.empty((most * 2, bands, modes), "f4")
        self._edge_modes = device.empty((most * 2, bands + 1, modes), "f4")
        self._totals = device.empty((most, 2, bands), "f8")
        self._level, self._overall = device.empty(most, "f4"), device.empty(most, "f4")
        self._pixels = device.empty(most, "f8")

    def __call__(self, images: Any, out: Any) -> None:
        """Normalize images (b * channels, ny, nx) f4, stack after stack, into the corners of `out`
        (b, channels, NY, NX) f4; beyond them nothing is written.

        Bad pixels are not finite, and come out as 0.
        """
        b, bands, (ny, nx) = images.shape[0] // self.channels, self._bands, self.shape_yx
        pitch, room = np.int32(out.shape[3]), np.int64(out.shape[2] * out.shape[3])
        launch = self._device.launch
        grid, threads = (-(-nx // THREADS), bands, b), (THREADS, 1, 1)
        channels = np.int32(self.channels)
        sides = channels, np.int32(bands), np.int32(ny), np.int32(nx)
        sums, squares = self._sums[:b], self._squares[:b]
        blurred, variance = self._blurred[:b], self._variance[:b]

        launch("band_sums", grid, threads, images, self._edges, sums, *sides)
        launch("row_totals", (b * 2 * bands, 1, 1), (256, 1, 1), sums, self._totals, np.int32(nx))
        launch(
            "image_level", (b, 1, 1), (256, 1, 1), self._totals, self._level, self._pixels, np.int32(bands)
        )
        launch("take_level", grid, threads, sums, self._level, np.int32(bands), np.int32(nx))
        self._blur(sums.reshape(2 * b, bands, nx), blurred.reshape(2 * b, bands + 1, nx))
        launch(
            "subtract",
            grid,
            threads,
            images,
            self._edges,
            blurred,
            self._level,
            out,
            squares,
            *sides,
            pitch,
            room,
        )
        launch("row_totals", (b * bands, 1, 1), (256, 1, 1), squares, self._totals, np.int32(nx))
        launch(
            "image_deviation",
            (b, 1, 1),
            (256, 1, 1),
            self._totals,
            self._pixels,
            self._overall,
            np.int32(bands),
        )
        self._blur(squares, variance)
        launch(
            "scale", grid, threads, out, self._edges, blurred, variance, self._level, self._overall,
            channels, np.int32(bands), np.int32(nx), pitch, room,
        )  # fmt: skip

    def _blur(self, sums: Any, out: Any) -> None:
        """(n, bands, nx) -> (n, bands + 1, nx)."""
        n = sums.shape[0]
        modes, edge_modes = self._modes[:n], self._edge_modes[:n]
        self._device.matmul(sums, self._to_modes, modes)
        self._device.matmul(self._to_edges[:n], modes, edge_modes)
        self._device.matmul(edge_modes, self._from_modes, out)
