"""A simulated in-situ session: a gold particle on an oxide, its columns and hops known exactly.

`Phantom` is a FrameSource for the demo, the tests and `hopscope simulate`. Every frame is a function of
(settings, index) alone, in whatever order frames are asked for. A frame costs the columns that
changed, the drift and the noise: about a millisecond at 512².
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numba import njit

from stream.frame import Encoding, Frame, Item, SeriesEnd, SeriesHeader
from stream.phantom_motion import Drift, Kinetics, Turn
from stream.phantom_optics import ColumnImages, Optics, oxide_wave
from stream.phantom_particle import SPACING_NM, gold_particle
from stream.phantom_truth import Truth
from stream.shot_noise import ShotNoise, turned_scene

_DEFOCUS_NM = {"dark": -4.5, "bright": 15.0}
_UNIT = 2.0**-24  # wave amplitudes are integers of this unit: sums then do not depend on their order
_CONTINUOUS = 2**31 - 1  # frames that a camera announces when nobody told it to stop


class Phantom:
    """A simulated session.

    Parameters
    ----------
    seed : same seed and settings, same frames.
    shape_px : side of the frames, or (ny, nx).
    frames : how many; None goes on for ever.
    dose_e_nm2 : electrons per nm² and frame.
    pixel_size_nm : at the specimen.
    frame_period_s : from frame to frame.
    contrast : atoms dark or bright; chooses the defocus.
    optics : the lens, instead of `contrast`.
    particle_nm : between opposite {111} facets; default 0.54 of the field of view, 12 at most.
    max_height : atoms in the tallest column.
    support : whether the particle sits on an oxide; in vacuum otherwise.
    drift_px_per_frame : rms speed along each axis; the drift is a smooth, bounded wandering.
    turn_deg : it turns in the plane as well, by this at most.
    jump_px, jump_every : every `jump_every` frames the specimen sits elsewhere, up to `jump_px` away.
    hop_rate, binding, exchange_rate : see `Kinetics`.
    bad_pixels : this many pixels are dead or hot, half of them each; the header tells which.
    series_id : of the header.

    Raises
    ------
    ValueError
        For settings that make no frame.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        shape_px: int | tuple[int, int] = 512,
        frames: int | None = 600,
        dose_e_nm2: float = 31_000.0,
        pixel_size_nm: float = 0.02,
        frame_period_s: float = 1 / 30,
        contrast: Literal["dark", "bright"] = "dark",
        optics: Optics | None = None,
        particle_nm: float | None = None,
        max_height: int = 14,
        support: bool = True,
        drift_px_per_frame: float = 0.12,
        turn_deg: float = 0.0,
        jump_px: float = 0.0,
        jump_every: int = 200,
        hop_rate: float = 0.06,
        binding: float = 1.2,
        exchange_rate: float = 1e-3,
        bad_pixels: int = 0,
        series_id: int = 1,
    ) -> None:
        shape = (shape_px, shape_px) if isinstance(shape_px, int) else (int(shape_px[0]), int(shape_px[1]))
        _check_settings(shape, frames, pixel_size_nm, frame_period_s, contrast)
        optics = optics or Optics(defocus_nm=_DEFOCUS_NM[contrast])
        rng, kinetics_rng, noise_rng, turn_rng = (np.random.default_rng([seed, part]) for part in range(4))
        self.frames = frames
        self._shape, self._pixel_size_nm = shape, pixel_size_nm
        self._noise_key = int(noise_rng.integers(2**63))
        self._particle = gold_particle(
            min(12.0, 0.54 * min(shape) * pixel_size_nm) if particle_nm is None else particle_nm,
            max_height,
            rotation_rad=float(rng.uniform(-0.5, 0.5)),
            offset_nm=(float(rng.uniform(0, 0.2)), float(rng.uniform(0, 0.14))),
        )
        self._kinetics = Kinetics(
            self._particle.neighbours,
            self._particle.hold,
            self._particle.occupied,
            seed=int(kinetics_rng.integers(2**63)),
            hop_rate=hop_rate,
            binding=binding,
            exchange_rate=exchange_rate,
        )
        self._drift = Drift(rng, drift_px_per_frame, jump_px, jump_every, limit_px=0.1 * min(shape))
        self._centre_nm = (np.array(shape) - 1) / 2 * pixel_size_nm - self._particle.yx_nm.mean(axis=0)
        self._yx_nm = self._particle.yx_nm + self._centre_nm

        self._turn = Turn(turn_rng, turn_deg)
        swing_px = np.hypot(*shape) * np.sin(self._turn.most_rad / 2)  # of the frame's corners
        self._margin = int(np.ceil(self._drift.reach_px + swing_px)) + 4
        self._images = ColumnImages(optics, pixel_size_nm, max_height, SPACING_NM)
        canvas = shape[0] + 2 * self._margin, shape[1] + 2 * self._margin
        self._wave = np.zeros((*canvas, 2), np.int32)
        if support:
            self._wave += self._support_wave(optics, rng)
        self._scene = np.empty(canvas, np.float32)
        brightest = self._place_columns()
        self._noise = ShotNoise(dose_e_nm2 * pixel_size_nm**2, brightest)
        self._bad, self._hot = _bad_pixels(shape, bad_pixels, rng)
        self.header = SeriesHeader(
            series_id=series_id,
            shape_yx=shape,
            dtype=np.dtype("<u2"),
            frame_period_s=frame_period_s,
            exposure_s=frame_period_s,
            pixel_size_nm=pixel_size_nm,
            beam_energy_ev=optics.energy_ev,
            dose_rate_e_nm2_s=dose_e_nm2 / frame_period_s,
            bad_pixels=self._bad,
            frames_expected=_CONTINUOUS if frames is None else frames,
            metadata={"source": "hopscope phantom", "seed": seed, "pixel_size_nm": pixel_size_nm},
        )

    def render(self, index: int) -> np.ndarray:
        """Counts of frame `index`, (ny, nx) u2; fastest where few columns moved since the last one asked."""
        seen = self._look_at(index)
        key = np.random.SeedSequence([self._noise_key, index]).generate_state(1, np.uint64)[0]
        counts = self._noise.expose(*seen, int(key))
        if self._bad is not None:
            counts[self._bad] = 0
            counts[self._hot] = np.iinfo(np.uint16).max
        return counts

    def intensity(self, index: int, changed_site: int | None = None) -> np.ndarray:
        """Frame `index` without noise and bad pixels, (ny, nx) f4, 1 in vacuum.

        With `changed_site`, as it would be if that one site were empty instead of occupied, or the reverse.
        """
        seen = self._look_at(index)
        if changed_site is None:
            return self._noise.view(*seen)
        self._change(changed_site, not self._shown[changed_site])
        try:
            return self._noise.view(*self._look_at(index, as_shown=True))
        finally:
            self._change(changed_site, bool(self._shown[changed_site]))

    @property
    def truth(self) -> Truth:
        """The whole session's truth.

        Raises
        ------
        ValueError
            If the session never ends: ask `truth_until`.
        """
        if self.frames is None:
            raise ValueError("an endless session has no whole truth: call truth_until(frames)")
        return self.truth_until(self.frames)

    def truth_until(self, frames: int) -> Truth:
        """The truth of frames 0 to frames - 1."""
        return Truth(
            yx_nm=self._yx_nm,
            height=self._particle.height,
            initial=self._particle.occupied,
            hops=self._kinetics.moves(frames),
            drift_yx_px=self._drift.at(np.arange(frames)),
            turn_rad=self._turn.at(np.arange(frames)),
            pixel_size_nm=self._pixel_size_nm,
            shape_yx=self._shape,
        )

    def __iter__(self) -> Iterator[Item]:
        yield self.header
        period_ns = 1e9 * (self.header.frame_period_s or 0.0)
        encoding = Encoding(self._shape, self.header.dtype)
        index = 0
        while self.frames is None or index < self.frames:
            payload = self.render(index).data.cast("B")
            t_ns = round(index * period_ns)
            yield Frame(self.header.series_id, index, t_ns, time.monotonic_ns(), payload, encoding)
            index += 1
        yield SeriesEnd(self.header.series_id)

    def close(self) -> None:
        """Nothing to give back; a FrameSource has it."""

    def _change(self, site: int, there: bool) -> None:
        """Put the column of a site on the canvas, or take it away."""
        patch, top, left = self._column(site)
        _add(self._wave, patch, top, left, 1 if there else -1)
        _expose(self._wave, self._scene, top, top + len(patch), left, left + len(patch))

    def _look_at(self, index: int, as_shown: bool = False) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
        """The scene of frame `index`, the frame's shape, and where in the scene its pixel (0, 0) is, (2,) f8."""
        if index < 0 or (self.frames is not None and index >= self.frames):
            last = "" if self.frames is None else f" to {self.frames - 1}"
            raise ValueError(f"no frame {index}: the session has frames 0{last}")
        occupied = self._shown if as_shown else self._kinetics.occupancy_at(index)
        for site in np.flatnonzero(occupied != self._shown).tolist():
            self._change(site, bool(occupied[site]))
        self._shown = occupied
        corner, turn_rad = self._margin - self._drift.at(index), float(self._turn.at(index))
        if turn_rad == 0:
            return self._scene, self._shape, corner
        return turned_scene(self._scene, self._shape, corner, turn_rad), self._shape, np.full(2, 2.0)

    def _place_columns(self) -> float:
        """Draw the canvas of frame 0; an intensity that no frame exceeds, whatever comes and goes."""
        amplitude = np.hypot(1 + _UNIT * self._wave[..., 0], _UNIT * self._wave[..., 1])
        self._shown = self._particle.occupied
        for site in range(len(self._yx_nm)):
            patch, top, left = self._column(site)
            if self._shown[site]:
                _add(self._wave, patch, top, left, 1)
            size = _UNIT * np.hypot(patch[..., 0], patch[..., 1])
            y, x = slice(max(0, top), top + len(patch)), slice(max(0, left), left + len(patch))
            here = amplitude[y, x]
            here += size[y.start - top :, x.start - left :][: here.shape[0], : here.shape[1]]
        _expose(self._wave, self._scene, 0, self._scene.shape[0], 0, self._scene.shape[1])
        return 1.1 * float(amplitude.max()) ** 2  # some room for what interpolation adds

    def _support_wave(self, optics: Optics, rng: np.random.Generator) -> np.ndarray:
        pad = round(2.0 / self._pixel_size_nm)  # the transform is periodic: keep its seam out of sight
        ny, nx = (n + 2 * pad for n in self._wave.shape[:2])
        y, x = (self._pixel_size_nm * (np.arange(n) - self._margin - pad) for n in (ny, nx))
        down_y, down_x = self._particle.down_yx
        depth = (y[:, None] - self._centre_nm[0]) * down_y + (x[None, :] - self._centre_nm[1]) * down_x
        depth -= self._particle.support_nm
        return _fixed_point(oxide_wave((ny, nx), self._pixel_size_nm, depth, optics, rng)[pad:-pad, pad:-pad])

    def _column(self, site: int) -> tuple[np.ndarray, int, int]:
        """The image wave of the column at `site`, in fixed point, and its first corner on the canvas."""
        yx = self._yx_nm[site] / self._pixel_size_nm + self._margin
        whole = np.floor(yx).astype(int)
        wave = self._images.patch(int(self._particle.height[site]), tuple(yx - whole))
        top, left = whole - self._images.side_px // 2
        return _fixed_point(wave), int(top), int(left)


def _check_settings(
    shape: tuple[int, int], frames: int | None, pixel_size_nm: float, frame_period_s: float, contrast: str
) -> None:
    field_nm = min(shape) * pixel_size_nm
    if not 0.005 <= pixel_size_nm <= 0.05 or field_nm < 1.9:
        raise ValueError(
            f"frames of {shape} at {pixel_size_nm} nm/px show no particle with its columns, expected 0.005 to "
            f"0.05 nm/px and a field of 1.9 nm or more: take more pixels or another sampling"
        )
    if frames is not None and frames < 1:
        raise ValueError(f"expected at least one frame, or None for no end, got {frames}")
    if not frame_period_s > 0:
        raise ValueError(f"expected a frame period above 0 s, got {frame_period_s}")
    if contrast not in _DEFOCUS_NM:
        raise ValueError(f"unknown contrast {contrast!r}, expected 'dark' or 'bright'")


def _bad_pixels(
    shape: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Masks (ny, nx) of all bad pixels and of the hot ones among them."""
    if not 0 <= count <= shape[0] * shape[1]:
        raise ValueError(f"expected 0 or more bad pixels, and no more than there are pixels, got {count}")
    if count == 0:
        return None, None
    which = rng.choice(shape[0] * shape[1], count, replace=False)
    bad, hot = np.zeros(shape, bool), np.zeros(shape, bool)
    bad.flat[which] = True
    hot.flat[which[::2]] = True
    return bad, hot


def _fixed_point(wave: np.ndarray) -> np.ndarray:
    """(ny, nx, 2) i4, real and imaginary part in `_UNIT`."""
    return np.rint(np.stack([np.real(wave), np.imag(wave)], axis=-1) * np.float32(1 / _UNIT)).astype(np.int32)


@njit(cache=True, nogil=True)
def _add(wave, patch, top, left, sign):
    """Add a patch, or take it away, where it lies on the canvas."""
    for y in range(max(0, -top), min(patch.shape[0], wave.shape[0] - top)):
        for x in range(max(0, -left), min(patch.shape[1], wave.shape[1] - left)):
            wave[top + y, left + x, 0] += sign * patch[y, x, 0]
            wave[top + y, left + x, 1] += sign * patch[y, x, 1]


@njit(cache=True, nogil=True)
def _expose(wave, scene, top, bottom, left, right):
    """Intensity |1 + wave|² of a part of the canvas."""
    unit = np.float32(_UNIT)
    for y in range(max(0, top), min(bottom, scene.shape[0])):
        for x in range(max(0, left), min(right, scene.shape[1])):
            re = np.float32(1) + unit * np.float32(wave[y, x, 0])
            im = unit * np.float32(wave[y, x, 1])
            scene[y, x] = re * re + im * im
