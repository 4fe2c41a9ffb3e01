"""The size of a pixel from the picture alone: the lattice in it is known, so its spacings are a ruler.

A crystal in a zone axis shows a net of peaks in the power spectrum. Their frequencies times the pixel size are the
reciprocal lattice of that zone axis, which the engine's manifest knows: lengths and angles must fit together. Every
pair of strong peaks is tried as every pair of reflections, which gives a scale and an orientation; that net is laid
over all peaks and scored:

    score = Σ ln(strength of a peak that is met) - 2 · (reflections that are not there),

summed outwards to the radius where it is highest. ln(strength) tells how surely a peak is none of the noise's. The
penalty keeps a net with half the spacings, which meets every peak as well, from being believed.

What cannot be told from a spectrum: two materials whose nets differ by a scale alone. Ceria is a face-centred cubic
net as gold is; a support in zone axis beside a particle that is not can be taken for it. Zone axes marked
`columns = false` are such neighbours: they explain peaks beside the columns' own, and a scale at which they explain
the picture about as well makes it ambiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.manifest import Manifest, ZoneAxis
from stream.frame import CalibrationError
from stream.spectrum import FINEST, LEAST_PERIODS, TILE_PX, Peaks, seen_in_words, spectrum_peaks

LEAST_SCORE = 8.0  # three peaks that are twice as high as noise ever gets
LEAST_MARGIN = 3.0  # over the best explanation at another scale
LEAST_EXPLAINED = 0.4  # of the peaks, by ln(strength)
OTHER_SCALE = 0.03  # pixel sizes that differ by more than this, relatively, are two

_ABSENT = 2.0  # what a reflection that is not there costs
_SECOND_NET = 4.0  # what another crystal in the picture costs
_ONLY_NEIGHBOUR = (
    4.0  # what it costs to see none but the support's net, though the columns are what is looked at
)
_LEAST_PEAKS = 3  # of a net
_TRIED_PEAKS, _TRIED_REFLECTIONS = 12, 8  # whose pairs are tried
_PAIR_RATIO, _PAIR_RAD = 0.025, np.deg2rad(2.0)  # how well lengths and angle of a pair must fit
_DISTORTION, _BINS_OFF = 0.02, 1.5  # how far a peak may lie from its reflection: relative, or in bins
_RING = 0.012  # how far a lone peak may lie from a reflection's radius
_BIAS_BINS = 0.15  # a peak's centroid is this uncertain, however strong it is
_ORDER = 6  # of the reflections
_LEAST_PIECE_PX = 128  # of an image that is looked at in pieces


@dataclass(frozen=True, slots=True)
class Scale:
    """A pixel size that was estimated, and how sure it is.

    Attributes
    ----------
    pixel_size_nm : at the specimen.
    relative_error : standard error, as far as the peaks tell, and, where a net stands for several materials, because it
        may be any; that of a material's spacings comes on top.
    zone_axes : that were recognized, joined by " + ".
    peaks, peaks_seen : of the spectrum: those that the net meets, and all.
    explained : share of the peaks, by ln(strength), less what absent reflections cost.
    margin : in score, over the best explanation at another scale; below LEAST_MARGIN nothing is claimed.
    next_best : that other pixel size, in words; None if nothing else fits at all.
    """

    pixel_size_nm: float
    relative_error: float
    zone_axes: str
    peaks: int
    peaks_seen: int
    explained: float
    margin: float
    next_best: str | None

    def __str__(self) -> str:
        other = "nothing else fits"
        if self.next_best is not None:
            other = f"the next best, {self.next_best}, scores {self.margin:.0f} less"
        return (
            f"{self.pixel_size_nm:.4g} nm/px ± {100 * self.relative_error:.1f} %: {self.zone_axes}, "
            f"{self.peaks} of {self.peaks_seen} peaks of the spectrum; {other}"
        )


@dataclass(frozen=True, slots=True)
class _Net:
    """A zone axis laid over the peaks: `met` are indices of peaks, `absent` counts reflections not there.

    `constants` is half the logarithm of the largest over the smallest lattice constant that it stands for.
    """

    name: str
    columns: bool
    score: float
    pixel_size_nm: float
    relative_error: float
    met: np.ndarray
    absent: int
    constants: float


@dataclass(frozen=True, slots=True)
class _Explanation:
    score: float
    name: str
    net: _Net
    met: int


def estimate_scale(
    images: Sequence[np.ndarray], manifest: Manifest, bad_pixels: np.ndarray | None = None
) -> Scale:
    """The pixel size of images that show what the engine was made for.

    Parameters
    ----------
    images : (ny, nx) each, one shape and scale, any integer or real dtype; several frames see more than one.
    manifest : of the engine; its `zone_axes` are the ruler.
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed.

    Raises
    ------
    CalibrationError
        If the engine knows no spacings, no net is seen, or two scales explain the picture alike; it says what was seen.
    """
    if not any(axis.columns for axis in manifest.zone_axes):
        raise CalibrationError(
            f"engine {manifest.name} knows no lattice to measure a pixel by: expected zone_axes in its manifest, found "
            "none; give --pixel-size-nm"
        )
    for most_px in _piece_sides(images[0].shape):
        peaks = spectrum_peaks(images, bad_pixels, most_px)
        explanations = _explanations(peaks, manifest.zone_axes)
        weight = float(np.log(peaks.strength).sum())
        best = explanations[0] if explanations else None
        seen = best is not None and best.score >= max(LEAST_SCORE, LEAST_EXPLAINED * weight)
        if seen:
            break
    if best is None or not seen:
        raise CalibrationError(
            f"the pixel size cannot be estimated: expected the lattice of {_names(manifest)} in the power spectrum, "
            f"got {seen_in_words(peaks)}{'' if best is None else f', of which {best.met} fit {best.name}'}; "
            "give --pixel-size-nm"
        )
    rivals = [one for one in explanations if _differ(one.net, best.net)]
    margin = best.score - max([0.0, *(one.score for one in rivals[:1])])
    if margin < LEAST_MARGIN or not best.net.columns:
        alike = " or ".join(f"{one.net.pixel_size_nm:.4g} nm/px ({one.name})" for one in [best, *rivals[:1]])
        raise CalibrationError(
            f"the pixel size cannot be told: expected one scale at which the columns' lattice ({_names(manifest)}) is "
            f"seen, got {seen_in_words(peaks)}, which fit {alike} about as well; give --pixel-size-nm"
        )
    return Scale(
        pixel_size_nm=best.net.pixel_size_nm,
        relative_error=best.net.relative_error,
        zone_axes=best.name,
        peaks=best.met,
        peaks_seen=len(peaks),
        explained=best.score / weight,
        margin=margin,
        next_best=f"{rivals[0].net.pixel_size_nm:.4g} nm/px ({rivals[0].name})"
        if rivals and rivals[0].score > 0
        else None,
    )


def _piece_sides(shape_yx: tuple[int, ...]) -> list[int]:
    """The whole image, and where nothing is seen, as in a scan that wanders, halves and quarters of it."""
    side = min(shape_yx)
    return [TILE_PX, *(n for n in (-(-side // 2), -(-side // 4)) if n >= _LEAST_PIECE_PX)]


def _explanations(peaks: Peaks, zone_axes: Sequence[ZoneAxis]) -> list[_Explanation]:
    """The columns' nets, each alone or with a second crystal at the same scale, and the neighbours'; the best first."""
    nets = [net for axis in zone_axes for net in _nets(peaks, axis)]
    gain = np.log(peaks.strength)
    rings = np.concatenate([np.abs(_reflections(axis)[:4]) for axis in zone_axes if axis.columns])
    found = []
    for net in nets:
        if net.columns:
            best = _Explanation(net.score, net.name, net, len(net.met))
            for other in nets:
                new = np.setdiff1d(other.met, net.met)
                score = net.score + float(gain[new].sum()) - _ABSENT * other.absent - _SECOND_NET
                if score > best.score and len(new) >= _LEAST_PEAKS and not _differ(net, other, 0.5):
                    best = _Explanation(score, f"{net.name} + {other.name}", net, len(net.met) + len(new))
        else:
            left = np.setdiff1d(np.arange(len(peaks)), net.met)
            at = np.abs(peaks.q[left])[:, None] / (net.pixel_size_nm * rings)
            lone = float(gain[left][(np.abs(np.log(at)) < _RING).any(1)].sum())
            best = _Explanation(net.score + lone - _ONLY_NEIGHBOUR, net.name, net, len(net.met))
        found.append(best)
    return sorted(found, key=lambda one: -one.score)


def _nets(peaks: Peaks, axis: ZoneAxis) -> list[_Net]:
    """The zone axis at every scale and orientation that a pair of strong peaks suggests."""
    reflections = _reflections(axis)
    smallest, largest = axis.constant_range
    middle, half = float(np.sqrt(smallest * largest)), float(np.log(largest / smallest) / 2)
    tried: set[tuple[int, int, bool]] = set()
    nets = []
    for factor, mirrored in _suggestions(peaks, reflections[:_TRIED_REFLECTIONS]):
        key = (round(np.log(abs(factor)) / 0.01), round(np.angle(factor) / 0.02), mirrored)
        if key not in tried:
            tried.add(key)
            laid = _lay(peaks, reflections.conj() if mirrored else reflections, factor)
            if laid is not None:
                score, factor_abs, error, met, absent = laid
                nets.append(
                    _Net(
                        axis.name,
                        axis.columns,
                        score,
                        factor_abs * middle,
                        float(np.hypot(error, half / np.sqrt(3))),  # any constant in the range is as likely
                        met,
                        absent,
                        half,
                    )
                )
    return nets


def _reflections(axis: ZoneAxis) -> np.ndarray:
    """Reciprocal vectors (n,) c16 in 1/nm, one of each pair ±g, the shortest first."""
    first, second = axis.spacings_nm
    order = range(-_ORDER, _ORDER + 1)
    h, k = np.array([(h, k) for h in order for k in order if (h, k) > (0, 0)]).T
    g = h / first + k / second * np.exp(1j * np.deg2rad(axis.angle_deg))
    return g[np.argsort(np.abs(g), kind="stable")]


def _suggestions(peaks: Peaks, reflections: np.ndarray) -> list[tuple[complex, bool]]:
    """(factor, mirrored) with q = factor · g, or factor · conj(g), for two peaks at once: pairs that fit."""
    one, other = (a.ravel() for a in np.meshgrid(reflections, [*reflections, *-reflections], indexing="ij"))
    apart = np.abs(np.imag(one.conj() * other)) > 1e-6 * np.abs(one * other)
    one, other = one[apart], other[apart]
    between = other / one
    found = []
    q = peaks.q[:_TRIED_PEAKS]
    for i, j in np.ndindex(len(q), len(q)):
        for second in (q[j], -q[j]) if i != j else ():
            turn = second / q[i]
            fits = np.abs(np.log(np.abs(turn / between))) < _PAIR_RATIO
            for mirrored, wanted in ((False, between), (True, between.conj())):
                for k in np.flatnonzero(fits & (np.abs(np.angle(turn / wanted)) < _PAIR_RAD)):
                    a, b = (one[k].conj(), other[k].conj()) if mirrored else (one[k], other[k])
                    factor = (q[i] * a.conj() + second * b.conj()) / (abs(a) ** 2 + abs(b) ** 2)
                    found.append((complex(factor), mirrored))
    return found


def _lay(
    peaks: Peaks, reflections: np.ndarray, factor: complex
) -> tuple[float, float, float, np.ndarray, int] | None:
    """Fit `factor` to all peaks that a net meets; score, pixel size, its relative error, peaks met, absent."""
    gain = np.log(peaks.strength)
    both = np.concatenate([peaks.q, -peaks.q])
    for _ in range(3):
        expected = factor * reflections
        seen = (np.abs(expected) < FINEST) & (np.abs(expected) > LEAST_PERIODS * peaks.bin)
        g, expected = reflections[seen], expected[seen]
        if len(g) < 2:
            return None
        distance = np.abs(expected[:, None] - both)
        nearest = distance.argmin(1)
        met = distance.min(1) <= np.maximum(_BINS_OFF * peaks.bin, _DISTORTION * np.abs(expected))
        peak = nearest % len(peaks)
        score = np.cumsum(np.where(met, gain[peak], -_ABSENT))
        last = int(score.argmax()) + 1  # farther out only noise is met
        inside = met & (np.arange(len(g)) < last)
        if len(np.unique(peak[inside])) < max(inside.sum(), 2):
            return None  # fewer than two, or finer than the peaks can tell
        g_met, q_met, weight = g[inside], both[nearest[inside]], gain[peak[inside]]
        factor = complex((weight * q_met * g_met.conj()).sum() / (weight * np.abs(g_met) ** 2).sum())
    on_one_line = np.ptp(np.angle((g_met / g_met[0]) ** 2)) < 1e-6
    if len(g_met) < _LEAST_PEAKS or on_one_line:
        return None
    length = np.sqrt((weight * np.abs(q_met) ** 2).sum())
    residual = np.sqrt((weight * np.abs(q_met - factor * g_met) ** 2).sum()) / length
    bias = _BIAS_BINS * peaks.bin / np.abs(q_met).mean()
    error = float(np.hypot(residual / np.sqrt(len(g_met)), bias))
    return float(score[last - 1]), abs(factor), error, peak[inside], int(last - inside.sum())


def _differ(one: _Net, other: _Net, part: float = 1.0) -> bool:
    """Whether two nets cannot be of one scale; crystals of one kind in a picture have one lattice constant."""
    slack = 0.0 if one.name == other.name else one.constants + other.constants
    return abs(np.log(one.pixel_size_nm / other.pixel_size_nm)) > part * OTHER_SCALE + slack


def _names(manifest: Manifest) -> str:
    return ", ".join(axis.name for axis in manifest.zone_axes if axis.columns)
