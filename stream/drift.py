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

from stream.matching import cells, match_in, nearest_in

_GATE = 0.25  # of the spacing: a column further from a site than this is no partner of it
_ALPHA = 0.05  # of the running mean of unpartnered points
_LEAP = 0.2  # of the spacing, from one frame to the next: so far a lattice is easily mistaken by one column
_NEXT = 1.7  # of the spacing: the places of the lattice beside this one
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
    each = np.zeros(len(yx_px)) + turn_rad  # always of one type for the compiler
    return _turn_each(np.ascontiguousarray(yx_px, np.float64), each, np.asarray(centre_yx_px, np.float64))


@njit(cache=True, nogil=True)
def _turn_each(yx, turn_rad, centre):
    """Points (n, 2), each turned by its own (n,) about the centre."""
    out = np.empty_like(yx)
    cosine, sine, last = 1.0, 0.0, 0.0
    for i in range(len(yx)):
        if turn_rad[i] != last:
            last = turn_rad[i]
            cosine, sine = np.cos(last), np.sin(last)
        y, x = yx[i, 0] - centre[0], yx[i, 1] - centre[1]
        out[i, 0] = cosine * y + sine * x + centre[0]
        out[i, 1] = cosine * x - sine * y + centre[1]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _within(value, reach, origin, size, count):
    """The cells that hold what lies within `reach` of `value` along one axis, as a half-open range."""
    first, last = np.floor((value - reach - origin) / size), np.floor((value + reach - origin) / size)
    return max(int(first), 0), min(int(last) + 1, count)


@njit(cache=True, nogil=True, error_model="numpy")
def _votes(yx, sites, centre, half, bin_px):
    """2-D histogram of all differences of `yx` and the sites within `half` bins of `centre`.

    `sites` are the `cells` of the reference.
    """
    side = 2 * half + 1
    histogram = np.zeros((side, side), np.int32)
    _, start, ny, nx, y0, x0, size, ordered = sites
    y0, x0, size, ordered = y0 / bin_px, x0 / bin_px, size / bin_px, ordered / bin_px
    reach = half + 0.5
    for i in range(len(yx)):
        y, x = (yx[i, 0] - centre[0]) / bin_px, (yx[i, 1] - centre[1]) / bin_px
        ya, yb = _within(y, reach, y0, size, ny)
        xa, xb = _within(x, reach, x0, size, nx)
        if xa >= xb:
            continue
        for cy in range(ya, yb):
            for k in range(start[cy * nx + xa], start[cy * nx + xb]):
                by, bx = y - ordered[k, 0] + reach, x - ordered[k, 1] + reach
                if 0 <= by < side and 0 <= bx < side:
                    histogram[int(by), int(bx)] += 1
    return histogram


@njit(cache=True, nogil=True)
def _settle(yx, reference, sites, start, spacing_px):
    """The shift near `start` that makes the median residual vanish, with a wide gate and a close one.

    `sites` are the `cells` of the reference.
    """
    shift = start.copy()
    for gate in (0.5, _GATE):
        partner, _ = nearest_in(yx - shift, sites, gate * spacing_px)
        found = np.flatnonzero(partner >= 0)
        if len(found) == 0:
            break
        residual = yx[found] - reference[partner[found]]
        shift[0] = np.median(residual[:, 0])
        shift[1] = np.median(residual[:, 1])
    return shift


@njit(cache=True, nogil=True)
def _count(yx, reference, sites, shift, seen, shape, spacing_px):
    """Partners, and the columns and sites that should have one and do not, under one shift.

    A column outside of what was ever in view (`seen`, less a spacing: nearer, a site may be too new), or a site out
    of view now, need not have one.

    Returns the number of partners, of columns and of sites that count, of those of either without a partner, and the
    sum of squared distances of partners.
    """
    moved = yx - shift
    partner = match_in(moved, sites, _GATE * spacing_px)
    due = np.zeros(len(reference), np.bool_)
    in_view = 0
    for j in range(len(reference)):
        y, x = reference[j, 0] + shift[0], reference[j, 1] + shift[1]
        rim = 0.5 * spacing_px
        due[j] = rim <= y <= shape[0] - 1 - rim and rim <= x <= shape[1] - 1 - rim
        in_view += due[j]
    matched = columns = unmatched = 0
    square = 0.0
    for i in range(len(moved)):
        j = partner[i]
        known = True
        for axis in range(2):
            known &= seen[0, axis] + spacing_px <= moved[i, axis] <= seen[1, axis] - spacing_px
        if j >= 0:
            matched += 1
            due[j] = False
            square += (moved[i, 0] - reference[j, 0]) ** 2 + (moved[i, 1] - reference[j, 1]) ** 2
        elif known:
            unmatched += 1
        columns += known or j >= 0
    for j in range(len(reference)):
        unmatched += due[j]
    return matched, columns, in_view, unmatched, square


def _turn(yx: np.ndarray, reference: np.ndarray, sites: tuple, centre: np.ndarray, gate: float) -> float:
    """By how much `yx` (n, 2) is turned about `centre` against `reference` (m, 2), in rad; 0 where chance would do it.

    `sites` are the `cells` of the reference.

    Least squares over partners, those far off left out; what could be chance is taken off, so that noise makes no
    turn and a slow one is followed a little later.
    """
    yx = np.ascontiguousarray(yx[:: 1 + len(yx) // _ENOUGH])
    partner, _ = nearest_in(yx, sites, gate)
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


def _more(unmatched: float, sigmas: float) -> float:
    """A count of unmatched columns and sites that is so many standard deviations of a difference more than usual."""
    return unmatched + sigmas * np.sqrt(2.0 * unmatched + 4.0)


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

        known = _Known(reference, cells(reference, 0.5 * spacing_px), spacing_px)
        fit = self._fit(yx, known, self._yx_px)
        usual = self._unmatched[0]
        far = np.hypot(*(fit.shift - self._yx_px)) > _LEAP * spacing_px
        if not fit.good or far or fit.unmatched > _more(usual, 2.0):
            fit = self._search(yx, known, fit, self.reach_px)
        elif fit.unmatched > _more(usual, 1.0):  # perhaps it jumped from one place of the lattice to the next
            fit = self._search(yx, known, fit, _NEXT * spacing_px)
        if not fit.good:
            return self._give(self._yx_px, float("nan"), fit.matched, measured=False, lost=True)
        turn_rad = _turn(yx - fit.shift, reference, known.cells, self._centre - fit.shift, _GATE * spacing_px)
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
        return Shift(shift.copy(), turn_rad, self._centre, residual_px, matched, measured, lost)

    def _upright(self, yx: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(turned(yx, -float(self._turn_rad[0]), self._centre))

    def _fit(self, yx: np.ndarray, known: _Known, start: np.ndarray) -> _Fit:
        """Settle near `start`, and see how well that explains the frame."""
        reference, sites, spacing_px = known.yx_px, known.cells, known.spacing_px
        shift = _settle(yx, reference, sites, start, spacing_px)
        matched, columns, in_view, unmatched, square = _count(
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
        bin_px = 0.5 * _GATE * known.spacing_px
        half = int(np.ceil(reach_px / bin_px))
        votes = _votes(np.ascontiguousarray(thin), known.cells, self._yx_px, half, bin_px)
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


@dataclass(frozen=True, slots=True)
class _Known:
    """Where columns are expected, for one frame: positions (m, 2) in px, their `cells`, and the spacing."""

    yx_px: np.ndarray
    cells: tuple
    spacing_px: float
