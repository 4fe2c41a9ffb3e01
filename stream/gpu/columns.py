"""Columns on the card: what goes back is six numbers for each."""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDS = 6  # of suppression over all peaks; a chain of close ones longer than that is followed to its end after them
AT_ONCE = 4096  # rows of each image that come back before it is known how many there are
ROOM = 1.25  # and, of images with more, of the most there were so far


class DeviceColumns:
    """`stream.columns.find_columns` for up to `most_images` maps of one shape at once.

    Parameters
    ----------
    device : of `stream.device`.
    maps_shape : (k, ny, nx), background first.
    threshold : lowest foreground probability of a column.
    min_distance : of two columns nearer than this, in map pixels, the lower score goes.
    most_images : in the largest batch.
    """

    def __init__(
        self,
        device: Any,
        maps_shape: tuple[int, int, int],
        threshold: float,
        min_distance: float,
        most_images: int = 1,
    ) -> None:
        self.maps_shape = maps_shape
        _, ny, nx = maps_shape
        self._device = device
        self._ceiling = np.float32(1) - np.float32(threshold)
        self._distance = np.float64(min_distance)
        self._most = most = ((ny + 1) // 2) * ((nx + 1) // 2)
        self._ahead = min(AT_ONCE, most)
        b = most_images
        self._place, self._facts = device.empty((b, most, 2), "f8"), device.empty((b, most, 4), "f4")
        self._state, self._rows = device.empty((b, most), "i4"), device.empty((b, most, 6), "f4")
        self._counts = device.zeros((b, 3), "i4")  # peaks, those kept, whether there are plateaus
        pixels = (b, ny, nx)
        self._peak_at, self._label, self._lower, self._size, self._middle = (
            device.empty(pixels, "i4") for _ in range(5)
        )
        self._sum_y, self._sum_x, self._nearest = (device.empty(pixels, "u8") for _ in range(3))

    def start(self, maps: Any) -> None:
        """Begin finding the columns of maps (b, k, ny, nx) f4."""
        b, (k, ny, nx) = maps.shape[0], self.maps_shape
        device = self._device
        grid, block = (-(-nx // 32), -(-ny // 8), b), (32, 8, 1)
        sides, planes, most = (np.int32(ny), np.int32(nx)), np.int32(k), np.int32(self._most)
        place, facts, counts, peak_at = self._place, self._facts, self._counts, self._peak_at
        sums = self._size, self._sum_y, self._sum_x
        device.fill(counts, 0)
        device.launch(
            "maxima", grid, block, maps, self._ceiling, planes, *sides, most, place, facts, counts, peak_at,
            self._label, self._lower, *sums, self._nearest, self._middle,
        )  # fmt: skip
        device.launch("join", grid, block, maps, planes, *sides, counts, self._label)
        device.launch("survey", grid, block, *sides, counts, self._label, self._lower, *sums)
        roots = counts, self._label, self._lower, *sums, self._nearest
        device.launch("find_nearest", grid, block, *sides, *roots)
        device.launch("find_middle", grid, block, *sides, *roots, self._middle)
        device.launch(
            "settle", grid, block, maps, planes, *sides, most, place, facts, counts, peak_at, self._label,
            self._lower, self._middle,
        )  # fmt: skip
        everyone = (-(-self._most // 256), 1, b), (256, 1, 1)
        if self._distance > 0:
            device.launch("begin_suppression", *everyone, counts, self._state, most)
            asked = place, facts, peak_at, counts, self._state, *sides, most, self._distance
            for _ in range(ROUNDS):
                device.launch("suppress", (min(-(-self._most // 256), 256), 1, b), (256, 1, 1), *asked)
            device.launch("suppress_rest", (1, 1, b), (256, 1, 1), *asked)
        everything = np.int32(self._distance <= 0)
        device.launch("gather", *everyone, place, facts, self._state, counts, self._rows, most, everything)

        self._coming = device.bring(counts[:b]), device.bring(self._rows[:b, : self._ahead])

    def fetch(self, images: int) -> list[np.ndarray]:
        """Wait for it: of each image (n, 6) f4, y, x, sigma in map pixels, score, kind, in raster order.

        The sixth column holds the bits of the pixel where the column was met.
        """
        kept, first = (wait() for wait in self._coming)
        if images:  # to ask for more would wait for the next batch, which is in the stream by now
            self._ahead = min(self._most, max(self._ahead, int(ROOM * kept[:images, 1].max())))
        found = []
        for i, n in enumerate(kept[:images, 1]):
            rows = first[i, :n] if n <= first.shape[1] else self._device.get(self._rows[i, :n])
            found.append(rows[np.argsort(np.ascontiguousarray(rows[:, 5]).view("i4"))])
        return found
