"""What really happened in a phantom session: the yardstick of every tracker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.rigid import turned


@dataclass(frozen=True)
class Truth:
    """What really happened in a phantom session.

    Attributes
    ----------
    yx_nm : (m, 2) f8, every place a column can be, without drift, from the centre of pixel (0, 0).
    height : (m,) i8, atoms in the column when it is there.
    initial : (m,) bool, occupied in frame 0.
    hops : (n,) with fields frame, from_site, to_site (i8): departures have to_site -1, arrivals have
        from_site -1; `frame` is the first frame that shows the change.
    drift_yx_px : (frames, 2) f8, how far the specimen has moved in each frame, along its own axes.
    turn_rad : (frames,) f8, how far it has turned then, about the frame's middle, clockwise as shown.
    pixel_size_nm, shape_yx : of the frames.
    """

    yx_nm: np.ndarray
    height: np.ndarray
    initial: np.ndarray
    hops: np.ndarray
    drift_yx_px: np.ndarray
    turn_rad: np.ndarray
    pixel_size_nm: float
    shape_yx: tuple[int, int]

    def __len__(self) -> int:
        return len(self.drift_yx_px)

    def occupancy_at(self, index: int) -> np.ndarray:
        """(m,) bool, the sites occupied in frame `index`."""
        self._check(index)
        past = self.hops[: np.searchsorted(self.hops["frame"], index, side="right")]
        sites = np.concatenate([past["from_site"], past["to_site"]])
        changes = np.bincount(sites[sites >= 0], minlength=len(self.initial))
        return self.initial ^ (changes % 2 == 1)

    def occupancy_between(self, first: int, stop: int) -> np.ndarray:
        """(stop - first, m) bool, the sites occupied in frames first to stop - 1."""
        out = np.zeros((stop - first, len(self.initial)), np.int8)
        out[0] = self.occupancy_at(first)
        within = self.hops[(self.hops["frame"] > first) & (self.hops["frame"] < stop)]
        for field in ("from_site", "to_site"):
            real = within[within[field] >= 0]
            np.add.at(out, (real["frame"] - first, real[field]), 1)
        return np.cumsum(out, axis=0, dtype=np.int32) % 2 == 1

    @property
    def occupancy(self) -> np.ndarray:
        """(frames, m) bool, all of it: frames × m bytes, made anew at every call."""
        return self.occupancy_between(0, len(self))

    def site_yx_px(self, index: int) -> np.ndarray:
        """(m, 2) f8, where the sites are in frame `index`, in its pixels."""
        self._check(index)
        shifted = self.yx_nm / self.pixel_size_nm + self.drift_yx_px[index]
        return turned(shifted, float(self.turn_rad[index]), (np.array(self.shape_yx) - 1) / 2)

    def columns(self, index: int) -> np.ndarray:
        """(n, 2) f8, positions in px of the columns that frame `index` shows."""
        yx = self.site_yx_px(index)[self.occupancy_at(index)]
        return yx[((yx >= -0.5) & (yx < np.array(self.shape_yx) - 0.5)).all(axis=1)]

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise ValueError(f"no frame {index}: the session has frames 0 to {len(self) - 1}")
