"""From counts to columns: an image is brought to what the engine was trained on, and its columns back.

Resample, normalize, pad, run, find. The engine sees an image as it was in training: at a sampling it was
trained for, normalized, with zeros (the local mean) beyond the border.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from engines.manifest import EngineMismatch, Manifest
from engines.runtime import Engine
from stream.columns import Columns, find_columns
from stream.frame import CalibrationError
from stream.normalize import Normalizer
from stream.resample import Resampler

MOST_ENLARGED = 2.0  # beyond this a column is a pixel or two of the camera, whatever is made of them
STAGES = ("resample", "normalize", "network", "columns")
_TRACKED = 0.76  # of an engine's threshold: measured on phantoms at 30 e/Å², where every weak column counts


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one frame, or in one stack of frames.

    Attributes
    ----------
    columns : in pixels of the frame.
    image : (ny', nx') f4, normalized, as the engine saw it, a stack's (c, ny', nx'); None where it was not asked for.
    background : (my, mx) f4, the first of the engine's maps; None where the image is.
    stage_ms : time each stage took; on a card its share of the batch.
    """

    columns: Columns
    image: np.ndarray | None
    background: np.ndarray | None
    stage_ms: dict[str, float]


class Sampling:
    """How frames of one shape and pixel size become what an engine sees, and its columns the frame's again.

    Parameters
    ----------
    engine : open.
    shape_yx : (ny, nx) of every frame, in pixels.
    pixel_size_nm : of the frames, at the specimen.

    Attributes
    ----------
    resampler : from the frames to the images.
    pixel_size_nm : of the images.
    sigma_px : of their normalization.
    min_distance_px : two columns nearer than this are one, in pixels of the images.
    padded_yx : sides of the batch.
    """

    def __init__(self, engine: Engine, shape_yx: tuple[int, int], pixel_size_nm: float) -> None:
        manifest = engine.manifest
        target_nm = _target_pixel_size_nm(engine, shape_yx, pixel_size_nm)
        self.resampler = Resampler(shape_yx, pixel_size_nm, target_nm)
        self._zoom = float(np.sqrt(np.prod(self.resampler.scale_yx)))
        self.pixel_size_nm = pixel_size_nm * self._zoom
        self.sigma_px = manifest.normalize_sigma_nm / self.pixel_size_nm
        self.min_distance_px = manifest.min_distance_nm / self.pixel_size_nm
        step = manifest.multiple_of
        ny, nx = self.resampler.shape_yx
        self.padded_yx = (-(-ny // step) * step, -(-nx // step) * step)

    def in_frame(self, found: Columns) -> Columns:
        """Columns of the batch in pixels of the frame; those in the padding are dropped."""
        inside = (found.yx_px <= np.array(self.resampler.shape_yx, np.float32) - 0.5).all(axis=1)
        return Columns(
            yx_px=self.resampler.to_input_px(found.yx_px[inside]),
            sigma_px=found.sigma_px[inside] * np.float32(self._zoom),
            score=found.score[inside],
            kind=found.kind[inside],
        )


def own_pixel_size_nm(
    manifest: Manifest, pixel_size_nm: float | None, spacing_px: float | None
) -> float | None:
    """The pixel size by which frames are scaled for an engine: the specimen's, or one that columns' spacing gives.

    Parameters
    ----------
    pixel_size_nm : at the specimen, None if nobody knows.
    spacing_px : between nearest columns of the frames, in pixels; None if nobody knows.

    Raises
    ------
    CalibrationError
        If the engine is scaled by spacing, and that is not known or is no spacing.
    EngineMismatch
        If a spacing is given to another engine, or columns are nearer than the engine can be shown them.
    """
    if spacing_px is not None:
        if not 0 < spacing_px < np.inf:
            raise CalibrationError(
                f"impossible spacing of columns: expected pixels above 0, got {spacing_px}; set camera.spacing_px in "
                "site.toml, or give --spacing-px"
            )
        own_nm = manifest.own_nm_px(spacing_px)
        if own_nm > MOST_ENLARGED * manifest.reads_nm_px[1]:
            nearest, farthest = manifest.spacing_px_range or (0.0, 0.0)
            raise EngineMismatch(
                f"columns are too near for the engine: {manifest.name} reads columns {nearest:g} to {farthest:g} px "
                f"apart, and frames with {nearest / MOST_ENLARGED:g} px or more are enlarged to that; got "
                f"{spacing_px:g} px; raise the magnification, or choose another engine"
            )
        return own_nm
    if manifest.nominal_spacing_px is not None:
        raise CalibrationError(
            f"engine {manifest.name} is scaled by the spacing of columns: expected the pixels from a column to its "
            "nearest, got none; set camera.spacing_px in site.toml (hopscope detect measures it in a recording)"
        )
    return pixel_size_nm


def tracked_threshold(manifest: Manifest) -> float:
    """The lowest score of a column that is tracked, where nobody says another.

    Lower than the engine's own, which is best for a picture alone: a tracker knows where columns may be, and a false
    one costs it less than a missed one.
    """
    return _TRACKED * manifest.threshold


def checked_threshold(engine: Engine, threshold: float | None) -> float:
    """The lowest score of a column: the engine's own unless told."""
    threshold = engine.manifest.threshold if threshold is None else threshold
    if not 0 < threshold < 1:
        raise ValueError(f"impossible threshold: expected a score inside (0, 1), got {threshold}")
    return threshold


class ColumnFinder:
    """Finds columns in the frames of one shape and pixel size, or in stacks of them, with one engine.

    Frames whose pixels the engine was trained for go in as they are; finer ones are shrunk to the engine's
    nominal pixel size, which loses nothing it could use and saves time, and coarser ones are enlarged to it,
    twofold at most. The network is compiled for the shape on construction, so that no frame waits for it.

    Parameters
    ----------
    engine : open; with more than one input channel it is shown stacks of as many frames.
    header_shape_yx : (ny, nx) of every frame, in pixels.
    pixel_size_nm : of the frames, at the specimen.
    threshold : lowest score of a column; None for the engine's own.

    Attributes
    ----------
    pixel_size_nm : of the image that the engine sees.
    zoom_yx : frame pixels per pixel of that image.
    stage_ns : time each of STAGES took for the last frame, in ns.
    background : (my, mx) f4, the first of the engine's maps of the last frame; valid until the next call.

    Raises
    ------
    CalibrationError
        If the pixel size is not a size.
    EngineMismatch
        If frames of this pixel size cannot be made into images that the engine was trained for.
    ValueError
        If the threshold is not inside (0, 1).
    """

    def __init__(
        self,
        engine: Engine,
        header_shape_yx: tuple[int, int],
        pixel_size_nm: float,
        threshold: float | None = None,
    ) -> None:
        self._sampling = sampling = Sampling(engine, header_shape_yx, pixel_size_nm)
        self.engine = engine
        self.threshold = checked_threshold(engine, threshold)
        self._resampler = sampling.resampler
        self.zoom_yx = self._resampler.scale_yx
        self.pixel_size_nm = sampling.pixel_size_nm
        channels = engine.manifest.input_channels
        self._stack_shape = (channels, *header_shape_yx)
        self._normalizer = Normalizer(self._resampler.shape_yx, sampling.sigma_px, channels)
        self._batch = np.zeros((1, channels, *sampling.padded_yx), np.float32)
        self.stage_ns: dict[str, int] = dict.fromkeys(STAGES, 0)
        self.background = engine.run(self._batch)[0, 0]

    def find(self, counts: np.ndarray, bad_pixels: np.ndarray | None = None) -> tuple[Columns, np.ndarray]:
        """Find the columns of one frame, or the columns that a stack of registered frames shows together.

        Parameters
        ----------
        counts : (ny, nx) for one input channel, or (c, ny, nx); any integer or real dtype; a pixel that is not finite
            is a bad one.
        bad_pixels : (ny, nx) bool, True where a pixel must not be believed.

        Returns
        -------
        Columns in pixels of the frame, all of them inside it, and the normalized image (ny', nx') or (c, ny', nx') f4
        that the engine saw, at `pixel_size_nm`; the image is valid until the next call.

        Raises
        ------
        ValueError
            If shape or dtype are not as promised.
        """
        if counts.shape != self._stack_shape and (1, *counts.shape) != self._stack_shape:
            channels, *shape_yx = self._stack_shape
            raise ValueError(
                f"frames of another shape: expected {channels} of {tuple(shape_yx)} for engine "
                f"{self.engine.manifest.name}, got {counts.shape}; make a ColumnFinder for that shape"
            )
        times = [time.perf_counter_ns()]
        counts, bad_pixels = self._resample(counts, bad_pixels)
        times.append(time.perf_counter_ns())
        image = self._normalize(counts, bad_pixels)
        times.append(time.perf_counter_ns())
        maps = self.engine.run(self._batch)[0]
        times.append(time.perf_counter_ns())
        columns, self.background = self._read(maps), maps[0]
        times.append(time.perf_counter_ns())
        self.stage_ns = {
            stage: end - start for stage, (start, end) in zip(STAGES, pairwise(times), strict=True)
        }
        return columns, image

    def normalize(self, counts: np.ndarray, bad_pixels: np.ndarray | None = None) -> np.ndarray:
        """The normalized image alone, as `find` gives it."""
        return self._normalize(*self._resample(counts, bad_pixels))

    def _resample(
        self, counts: np.ndarray, bad_pixels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if self._resampler.identity:
            return counts, bad_pixels
        if counts.ndim == 2:
            return self._resampler(counts, bad_pixels), None  # bad pixels are NaN in it
        return np.stack([self._resampler(image, bad_pixels) for image in counts]), None

    def _normalize(self, images: np.ndarray, bad_pixels: np.ndarray | None) -> np.ndarray:
        """Write the normalized images into the batch; the padding stays zero."""
        ny, nx = self._resampler.shape_yx
        view = self._batch[0, :, :ny, :nx]
        view = view[0] if images.ndim == 2 else view
        if view.flags.c_contiguous:
            return self._normalizer(images, bad_pixels, out=view)
        view[:] = self._normalizer(images, bad_pixels)
        return view

    def _read(self, maps: np.ndarray) -> Columns:
        """Columns in pixels of the frame."""
        manifest, near_px = self.engine.manifest, self._sampling.min_distance_px
        found = find_columns(maps, manifest.stride, self.threshold, near_px, manifest.usual_sigma_px)
        return self._sampling.in_frame(found)


def _target_pixel_size_nm(engine: Engine, shape_yx: tuple[int, int], pixel_size_nm: float) -> float:
    """The pixel size that the engine shall see, in nm."""
    manifest = engine.manifest
    finest, coarsest = manifest.reads_nm_px
    if not 0 < pixel_size_nm < np.inf:
        raise CalibrationError(
            f"impossible pixel size: expected nm per pixel at the specimen, above 0, got {pixel_size_nm}; "
            "set pixel_size_nm in site.toml, or give --pixel-size-nm"
        )
    reads = f"engine {manifest.name} reads {finest:g} to {coarsest:g} nm/px"
    if pixel_size_nm > MOST_ENLARGED * coarsest:
        raise EngineMismatch(
            f"frames are too coarse for the engine: {reads}, and frames of up to {MOST_ENLARGED * coarsest:g} nm/px "
            f"are enlarged to that; got {pixel_size_nm:g} nm/px; check the pixel size, raise the magnification, or "
            "choose another engine"
        )
    field_nm = min(shape_yx) * pixel_size_nm
    if field_nm < manifest.normalize_sigma_nm:
        raise EngineMismatch(
            f"frames show too little for the engine: {reads}, and expects at least {manifest.normalize_sigma_nm:g} nm "
            f"of the specimen; got {pixel_size_nm:g} nm/px, {field_nm:g} nm in all; check the pixel size (nm, not "
            "pm or Å), or lower the magnification"
        )
    return pixel_size_nm if finest <= pixel_size_nm <= coarsest else manifest.nominal_nm_px
