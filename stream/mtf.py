"""A camera's modulation transfer function from an image of vacuum: what colour its noise has.

Electrons arrive at random, which is white noise. A scintillator spreads each over several pixels after it has been
counted, so that noise passes through the MTF as a picture does, and the noise's power spectrum is

    P(q) = A |M(q)|²,   M(q) = (1 - c1) / (1 + (q / 2 c2 q_N)^c3) + c1,

q_N the Nyquist frequency (Madsen's thesis, eq. 2.21, and fig. 2.4 for the method); the form that `training/imaging.py`
draws its cameras from. The illumination is taken away first; the spectrum of what remains is averaged over rings
(`stream/vacuum.py`) and its logarithm is fitted.

What it is not: a measurement by an edge. A real P(q) holds more than |M|², and what is read from it is on the high side
near the Nyquist frequency: noise beyond it is folded back; electrons that scatter differently in the scintillator add
noise that M does not damp; read-out noise is white. Binning on the camera folds and averages before anything is saved;
interpolated, drift-corrected, sharpened or compressed images have the colour of that processing. For training that is
what is wanted, if the images to be analysed come the same way: calibrate with the same binning and processing. A
counting camera localizes every electron: its noise is white whatever its MTF is, which then cannot be read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq, least_squares

from stream.files import open_recording
from stream.frame import CalibrationError, Frame
from stream.vacuum import ELSEWHERE, Spectrum, noise_spectrum, vacuum_noise

MOST_PIXELS = 1 << 26  # of a stack, that are averaged: 64 frames of 1024 pixels to a side
LEAST_SIDE_PX = 128
WHITE = 0.95  # noise that falls by less than this towards the Nyquist frequency is a counting camera's

_MOST_MISFIT = 0.1  # of ln P, rms over rings, beyond what chance does
_START, _LOW, _HIGH = (0.05, 0.5, 2.5), (0.0, 0.02, 0.3), (0.95, 5.0, 12.0)  # of c1, c2, c3
_SCALE = (0.1, 0.3, 1.0)  # by how much each matters


@dataclass(frozen=True, slots=True)
class Mtf:
    """A fitted MTF; one of white noise has no parameters.

    Attributes
    ----------
    c1, c2, c3 : of the form above; NaN where the noise is white.
    intervals : of each, 95 % (profile likelihood: the other two follow). The three go together: where the intervals
        are wide, M(q) is still known better than any of them.
    at_nyquist : M(q_N); for white noise the square root of the ratio of its power there and at low frequencies.
    white : whether the noise is that of a counting camera.
    misfit : rms of ln P off the fitted form beyond chance: below 0.1, or it was refused.
    frames : that were averaged.
    """

    c1: float
    c2: float
    c3: float
    intervals: tuple[tuple[float, float], ...]
    at_nyquist: float
    white: bool
    misfit: float
    frames: int
    spectrum: Spectrum

    def summary(self) -> dict[str, Any]:
        """What was found, for JSON."""
        names = ("c1", "c2", "c3")
        found = {
            "white": self.white,
            "at_nyquist": self.at_nyquist,
            "misfit": self.misfit,
            "frames": self.frames,
        }
        if not self.white:
            found |= {name: getattr(self, name) for name in names}
            found |= {f"{name}_95": list(ends) for name, ends in zip(names, self.intervals, strict=True)}
        return found

    def recipe_lines(self) -> list[str]:
        """Lines for the section [imaging] of a recipe: the intervals as ranges."""
        if self.white:
            return ["counting_fraction = 1.0  # white noise: the MTF cannot be read from it"]
        named = zip(("c1", "c2", "c3"), (self.c1, self.c2, self.c3), self.intervals, strict=True)
        lines = [f"mtf_{name} = [{low:.4f}, {high:.4f}]  # {c:.4f}" for name, c, (low, high) in named]
        return [*lines, "counting_fraction = 0.0"]


def calibrate_mtf(path: Path, region: tuple[slice, slice] | None = None) -> Mtf:
    """Fit the MTF of the camera that took a file of vacuum.

    Parameters
    ----------
    path : any file `open_recording` reads; of a stack the first frames are averaged, 64 of 1024 pixels to a side.
    region : the part that is vacuum, (y, x) in pixels; None for all of it.

    Raises
    ------
    CalibrationError
        If it is not an image of vacuum, or too little of one.
    """
    with open_recording(path) as recording:
        bad, frames = recording.header.bad_pixels, []
        cut = region or (slice(None), slice(None))
        for item in recording:
            if isinstance(item, Frame):
                frames.append(np.array(item.counts[cut], np.float64))
                item.release()
                if sum(frame.size for frame in frames) + frames[-1].size > MOST_PIXELS:
                    break
    try:
        return fit_mtf(frames, None if bad is None else bad[cut])
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None


def fit_mtf(images: Sequence[np.ndarray], bad_pixels: np.ndarray | None = None) -> Mtf:
    """Fit the MTF to images of vacuum (ny, nx); errors as `calibrate_mtf`."""
    if not images or min(images[0].shape) < LEAST_SIDE_PX:
        got = f"{images[0].shape}" if images else "no frame"
        raise CalibrationError(
            f"too little vacuum: expected at least {LEAST_SIDE_PX} pixels to a side, got {got}"
        )
    noises = [vacuum_noise(np.asarray(image, np.float64), bad_pixels) for image in images]
    spectrum = noise_spectrum(noises)
    low, high = (np.average(spectrum.power[part], weights=spectrum.error[part] ** -2)
                 for part in (spectrum.q < 1 / 3, spectrum.q > 0.85))  # fmt: skip
    fall = float(np.sqrt(high / low))
    if fall > 2 - WHITE:
        raise CalibrationError(
            f"the noise grows towards high frequencies, by {fall:.2f} in amplitude: expected it to fall or stay; the "
            "image was sharpened, take it as the camera gave it"
        )
    if fall > WHITE:
        misfit = _misfit(np.log(spectrum.power), spectrum)
        _refuse_misfit(misfit)
        return Mtf(np.nan, np.nan, np.nan, ((np.nan, np.nan),) * 3, fall, True, misfit, len(images), spectrum)
    return _fitted(spectrum, len(images))


def modulation_transfer(q: np.ndarray, c1: float, c2: float, c3: float) -> np.ndarray:
    """M(q) of q in units of the Nyquist frequency."""
    return (1 - c1) / (1 + (q / (2 * c2)) ** c3) + c1


def draw_mtf(path: Path, mtf: Mtf) -> None:
    """A picture of the measured spectrum, as √P, and the fitted MTF."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes, spectrum, q = figure.subplots(), mtf.spectrum, np.linspace(0, 1, 200)
    shape = np.ones_like(q) if mtf.white else modulation_transfer(q, mtf.c1, mtf.c2, mtf.c3)
    at_rings = np.interp(spectrum.q, q, shape)
    scale = np.exp(np.average(np.log(spectrum.power / at_rings**2), weights=spectrum.error**-2) / 2)
    root = np.sqrt(spectrum.power) / scale
    axes.errorbar(spectrum.q, root, root * spectrum.error / 2, fmt=".", ms=4, label="√ noise power")
    axes.plot(q, shape, label="white" if mtf.white else f"c = {mtf.c1:.3f}, {mtf.c2:.3f}, {mtf.c3:.2f}")
    axes.set(xlabel="q / q_N", ylabel="M", xlim=(0, 1), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def _fitted(spectrum: Spectrum, frames: int) -> Mtf:
    log_power = np.log(spectrum.power) + spectrum.error**2 / 2  # the mean of a logarithm is low
    weight = spectrum.error**-2

    def off(c: np.ndarray) -> np.ndarray:  # A is what fits best, whatever c is
        left = log_power - 2 * np.log(modulation_transfer(spectrum.q, *c))
        return (left - np.average(left, weights=weight)) / spectrum.error

    starts = product((_START[0],), (0.2, _START[1], 1.0), (1.5, _START[2], 4.0))
    fit = min((_least(off, start) for start in starts), key=lambda one: one.cost)
    misfit = _misfit(off(fit.x) * spectrum.error, spectrum)
    _refuse_misfit(misfit)
    # what the form does not explain makes its parameters less sure, too
    scatter = max(1.0, 2 * fit.cost / (len(spectrum.q) - 4))
    intervals = [_interval(off, fit.x, k, 2 * fit.cost + 4 * scatter) for k in range(3)]
    at_nyquist = float(modulation_transfer(np.ones(1), *fit.x)[0])
    c1, c2, c3 = (float(c) for c in fit.x)
    return Mtf(c1, c2, c3, tuple(intervals), at_nyquist, False, misfit, frames, spectrum)


def _least(
    off: Callable[[np.ndarray], np.ndarray], start: Sequence[float], free: Sequence[int] = (0, 1, 2)
) -> Any:
    """The least squares over some of c1, c2, c3, the others as they start."""
    fixed, free = np.array(start, float), list(free)

    def whole(some: np.ndarray) -> np.ndarray:
        c = fixed.copy()
        c[free] = some
        return c

    low, high = np.array(_LOW)[free], np.array(_HIGH)[free]
    begin = np.clip(fixed[free], low + 1e-9, high - 1e-9)
    fit = least_squares(
        lambda some: off(whole(some)), begin, bounds=(low, high), x_scale=np.array(_SCALE)[free]
    )
    fit.x = whole(fit.x)
    return fit


def _interval(
    off: Callable[[np.ndarray], np.ndarray], best: np.ndarray, k: int, most: float
) -> tuple[float, float]:
    """From where to where the k-th parameter may go, the others following, until χ² reaches `most`."""
    free = [i for i in range(3) if i != k]

    def excess(value: float) -> float:
        c = best.copy()
        c[k] = value
        return 2 * _least(off, c.tolist(), free).cost - most

    ends = []
    for end in (_LOW[k], _HIGH[k]):
        step = np.sign(end - best[k]) * 0.02 * _SCALE[k] or 0.0
        inner, outer = float(best[k]), float(best[k])
        while outer != end and excess(outer) < 0:  # outwards in growing steps, then between the last two
            inner, outer = outer, float(np.clip(outer + step, min(end, outer), max(end, outer)))
            step *= 2
        ends.append(outer if inner == outer or excess(outer) < 0 else brentq(excess, inner, outer, xtol=1e-4))
    return float(ends[0]), float(ends[1])


def _misfit(off: np.ndarray, spectrum: Spectrum) -> float:
    """rms of what a fit of ln P leaves over, beyond what chance does."""
    return float(np.sqrt(max(0.0, np.mean((off - off.mean()) ** 2 - spectrum.error**2))))


def _refuse_misfit(misfit: float) -> None:
    if misfit > _MOST_MISFIT:
        raise CalibrationError(
            f"not an image of vacuum: its spectrum is {misfit:.0%} off the form of a camera's noise, expected at most "
            f"{_MOST_MISFIT:.0%}; {ELSEWHERE}"
        )
