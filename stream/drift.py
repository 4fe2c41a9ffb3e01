"""How far the specimen has moved: one rigid shift and turn per frame, from columns against known sites.

The shift is the median residual of columns to their nearest sites, near where the specimen was last.
A lattice fits itself again one lattice vector further on, so a fit that lies far from the last one, or leaves
more columns and sites without a partner than usual, is checked against a vote over all pairs: the outline decides, and
where it does not, the smallest shift. A turn is followed from frame to frame: what columns far from the middle
have left over when the shift is known. One that nobody saw, during a blank, is looked for while the specimen is lost: a
few angles per frame, the small ones first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.matching import cells
from stream.rigid import BESIDE, GATE, cast_votes, count, settle, turn_between, turned

SEVERAL = 2  # columns: so many hardly ever leave in one frame, which is blank rather; of a single one nobody can tell
_ALPHA = 0.05  # of the running mean of unpartnered points
_LEAP = 0.2  # of the spacing, from one frame to the next: so far a lattice is easily mistaken by one column
_FARTHEST_RAD = 0.26  # that a specimen may have turned unseen: 15°, half of what makes gold's lattice another
_ANGLES = 2  # tried per lost frame, each as long as the search for a jump
_RECOGNIZED = 12  # matched columns at least: many angles are tried, and few columns fit somewhere
_NEXT = 1.7  # of the spacing: the places of the lattice beside this one
_OUTLINE = 0.5  # of √columns: so many fit worse one place of the lattice further on; two for each row across, if round


@dataclass(frozen=True, slots=True)
class Shift:
    """Where the specimen is in one frame: shifted, then turned about the middle of the frame.

    Attributes
    ----------
    yx_px : (2,) f8, the shift along the specimen's own axes.
    turn_rad : clockwise as pictures are shown (y down).
    centre_yx_px : (2,) f8, the middle of the frame.
    residual_px : rms distance of columns to their sites after the shift (2-D), NaN if not measured.
    matched : columns that have a site as partner.
    measured : False where the frame could not say; `yx_px` is then that of the frame before.
    lost_frames : frames in a row, up to this one, in which sites should have been seen but could not be recognized
        (blank, dim or foreign frames): they say nothing about which sites are occupied.
    """

    yx_px: np.ndarray
    turn_rad: float
    centre_yx_px: np.ndarray
    residual_px: float
    matched: int
    measured: bool
    lost_frames: int

    @property
    def lost(self) -> bool:
        """Whether this frame is one of those."""
        return self.lost_frames > 0

    def to_frame_px(self, specimen_yx_px: np.ndarray) -> np.ndarray:
        """Specimen positions (n, 2) in pixels -> in the frame's pixels."""
        return turned(specimen_yx_px + self.yx_px, self.turn_rad, self.centre_yx_px)

    def upright(self, yx_px: np.ndarray) -> np.ndarray:
        """Frame positions (n, 2) in pixels, turned back: they differ from specimen positions by the shift alone."""
        return turned(yx_px, -self.turn_rad, self.centre_yx_px)


def _more(unmatched: float, sigmas: float) -> float:
    """A count of unmatched columns and sites that is so many standard deviations of a difference more than usual."""
    return unmatched + sigmas * np.sqrt(2.0 * unmatched + 4.0)


class Drift:
    """Follows the specimen from frame to frame.

    Parameters
    ----------
    shape_yx : of the frames.
    reach_px : the largest jump looked for; by default half of the frame's shorter side.
    least : columns and sites needed to measure a shift; with fewer, the specimen is taken to rest. A frame is lost then
        if nothing at all is found of two sites or more; and of so many sites, if not half are found where they were.
    """

    def __init__(self, shape_yx: tuple[int, int], reach_px: float | None = None, least: int = 5) -> None:
        self.reach_px = 0.5 * min(shape_yx) if reach_px is None else reach_px
        self.least = least
        self._shape = np.asarray(shape_yx, np.float64)
        self._centre = (self._shape - 1) / 2
        self._yx_px = np.zeros(2)
        self._turn_rad = np.zeros(1)
        self._seen = np.array([[0.0, 0.0], self._shape - 1])  # specimen px that were ever in view
        self._unmatched = np.full(1, np.nan)  # running mean
        self._lost = np.zeros(1, np.int64)

    @property
    def yx_px(self) -> np.ndarray:
        """The last shift, (2,) f8."""
        return self._yx_px.copy()

    def update(self, yx_px: np.ndarray, reference_yx_px: np.ndarray, spacing_px: float) -> Shift:
        """Measure the shift of one frame.

        Parameters
        ----------
        yx_px : (n, 2), the columns found, in the frame's pixels.
        reference_yx_px : (m, 2), sites where a column is expected, in the specimen's pixels.
        spacing_px : median distance between neighbouring sites.
        """
        as_seen = np.ascontiguousarray(yx_px, np.float64)
        yx = self._upright(as_seen)
        reference = np.ascontiguousarray(reference_yx_px, np.float64)
        if len(reference) < self.least:
            blank = not len(yx) and len(reference) >= SEVERAL
            return self._give(self._yx_px, float("nan"), 0, measured=False, lost=blank)
        known = _Known(reference, cells(reference, BESIDE * spacing_px), spacing_px)
        if len(yx) < self.least:
            matched, _, in_view, _, _ = count(
                yx, reference, known.cells, self._yx_px, self._seen, self._shape, spacing_px
            )
            rests = matched >= max(SEVERAL, 0.5 * in_view)  # four columns may have been at five places
            return self._give(self._yx_px, float("nan"), matched, measured=False, lost=not rests)

        fit = self._fit(yx, known, self._yx_px)
        usual = self._unmatched[0]
        far = np.hypot(*(fit.shift - self._yx_px)) > _LEAP * spacing_px
        outline = _OUTLINE * np.sqrt(len(yx))
        if not fit.good or far or fit.unmatched > max(_more(usual, 2.0), usual + 2.0 * outline):
            fit = self._search(yx, known, fit, self.reach_px)
        elif fit.unmatched > max(_more(usual, 1.0), usual + outline):  # perhaps it jumped to the next place
            fit = self._search(yx, known, fit, _NEXT * spacing_px)
        if not fit.good:
            fit = self._search_turned(as_seen, known, fit)
            yx = self._upright(as_seen)
        if not fit.good:
            return self._give(self._yx_px, float("nan"), fit.matched, measured=False, lost=True)
        turn_rad = turn_between(
            yx - fit.shift, reference, known.cells, self._centre - fit.shift, GATE * spacing_px
        )
        if turn_rad:
            self._turn_rad += turn_rad
            yx = self._upright(as_seen)
            fit = self._fit(yx, known, fit.shift)
        self._unmatched[0] = fit.unmatched if np.isnan(usual) else usual + _ALPHA * (fit.unmatched - usual)
        self._seen[0] = np.minimum(self._seen[0], -fit.shift)
        self._seen[1] = np.maximum(self._seen[1], self._shape - 1 - fit.shift)
        return self._give(fit.shift, fit.residual_px, fit.matched, measured=True, lost=False)

    def _give(self, shift: np.ndarray, residual_px: float, matched: int, measured: bool, lost: bool) -> Shift:
        self._yx_px = shift
        self._lost[0] = self._lost[0] + 1 if lost else 0
        turn_rad = float(self._turn_rad[0])
        return Shift(shift.copy(), turn_rad, self._centre, residual_px, matched, measured, int(self._lost[0]))

    def _upright(self, yx: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(turned(yx, -float(self._turn_rad[0]), self._centre))

    def _fit(self, yx: np.ndarray, known: _Known, start: np.ndarray) -> _Fit:
        """Settle near `start`, and see how well that explains the frame."""
        reference, sites, spacing_px = known.yx_px, known.cells, known.spacing_px
        shift = settle(yx, reference, sites, start, spacing_px)
        matched, columns, in_view, unmatched, square = count(
            yx, reference, sites, shift, self._seen, self._shape, spacing_px
        )
        # half of the sites, or the frame is dim; a quarter of the columns, or noise matches anything
        good = matched >= max(self.least, 0.5 * in_view, 0.25 * columns)
        residual_px = float(np.sqrt(square / matched)) if matched else float("nan")
        return _Fit(shift, residual_px, matched, unmatched, good)

    def _search(self, yx: np.ndarray, known: _Known, near: _Fit, reach_px: float) -> _Fit:
        """The best shift within reach: the most voted are settled, judged, and the smallest good one wins."""
        voters = 2000 if reach_px > _NEXT * known.spacing_px else 400
        thin = yx[:: 1 + len(yx) // voters]
        bin_px = 0.5 * GATE * known.spacing_px
        half = int(np.ceil(reach_px / bin_px))
        votes = cast_votes(np.ascontiguousarray(thin), known.cells, self._yx_px, half, bin_px)
        padded = np.pad(votes, 1)
        rows = padded[:-2] + padded[1:-1] + padded[2:]
        votes = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
        fits = [near] if near.good else []
        for _ in range(16):
            at = np.array(np.unravel_index(np.argmax(votes), votes.shape))
            if votes[tuple(at)] < self.least:
                break
            low = np.maximum(at - 3, 0)
            votes[low[0] : at[0] + 4, low[1] : at[1] + 4] = 0
            start = self._yx_px + (at - half) * bin_px
            fits.append(self._fit(yx, known, start))
        good = [fit for fit in fits if fit.good]
        if not good:
            return near
        fewest = min(fit.unmatched for fit in good)
        # fits of one frame share its misses: what they differ by is the outline, and little of that is chance
        close = [fit for fit in good if fit.unmatched <= fewest + np.sqrt(fewest + 4.0)]
        return min(close, key=lambda fit: float(np.hypot(*(fit.shift - self._yx_px))))

    def _search_turned(self, as_seen: np.ndarray, known: _Known, lost: _Fit) -> _Fit:
        """The best fit to the specimen turned further, which is noted then; `lost` if there is none among the angles
        that are this frame's to try."""
        if min(len(as_seen), len(known.yx_px)) < _RECOGNIZED:
            return lost
        farthest_px = np.hypot(*(known.yx_px - known.yx_px.mean(axis=0)).T).max()
        step_rad = GATE * known.spacing_px / farthest_px
        steps = max(1, int(_FARTHEST_RAD / step_rad))
        k = int(self._lost[0]) * _ANGLES + np.arange(_ANGLES)
        before, best, best_rad = float(self._turn_rad[0]), lost, 0.0
        for turn_rad in (1 + k // 2 % steps) * np.where(k % 2, -step_rad, step_rad):
            self._turn_rad[0] = before + turn_rad
            fit = self._search(self._upright(as_seen), known, _NO_FIT, self.reach_px)
            recognized = fit.good and fit.matched >= _RECOGNIZED
            if recognized and (not best.good or fit.unmatched < best.unmatched):
                best, best_rad = fit, float(turn_rad)
        self._turn_rad[0] = before + best_rad
        return best

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        return {
            "yx_px": self._yx_px.copy(),
            "turn_rad": self._turn_rad.copy(),
            "seen": self._seen.copy(),
            "unmatched": self._unmatched.copy(),
            "lost": self._lost.copy(),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of a Drift made with the same arguments."""
        self._yx_px = np.array(state["yx_px"], np.float64)
        self._turn_rad = np.array(state["turn_rad"], np.float64)
        self._seen = np.array(state["seen"], np.float64)
        self._unmatched = np.array(state["unmatched"], np.float64)
        self._lost = np.array(state["lost"], np.int64)


@dataclass(frozen=True, slots=True)
class _Fit:
    """One shift tried, and how well it explains the frame."""

    shift: np.ndarray
    residual_px: float
    matched: int
    unmatched: int
    good: bool


_NO_FIT = _Fit(np.zeros(2), float("nan"), 0, 0, False)


@dataclass(frozen=True, slots=True)
class _Known:
    """Where columns are expected, for one frame: positions (m, 2) in px, their `cells`, and the spacing."""

    yx_px: np.ndarray
    cells: tuple
    spacing_px: float
