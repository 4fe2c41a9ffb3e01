"""How far the specimen has moved: one rigid shift and turn per frame, from columns against known sites.

The shift is the median residual of columns to their nearest sites, near where the specimen was last.
A lattice fits itself again one lattice vector further on, so a fit that lies far from the last one, or leaves
more columns and sites without a partner than usual, is checked against a vote over all pairs: the outline decides, and
where it does not, the smallest shift. A turn is followed from frame to frame: what columns far from the middle
have left over when the shift is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from stream.matching import match, nearest

_GATE = 0.25  # of the spacing: a column further from a site than this is no partner of it
_ALPHA = 0.05  # of the running mean of unpartnered points
_LEAP = 0.2  # of the spacing, from one frame to the next: so far a lattice is easily mistaken by one column
_TURNING = 12  # matched columns needed to tell a turn
_ENOUGH = 600  # columns looked at for that
_CHANCE = 1.5  # standard errors of a turn that are taken for chance


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
    lost : True where sites should have been seen but could not be recognized (blank, dim or foreign
        frame): such a frame says nothing about which sites are occupied.
    """

    yx_px: np.ndarray
    turn_rad: float
    centre_yx_px: np.ndarray
    residual_px: float
    matched: int
    measured: bool
    lost: bool

    def to_frame_px(self, specimen_yx_px: np.ndarray) -> np.ndarray:
        """Specimen positions (n, 2) in pixels -> in the frame's pixels."""
        return turned(specimen_yx_px + self.yx_px, self.turn_rad, self.centre_yx_px)

    def upright(self, yx_px: np.ndarray) -> np.ndarray:
        """Frame positions (n, 2) in pixels, turned back: they differ from specimen positions by the shift alone."""
        return turned(yx_px, -self.turn_rad, self.centre_yx_px)


def turned(yx_px: np.ndarray, turn_rad: float | np.ndarray, centre_yx_px: np.ndarray) -> np.ndarray:
    """Points (n, 2) turned about a centre, all alike or each by its own (n,), clockwise as pictures are shown."""
    cosine, sine = np.cos(turn_rad), np.sin(turn_rad)
    y, x = (yx_px - centre_yx_px).T
    return np.stack([cosine * y + sine * x, cosine * x - sine * y], axis=1) + centre_yx_px


@njit(cache=True, nogil=True)
def _votes(yx, reference, centre, half, bin_px):
    """2-D histogram of all differences yx - reference within `half` bins of `centre`."""
    side = 2 * half + 1
    histogram = np.zeros((side, side), np.int32)
    for i in range(len(yx)):
        y, x = yx[i, 0] - centre[0], yx[i, 1] - centre[1]
        for j in range(len(reference)):
            by = int(np.floor((y - reference[j, 0]) / bin_px + 0.5)) + half
            bx = int(np.floor((x - reference[j, 1]) / bin_px + 0.5)) + half
            if 0 <= by < side and 0 <= bx < side:
                histogram[by, bx] += 1
    return histogram


@njit(cache=True, nogil=True)
def _settle(yx, reference, start, spacing_px):
    """The shift near `start` that makes the median residual vanish, with a wide gate and a close one."""
    shift = start.copy()
    for gate in (0.5, _GATE):
        partner, _ = nearest(yx - shift, reference, gate * spacing_px)
        found = np.flatnonzero(partner >= 0)
        if len(found) == 0:
            break
        residual = yx[found] - reference[partner[found]]
        shift[0] = np.median(residual[:, 0])
        shift[1] = np.median(residual[:, 1])
    return shift


def _turn(yx: np.ndarray, reference: np.ndarray, centre: np.ndarray, gate: float) -> float:
    """By how much `yx` (n, 2) is turned about `centre` against `reference` (m, 2), in rad; 0 where chance would do it.

    Least squares over partners, those far off left out; what could be chance is taken off, so that noise makes no
    turn and a slow one is followed a little later.
    """
    yx = np.ascontiguousarray(yx[:: 1 + len(yx) // _ENOUGH])
    partner, _ = nearest(yx, reference, gate)
    found = np.flatnonzero(partner >= 0)
    if len(found) < _TURNING:
        return 0.0
    arm = reference[partner[found]] - centre
    residual = yx[found] - reference[partner[found]]
    size = np.hypot(*residual.T)
    near = size <= 3.0 * np.median(size)
    arm, residual = arm[near] - arm[near].mean(axis=0), residual[near] - residual[near].mean(axis=0)
    lever2 = (arm**2).sum()
    if not lever2 > 0:
        return 0.0
    turn = float((arm[:, 1] * residual[:, 0] - arm[:, 0] * residual[:, 1]).sum() / lever2)
    chance = _CHANCE**2 * 0.5 * float((residual**2).mean(axis=0).sum() / lever2)
    return turn * max(0.0, 1.0 - chance / max(turn**2, 1e-300))


def _inside(yx: np.ndarray, low: np.ndarray | float, high: np.ndarray, margin: float) -> np.ndarray:
    return np.all((yx >= low + margin) & (yx <= high - margin), axis=1)


def _more(unmatched: float) -> float:
    """A count of unmatched columns and sites that is hardly chance (2 sigma of a difference)."""
    return unmatched + 2.0 * np.sqrt(2.0 * unmatched + 4.0)


class Drift:
    """Follows the specimen from frame to frame.

    Parameters
    ----------
    shape_yx : of the frames.
    reach_px : the largest jump looked for; by default half of the frame's shorter side.
    least : columns and sites needed to measure a shift; with fewer, the specimen is taken to rest.
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

    @property
    def lost_frames(self) -> int:
        """How many frames in a row, up to the last, were lost."""
        return int(self._lost[0])

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
            return self._give(self._yx_px, float("nan"), 0, measured=False, lost=False)
        if len(yx) < self.least:
            return self._give(self._yx_px, float("nan"), 0, measured=False, lost=True)

        fit = self._judge(yx, reference, _settle(yx, reference, self._yx_px, spacing_px), spacing_px)
        usual = self._unmatched[0]
        far = np.hypot(*(fit.shift - self._yx_px)) > _LEAP * spacing_px
        if not fit.good or far or fit.unmatched > _more(usual):
            fit = self._search(yx, reference, spacing_px, fit)
        if not fit.good:
            return self._give(self._yx_px, float("nan"), fit.matched, measured=False, lost=True)
        turn_rad = _turn(yx - fit.shift, reference, self._centre - fit.shift, _GATE * spacing_px)
        if turn_rad:
            self._turn_rad += turn_rad
            yx = self._upright(as_seen)
            fit = self._judge(yx, reference, _settle(yx, reference, fit.shift, spacing_px), spacing_px)
        self._unmatched[0] = fit.unmatched if np.isnan(usual) else usual + _ALPHA * (fit.unmatched - usual)
        self._seen[0] = np.minimum(self._seen[0], -fit.shift)
        self._seen[1] = np.maximum(self._seen[1], self._shape - 1 - fit.shift)
        return self._give(fit.shift, fit.residual_px, fit.matched, measured=True, lost=False)

    def _give(self, shift: np.ndarray, residual_px: float, matched: int, measured: bool, lost: bool) -> Shift:
        self._yx_px = shift
        self._lost[0] = self._lost[0] + 1 if lost else 0
        turn_rad = float(self._turn_rad[0])
        return Shift(shift.copy(), turn_rad, self._centre, residual_px, matched, measured, lost)

    def _upright(self, yx: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(turned(yx, -float(self._turn_rad[0]), self._centre))

    def _judge(self, yx: np.ndarray, reference: np.ndarray, shift: np.ndarray, spacing_px: float) -> _Fit:
        """Count partners, and the columns and sites that should have one and do not.

        A column outside of what was ever in view, or a site out of view now, need not have one.
        """
        partner = match(yx - shift, reference, _GATE * spacing_px)
        found = partner >= 0
        matched = int(np.count_nonzero(found))
        known = _inside(yx - shift, self._seen[0], self._seen[1], spacing_px)  # nearer, a site may be too new
        in_view = _inside(reference + shift, 0.0, self._shape - 1, 0.5 * spacing_px)
        columns, sites = np.count_nonzero(known | found), np.count_nonzero(in_view)
        in_view[partner[found]] = False
        unmatched = np.count_nonzero(known & ~found) + np.count_nonzero(in_view)
        # half of the sites, or the frame is dim; a quarter of the columns, or noise matches anything
        good = matched >= max(self.least, 0.5 * sites, 0.25 * columns)
        residual = yx[found] - shift - reference[partner[found]]
        residual_px = float(np.sqrt((residual**2).sum() / matched)) if matched else float("nan")
        return _Fit(shift, residual_px, matched, int(unmatched), bool(good))

    def _search(self, yx: np.ndarray, reference: np.ndarray, spacing_px: float, near: _Fit) -> _Fit:
        """The best shift within reach: the most voted are settled, judged, and the smallest good one wins."""
        thin = yx[:: 1 + len(yx) // 2000]
        bin_px = 0.5 * _GATE * spacing_px
        half = int(np.ceil(self.reach_px / bin_px))
        votes = _votes(thin, reference, self._yx_px, half, bin_px)
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
            fits.append(self._judge(yx, reference, _settle(yx, reference, start, spacing_px), spacing_px))
        good = [fit for fit in fits if fit.good]
        if not good:
            return near
        fewest = min(fit.unmatched for fit in good)
        # fits of one frame share its misses: what they differ by is the outline, and little of that is chance
        close = [fit for fit in good if fit.unmatched <= fewest + np.sqrt(fewest + 4.0)]
        return min(close, key=lambda fit: float(np.hypot(*(fit.shift - self._yx_px))))

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
