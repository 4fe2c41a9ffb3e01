"""Detections without end: a particle whose rim columns hop, drawn frame by frame in constant memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stream.matching import neighbours
from stream.picture import Picture
from tests.helpers.detections import SPACING_PX, particle

PERIOD_NS = 10_000_000
_DISC_PX = 6  # half a disc's side in a picture
_STRIDE = 2  # pixels of a picture per pixel of the network's map
_PEAK_PX = 3  # half a peak's side in the map


class EndlessSession:
    """A particle on which columns hop, seen by a finder with known faults.

    Parameters
    ----------
    sites : about how many places there are; most of them inside, occupied for ever.
    hop : P(a column of the rim tries a neighbouring place, in one frame).
    seen, false_per_frame, jitter_px : the finder.
    reach_px : the specimen wanders within so many pixels.
    pictures : give a picture and the network's map of it with every frame.

    Attributes
    ----------
    shape_yx : of the frames.
    occupied : (sites,) bool, now.
    moves : so far.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        sites: int = 2000,
        *,
        hop: float = 0.004,
        seen: float = 0.98,
        false_per_frame: float = 5.0,
        jitter_px: float = 0.3,
        reach_px: float = 30.0,
        pictures: bool = False,
    ) -> None:
        radius_px = SPACING_PX * float(np.sqrt(sites * 2 * 0.577 * 0.816 / np.pi))
        side = int(2 * (radius_px + reach_px + 3 * SPACING_PX))
        self.rng, self.shape_yx = rng, (side, side)
        self.hop, self.seen, self.false, self.jitter_px = hop, seen, false_per_frame, jitter_px
        self.reach_px = reach_px
        self.yx_px = particle(radius_px, centre_yx_px=(side / 2, side / 2))
        rim = np.hypot(*(self.yx_px - side / 2).T) > radius_px - 1.6 * SPACING_PX
        self._rim = np.flatnonzero(rim)
        self._beside = neighbours(self.yx_px, 1.3 * SPACING_PX, 8)
        self.occupied = ~rim | (rng.random(len(rim)) < 0.7)
        self.moves = 0
        self._yx = np.zeros(2)
        self._noise = rng.normal(size=(4, *self.shape_yx)).astype(np.float32) if pictures else None
        grid = np.mgrid[-_DISC_PX : _DISC_PX + 1, -_DISC_PX : _DISC_PX + 1]
        self._disc = -2.0 * np.exp(-(grid**2).sum(axis=0) / (2 * 2.5**2)).astype(np.float32)
        grid = np.mgrid[-_PEAK_PX : _PEAK_PX + 1, -_PEAK_PX : _PEAK_PX + 1]
        self._peak = 1.0 - 0.9 * np.exp(-(grid**2).sum(axis=0) / (2 * 1.2**2)).astype(np.float32)

    def frames(self, count: int, first: int = 0) -> Iterator[tuple[int, int, np.ndarray, Picture | None]]:
        """The next frames: index, t_ns, columns (n, 2) px, picture."""
        for index in range(first, first + count):
            self._move()
            shift = self._drift()
            yx = self.yx_px[self.occupied & (self.rng.random(len(self.occupied)) < self.seen)] + shift
            yx += self.rng.normal(0, self.jitter_px, yx.shape)
            anywhere = self.rng.random((self.rng.poisson(self.false), 2)) * (self.shape_yx[0] - 1)
            reported = np.concatenate([yx, anywhere])
            yield index, index * PERIOD_NS, reported, self._picture(shift, reported)

    def _move(self) -> None:
        for site in self._rim[self.rng.random(len(self._rim)) < self.hop]:
            to = int(self.rng.choice(self._beside[site]))
            if self.occupied[site] and to >= 0 and not self.occupied[to]:
                self.occupied[[site, to]] = False, True
                self.moves += 1

    def _drift(self) -> np.ndarray:
        step = self._yx + self.rng.normal(0, 0.3, 2)
        self._yx = np.where(np.abs(step) < self.reach_px, step, self._yx)
        return self._yx

    def _picture(self, shift: np.ndarray, reported_yx_px: np.ndarray) -> Picture | None:
        """White noise with a disc at every column, and a map with a peak at every report, to the nearest pixel."""
        if self._noise is None:
            return None
        image = self._noise[int(self.rng.integers(len(self._noise)))].copy()
        for y, x in np.rint(self.yx_px[self.occupied] + shift).astype(int):
            part = slice(y - _DISC_PX, y + _DISC_PX + 1), slice(x - _DISC_PX, x + _DISC_PX + 1)
            image[part] += self._disc
        rows, columns = -(-np.array(image.shape) // _STRIDE) + 2 * _PEAK_PX
        background = np.ones((rows, columns), np.float32)
        for y, x in np.rint((reported_yx_px + 0.5) / _STRIDE - 0.5).astype(int) + _PEAK_PX:
            part = slice(y - _PEAK_PX, y + _PEAK_PX + 1), slice(x - _PEAK_PX, x + _PEAK_PX + 1)
            background[part] = np.minimum(background[part], self._peak)
        inside = slice(_PEAK_PX, -_PEAK_PX)
        return Picture(image, background=np.ascontiguousarray(background[inside, inside]), stride=_STRIDE)
