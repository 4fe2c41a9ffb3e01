"""Everything a first frame would have to wait for, compiled and loaded before it comes."""

from __future__ import annotations

import numpy as np

from stream.columns import find_columns
from stream.find import Where
from stream.frame import Encoding, Frame, SeriesHeader
from stream.lattice import empty_places
from stream.picture import SAMPLES, Picture, look_by
from stream.tracking import Tracker

SHAPE_YX = (512, 512)
DTYPES = ("u1", "u2", "u4")  # of cameras
_MOST_STEP_PX = 4  # of looks at sites up to 27 pixels apart, as an engine sees them


def warm_up(where: Where, lag_frames: int) -> None:
    """Send noise of every kind that a camera may send through all that lies between a payload and its hops.

    Parameters
    ----------
    where : columns are found; a series must begin there anew.
    lag_frames : of the tracker.
    """
    image = _warm_up_finding(where)
    maps = np.ones((2, 16, 16), np.float32)
    maps[:, 4:6, 4:6] = [[[0.1]], [[0.9]]]  # a plateau, and a peak that is too near to it
    maps[:, 4, 8] = 0.2, 0.8
    find_columns(maps, 1, 0.5, 6.0)
    _warm_up_tracking(np.resize(image, SHAPE_YX).astype(np.float32), where.manifest.nominal_nm_px, lag_frames)


def _warm_up_finding(where: Where) -> np.ndarray:
    """Pictures of frames with bad pixels and without, at the engine's sampling and at another; returns the last."""
    rng, image = np.random.default_rng(0), np.empty(0)
    mask = np.zeros(SHAPE_YX, np.bool_)
    mask[100:140, 100:140] = True  # so many that pixels are unknown after resampling, too
    as_it_is_and_resampled = where.manifest.nominal_nm_px, 0.6 * where.manifest.sampling_nm_px[0]
    for pixel_size_nm in as_it_is_and_resampled[: 1 if where.on_cards else 2]:
        for dtype in DTYPES:
            counts = rng.poisson(10, SHAPE_YX).astype(dtype)
            encoding = Encoding(SHAPE_YX, counts.dtype)
            for bad_pixels in (None, mask):
                header = SeriesHeader(0, SHAPE_YX, counts.dtype, bad_pixels=bad_pixels)
                where.begin(header, pixel_size_nm)
                image = where.picture(Frame(0, 0, None, 0, memoryview(counts.tobytes()), encoding))
    return image


def _warm_up_tracking(image: np.ndarray, pixel_size_nm: float, lag_frames: int) -> None:
    """A lattice whose columns come and go, and which leaps; and the empty places of a honeycomb."""
    lattice = np.ascontiguousarray(14.0 * np.argwhere(np.ones((30, 30))))
    tracker = Tracker(SHAPE_YX, pixel_size_nm, 1.0, lag=lag_frames)
    empty = np.ones((SHAPE_YX[0] // 2, SHAPE_YX[1] // 2), np.float32)  # a network's map
    for index in range(4 * lag_frames):
        there = np.delete(lattice, index // 10, axis=0)  # one after the other comes and goes
        leap_px = 5.0 * (index >= 2 * lag_frames)
        seen = image if index % 2 else image[:, :-1]  # in the middle of a padded batch, or all of it
        tracker.update(
            index, index * 10**9, there + leap_px, None, Picture(seen, background=None if index else empty)
        )
    tracker.finish()
    tracker.maps()
    everywhere, patches = np.ones(len(lattice), np.bool_), np.empty((len(lattice), SAMPLES), np.float32)
    for step_px in range(1, _MOST_STEP_PX + 1):
        for seen in (image, image[:, :-1]):
            look_by(step_px)(seen, lattice, everywhere, patches)
    grid = np.argwhere(np.ones((9, 9)))
    honeycomb = grid[(grid[:, 0] - grid[:, 1]) % 3 > 0] @ np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
    empty_places(honeycomb, honeycomb, 1.0)
