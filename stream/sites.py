"""The map of sites: places of the specimen where columns are, were, or come and go; kept online.

A column without a site opens a candidate; a candidate seen often enough within a few frames becomes a
site, and one that is not seen again is forgotten. Sites keep their number for ever. What was seen of a
candidate comes along when it becomes a site, so that its first appearance is dated by evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.matching import crowded, match, nearest, neighbours, spacing
from stream.places import DETECTED, MISSED, UNOBSERVED, Places, in_frame

_GATE = 0.35  # of the spacing: a column nearer than this to a site is its column
_APART = 0.5  # no two sites closer than this
_MARGIN = 0.5  # of the spacing: nearer to the border, detection is not to be trusted
_NEIGHBOUR = 1.5
_MOST_NEIGHBOURS = 8
_NEVER = -1
_VIEW_PX = 4.0  # shifts of past frames are remembered so closely
_FEW = 8  # points from which a spacing can be measured
_FACTOR = 3.0  # it is believed if it is within this factor of what was told


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one frame says of the sites.

    Attributes
    ----------
    column_site : (n,) i8, the site of each column, or -1.
    code : (m,) u1 per site, new ones included: UNOBSERVED, MISSED or DETECTED.
    history : (memory - 1, b) u1, the codes of the b sites born in this frame in the frames before it,
        oldest first; they are the last b of the m.
    empty_frames : (b,) f8, how many frames before those had the place in view, and nothing there.
    """

    column_site: np.ndarray
    code: np.ndarray
    history: np.ndarray
    empty_frames: np.ndarray


class SiteMap:
    """Sites, and the candidates that may become sites.

    Parameters
    ----------
    shape_yx : of the frames.
    pixel_size_nm : of the frames, at the specimen.
    spacing_nm : distance between neighbouring columns, within a factor of 3; measured once
        there are 8.
    born_after, born_within : a candidate becomes a site when it was seen in `born_after` of the last
        `born_within` frames.
    birth_score : columns of a lower score count at sites and candidates, but open no candidate.
    memory : frames of which what was seen is kept.
    forget_frames : sightings after which a position follows rather than settles.

    Attributes
    ----------
    site_id : (m,) i8; site k is row k of everything kept per site.
    yx_nm : (m, 2) f8, in the specimen's frame: the first frame's, pixel (0, 0) at the origin.
    error_nm : (m, 2) f8, standard error of `yx_nm`.
    born_frame : (m,) i8, the frame that first gave evidence of the site; -1 where none did.
    neighbours : (m, 8) i8, sites within 1.5 median spacings, nearest first, then -1.
    proposed : (m,) bool, sites that are there because the lattice goes on; no column was seen there yet.
    version : rises whenever sites are added.
    """

    def __init__(
        self,
        shape_yx: tuple[int, int],
        pixel_size_nm: float,
        spacing_nm: float,
        *,
        born_after: int = 3,
        born_within: int = 4,
        birth_score: float = 0.0,
        memory: int = 10,
        forget_frames: float = 1000.0,
    ) -> None:
        if not 0 < pixel_size_nm < np.inf or not 0 < spacing_nm < np.inf:
            raise ValueError(
                f"a site map needs a pixel size and a spacing above 0 nm, got {pixel_size_nm} and {spacing_nm}"
            )
        if not 1 <= born_after <= born_within <= memory:
            raise ValueError(
                "birth needs 1 <= born_after <= born_within <= memory, "
                f"got {born_after}, {born_within} and {memory}"
            )
        self.pixel_size_nm = pixel_size_nm
        self.spacing_nm = self._told_nm = spacing_nm
        self.born_after, self.born_within, self.memory = born_after, born_within, memory
        self.birth_score, self.forget_frames = birth_score, forget_frames
        self.version = 0
        self._shape = np.asarray(shape_yx, np.float64)
        self._sites = Places(memory)
        self._candidates = Places(memory)
        self._in_view = np.zeros((memory, 3))  # of the last frames: shift y, x in px, and 1 if observed
        self._views: dict[tuple[int, int], int] = {}  # rounded shifts of all frames before those
        self.neighbours = np.empty((0, _MOST_NEIGHBOURS), np.int64)
        self.proposed = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self._sites.yx_nm)

    @property
    def site_id(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64)

    @property
    def yx_nm(self) -> np.ndarray:
        return self._sites.yx_nm

    @property
    def error_nm(self) -> np.ndarray:
        return np.sqrt(self._sites.variance / (self._sites.weight[:, None] - 1.0))

    @property
    def born_frame(self) -> np.ndarray:
        return self._sites.first

    @property
    def spacing_px(self) -> float:
        return self.spacing_nm / self.pixel_size_nm

    @property
    def _gate_nm(self) -> float:
        return _GATE * self.spacing_nm

    @property
    def candidates_yx_nm(self) -> np.ndarray:
        """(c, 2) f8, places that were seen but are not believed yet."""
        return self._candidates.yx_nm

    def code_before(self, frames: int) -> np.ndarray:
        """(m,) u1, what was seen of each site `frames` updates ago; 0 is the last."""
        return self._sites.code[-1 - frames]

    def update(
        self, frame: int, yx_px: np.ndarray, score: np.ndarray, shift_yx_px: np.ndarray, *, lost: bool = False
    ) -> Sighting:
        """Give columns to sites and candidates; open, promote and forget candidates.

        Parameters
        ----------
        frame : its index.
        yx_px : (n, 2), the columns found, in the frame's pixels.
        score : (n,), of each column.
        shift_yx_px : (2,), where the specimen is in this frame.
        lost : the frame says nothing of the sites.
        """
        shift = np.asarray(shift_yx_px, np.float64)
        n = len(yx_px)
        y, x, observed = self._in_view[0]
        if observed:
            view = round(y / _VIEW_PX), round(x / _VIEW_PX)
            self._views[view] = self._views.get(view, 0) + 1
        self._in_view[:-1] = self._in_view[1:]
        self._in_view[-1] = (*shift, 0.0 if lost else 1.0)
        if lost:
            self._sites.see(UNOBSERVED)
            self._candidates.see(UNOBSERVED)
            self._candidates.keep(np.any(self._candidates.code == DETECTED, axis=0))
            none = np.empty((self.memory - 1, 0), np.uint8)
            return Sighting(np.full(n, -1, np.int64), self._sites.code[-1], none, np.empty(0))

        yx_nm = (np.asarray(yx_px, np.float64) - shift) * self.pixel_size_nm
        if len(self) < _FEW:
            self._measure_spacing(yx_nm)
        self._sites.see(np.where(self._visible(self.yx_nm, shift), MISSED, UNOBSERVED))
        self._candidates.see(np.where(self._visible(self.candidates_yx_nm, shift), MISSED, UNOBSERVED))
        column_site = match(yx_nm, self.yx_nm, self._gate_nm)
        mine = np.flatnonzero(column_site >= 0)
        self._sites.add_columns(column_site[mine], yx_nm[mine], self.forget_frames)
        self.proposed &= self._sites.weight <= self.born_after
        unseen = self._sites.first == _NEVER
        self._sites.first[unseen & (self._sites.code[-1] == DETECTED)] = frame

        rest = np.flatnonzero(column_site < 0)
        place = match(yx_nm[rest], self.candidates_yx_nm, self._gate_nm)
        mine = rest[place >= 0]
        self._candidates.add_columns(place[place >= 0], yx_nm[mine], self.forget_frames)
        rest = rest[place < 0]
        self._open(frame, yx_nm[rest[score[rest] >= self.birth_score]], shift)
        history = self._promote()
        empty = self._in_view_before(self.yx_nm[len(self) - history.shape[1] :])
        return Sighting(column_site, self._sites.code[-1], history, empty)

    def propose(self, yx_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add sites where no column was seen so far (k, 2), in the specimen's frame; `proposed` until some are.

        Returns
        -------
        `history` and `empty_frames` of them, as in `Sighting`.
        """
        code = self._missed_before(yx_nm)
        if len(yx_nm):
            self._sites.append(yx_nm, np.full(len(yx_nm), _NEVER), code)
            self.proposed = np.concatenate([self.proposed, np.ones(len(yx_nm), np.bool_)])
            self._changed()
        return code[1:], self._in_view_before(yx_nm)

    def _missed_before(self, yx_nm: np.ndarray) -> np.ndarray:
        """(memory, k) u1, what the last frames say of places where nothing was seen; oldest first."""
        code = np.empty((self.memory, len(yx_nm)), np.uint8)
        for row, view in zip(code, self._in_view, strict=True):
            # at the very border, a column found just outside would have opened nothing
            looked = self._visible(yx_nm, view[:2], _MARGIN + _GATE)
            row[:] = np.where(looked & (view[2] > 0), MISSED, UNOBSERVED)
        return code

    def _changed(self) -> None:
        self.neighbours = neighbours(self.yx_nm, _NEIGHBOUR * self.spacing_nm, _MOST_NEIGHBOURS)
        self.version += 1

    def _visible(self, yx_nm: np.ndarray, shift: np.ndarray, margin: float = _MARGIN) -> np.ndarray:
        """(n,) bool: whether specimen positions lie in the frame, `margin` spacings from its border."""
        return in_frame(yx_nm, self.pixel_size_nm, shift, margin * self.spacing_px, self._shape)

    def _in_view_before(self, yx_nm: np.ndarray) -> np.ndarray:
        """(b,) f8, in how many of the frames before the last `memory` these places were in view."""
        if not len(yx_nm) or not self._views:
            return np.zeros(len(yx_nm))
        shifts = _VIEW_PX * np.array(list(self._views), np.float64)
        frames = np.array(list(self._views.values()), np.float64)
        return frames @ [self._visible(yx_nm, shift, _MARGIN + _GATE) for shift in shifts]

    def _measure_spacing(self, yx_nm: np.ndarray) -> None:
        """Take the spacing from these points, unless they are too few or no lattice (far off what was told)."""
        if len(yx_nm) >= _FEW:
            measured = spacing(yx_nm)
            if self._told_nm / _FACTOR < measured < self._told_nm * _FACTOR:
                self.spacing_nm = measured

    def _open(self, frame: int, yx_nm: np.ndarray, shift: np.ndarray) -> None:
        """Open candidates where there is room; what was in view before and not seen counts as missed."""
        free = self._visible(yx_nm, shift)
        free[free] = nearest(yx_nm[free], self.yx_nm, _APART * self.spacing_nm)[0] < 0
        free[free] = nearest(yx_nm[free], self.candidates_yx_nm, self._gate_nm)[0] < 0
        if not free.any():
            return
        yx_nm = yx_nm[free]
        history = self._missed_before(yx_nm)
        history[-1] = DETECTED
        self._candidates.append(yx_nm, np.full(len(yx_nm), frame), history)

    def _promote(self) -> np.ndarray:
        """Make sites of the candidates seen often enough, forget those no longer seen."""
        candidates = self._candidates
        seen = candidates.code[-self.born_within :] == DETECTED
        ripe = np.flatnonzero(np.count_nonzero(seen, axis=0) >= self.born_after)
        gone = ~np.any(seen, axis=0)
        gone[ripe] = True
        apart = _APART * self.spacing_nm
        ripe = ripe[nearest(candidates.yx_nm[ripe], self.yx_nm, apart)[0] < 0]
        ripe = ripe[~crowded(candidates.yx_nm[ripe], apart)]
        history = candidates.code[:-1, ripe]
        if len(ripe):
            self._sites.take(candidates, ripe)
            self.proposed = np.concatenate([self.proposed, np.zeros(history.shape[1], np.bool_)])
            self._measure_spacing(self.yx_nm)
            self._changed()
        candidates.keep(~gone)
        return history

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        scalars = np.array([self.spacing_nm, self.version])
        views = np.array([(*view, count) for view, count in self._views.items()], np.int64).reshape(-1, 3)
        state = {
            "scalars": scalars,
            "in_view": self._in_view.copy(),
            "views": views,
            "neighbours": self.neighbours.copy(),
            "proposed": self.proposed.copy(),
        }
        for name, places in (("sites", self._sites), ("candidates", self._candidates)):
            state |= {f"{name}/{key}": getattr(places, key).copy() for key in Places.FIELDS}
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of a SiteMap made with the same arguments."""
        self.spacing_nm, self.version = float(state["scalars"][0]), int(state["scalars"][1])
        self._in_view = np.array(state["in_view"])
        self._views = {(y, x): count for y, x, count in state["views"].tolist()}
        self.neighbours = np.array(state["neighbours"])
        self.proposed = np.array(state["proposed"])
        for name, places in (("sites", self._sites), ("candidates", self._candidates)):
            for key in Places.FIELDS:
                setattr(places, key, np.array(state[f"{name}/{key}"]))
