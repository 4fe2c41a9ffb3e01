"""The map of sites: places of the specimen where columns are, were, or come and go; kept online.

A column without a site opens a candidate; a candidate seen often enough within a few frames becomes a
site, and one that is not seen again is forgotten. Sites keep their number for ever. What was seen of a
candidate comes along when it becomes a site, so that its first appearance is dated by evidence.

A site at which hardly a column ever was is retired: nothing looks there any more. When a column is seen there after
all, or the place is proposed anew, it wakes under its old number. Two sites that came to lie in one place are made one.
Rows stay, and rest: a place has one number for ever, so there are no more rows than places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.drift import turned
from stream.matching import crowded, match, nearest, neighbours, spacing
from stream.places import DETECTED, MISSED, UNOBSERVED, BlindSpots, Places, in_frame

_GATE = 0.35  # of the spacing: a column nearer than this to a site is its column
_APART = 0.5  # no two sites closer than this
_MARGIN = 0.5  # of the spacing: nearer to the border, detection is not to be trusted
_NEIGHBOUR = 1.5
_MOST_NEIGHBOURS = 8
_NEVER = -1
_VIEW_PX = 4.0  # shifts of past frames are remembered so closely
_FEW = 8  # points from which a spacing can be measured
_FACTOR = 3.0  # it is believed if it is within this factor of what was told
_IDLE = 2000  # frames in which a site was looked at and empty, before it is retired
_SUPPORT = 10  # frames with a column: one that was there so often is real, and never retired
_REST = 10_000  # frames from there until the place may be proposed again
_MOST_VIEWS = 4096  # shifts remembered; with more of them, they are remembered less closely
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one frame says of the sites.

    Attributes
    ----------
    column_site : (n,) i8, the site of each column, or -1.
    code : (m,) u1 per site, new ones included: UNOBSERVED, MISSED or DETECTED.
    begun : the sites that are looked at from this frame on.
    """

    column_site: np.ndarray
    code: np.ndarray
    begun: Begun

    @property
    def history(self) -> np.ndarray:
        return self.begun.history

    @property
    def empty_frames(self) -> np.ndarray:
        return self.begun.empty_frames


@dataclass(frozen=True, slots=True)
class Begun:
    """Sites that were born, proposed or woken, with what the past says of them.

    Attributes
    ----------
    site : (b,) i8, their rows: woken ones first, then new ones, which are the last of all.
    history : (memory - 1, b) u1, their codes in the frames before this one, oldest first.
    empty_frames : (b,) f8, how many frames before those had the place in view, and nothing there; of a woken site,
        since it was retired.
    """

    site: np.ndarray
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
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed: a place behind many of them is not observed.
    forget_frames : sightings after which a position follows rather than settles.

    Attributes
    ----------
    site_id : (m,) i8; site k is row k of everything kept per site.
    yx_nm : (m, 2) f8, in the specimen's frame: the first frame's, pixel (0, 0) at the origin.
    error_nm : (m, 2) f8, standard error of `yx_nm`.
    born_frame : (m,) i8, the frame that first gave evidence of the site; -1 where none did.
    neighbours : (m, 8) i8, sites within 1.5 median spacings, nearest first, then -1.
    proposed : (m,) bool, sites that are there because the lattice goes on; no column was seen there yet.
    retired_frame : (m,) i8, since when nobody looks there, or -1.
    merged_into : (m,) i8, the older site in the same place of which this one is part, or -1.
    version : rises whenever sites are added, retired or woken.
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
        bad_pixels: np.ndarray | None = None,
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
        self._blind = BlindSpots(bad_pixels) if bad_pixels is not None and bad_pixels.any() else None
        self._sites = Places(memory)
        self._candidates = Places(memory)
        self._in_view = np.zeros((memory, 4))  # of the last frames: shift y, x in px, turn, and 1 if observed
        self._views: dict[tuple[int, int], int] = {}  # rounded shifts of all frames before those
        self._view_px = _VIEW_PX
        self.neighbours = np.empty((0, _MOST_NEIGHBOURS), np.int64)
        self.proposed = np.empty(0, np.bool_)
        self.retired_frame, self.merged_into = np.empty(0, np.int64), np.empty(0, np.int64)
        self._idle, self._there = np.empty(0, np.int64), np.empty(0, np.int64)  # frames
        self._looked = np.empty(0)  # frames that had the place in view, until it was retired

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

    def in_view(self, shift_yx_px: np.ndarray, turn_rad: float) -> np.ndarray:
        """(m,) bool, the sites looked at that a frame so shifted and turned shows, away from its border."""
        return self._visible(self.yx_nm, shift_yx_px, _MARGIN, turn_rad) & (self.retired_frame < 0)

    @property
    def awake(self) -> np.ndarray:
        """(k,) i8, the sites that are looked at."""
        return np.flatnonzero(self.retired_frame < 0)

    def resting_yx_nm(self, frame: int) -> np.ndarray:
        """(r, 2) f8, places retired so lately that they are not to be proposed again yet."""
        return self.yx_nm[(self.retired_frame >= 0) & (frame - self.retired_frame < _REST)]

    def code_before(self, frames: int) -> np.ndarray:
        """(m,) u1, what was seen of each site `frames` updates ago; 0 is the last."""
        return self._sites.code[-1 - frames]

    def update(
        self,
        frame: int,
        yx_px: np.ndarray,
        score: np.ndarray,
        shift_yx_px: np.ndarray,
        *,
        turn_rad: float = 0.0,
        lost: bool = False,
    ) -> Sighting:
        """Give columns to sites and candidates; open, promote and forget candidates.

        Parameters
        ----------
        frame : its index.
        yx_px : (n, 2), the columns found, in the frame's pixels, turned back.
        score : (n,), of each column.
        shift_yx_px, turn_rad : (2,), where the specimen is in this frame, and how it is turned.
        lost : the frame says nothing of the sites.
        """
        shift = np.asarray(shift_yx_px, np.float64)
        n = len(yx_px)
        y, x, _, observed = self._in_view[0]
        if observed:
            self._note_view(y, x)
        self._in_view[:-1] = self._in_view[1:]
        self._in_view[-1] = (*shift, turn_rad, 0.0 if lost else 1.0)
        if lost:
            self._sites.see(UNOBSERVED)
            self._candidates.see(UNOBSERVED)
            self._candidates.keep(np.any(self._candidates.code == DETECTED, axis=0))
            none = Begun(_NONE, np.empty((self.memory - 1, 0), np.uint8), np.empty(0))
            return Sighting(np.full(n, -1, np.int64), self._sites.code[-1], none)

        yx_nm = (np.asarray(yx_px, np.float64) - shift) * self.pixel_size_nm
        if len(self) < _FEW:
            self._measure_spacing(yx_nm)
        awake = self.awake
        in_view = self._visible(self.yx_nm, shift, _MARGIN, turn_rad) & (self.retired_frame < 0)
        self._sites.see(np.where(in_view, MISSED, UNOBSERVED))
        in_view = self._visible(self.candidates_yx_nm, shift, _MARGIN, turn_rad)
        self._candidates.see(np.where(in_view, MISSED, UNOBSERVED))
        column_site = np.append(awake, -1)[match(yx_nm, self.yx_nm[awake], self._gate_nm)]
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
        begun = self._promote()
        return Sighting(column_site, self._sites.code[-1], begun)

    def propose(self, yx_nm: np.ndarray) -> Begun:
        """Look at places where no column was seen so far (k, 2), in the specimen's frame; `proposed` until some are."""
        places = Places(self.memory)
        places.append(yx_nm, np.full(len(yx_nm), _NEVER), self._missed_before(yx_nm))
        return self._begin(places, proposed=True)

    def learn(self, p_occupied: np.ndarray, observed: np.ndarray) -> None:
        """Take the smoothed P(occupied) (m,) of a frame, to know where a column ever is."""
        there = p_occupied > 0.5
        self._there += there & observed
        self._idle = np.where(there, 0, self._idle + observed)

    def retire(self, frame: int) -> np.ndarray:
        """Let those rest at which hardly a column ever was; returns them, (k,) i8."""
        old = np.flatnonzero((self.retired_frame < 0) & (self._idle >= _IDLE) & (self._there < _SUPPORT))
        if len(old):
            self._rest(frame, old)
        return old

    def merge(self, frame: int) -> list[tuple[int, int]]:
        """Make one of any two sites that came to lie in one place; returns them, (older, younger).

        Two columns seen at once are two, however near.
        """
        rows = self.awake
        near = neighbours(np.ascontiguousarray(self.yx_nm[rows]), _APART * self.spacing_nm, 1)[:, 0]
        pairs = {tuple(sorted((rows[k], rows[j]))) for k, j in enumerate(near.tolist()) if j >= 0}
        merged: list[tuple[int, int]] = []
        for older, younger in sorted((int(a), int(b)) for a, b in pairs):
            both = (self._sites.code[:, [older, younger]] == DETECTED).all(axis=1)
            if both.any() or self.merged_into[older] >= 0 or self.merged_into[younger] >= 0:
                continue
            self._sites.merge(older, younger, self.forget_frames)
            self.proposed[older] &= self.proposed[younger]
            self._there[older] += self._there[younger]
            self._idle[older] = min(self._idle[older], self._idle[younger])
            self.merged_into[self.merged_into == younger] = older
            self.merged_into[younger] = older
            merged.append((older, younger))
        if merged:
            self._rest(frame, np.array([younger for _, younger in merged]))
        return merged

    def _rest(self, frame: int, rows: np.ndarray) -> None:
        self.retired_frame[rows] = frame
        self._looked[rows] = self._in_view_before(self.yx_nm[rows])
        self._sites.code[:, rows] = UNOBSERVED
        self._changed()

    def _begin(self, places: Places, *, proposed: bool) -> Begun:
        """Look at these places from now on: wake the sites that are retired there, make new ones elsewhere."""
        code, before = places.code, self._in_view_before(places.yx_nm)
        if not len(places.yx_nm):
            return Begun(_NONE, code[:-1], before)
        resting = np.flatnonzero((self.retired_frame >= 0) & (self.merged_into < 0))
        woken = match(places.yx_nm, self.yx_nm[resting], _APART * self.spacing_nm)
        old, new = np.flatnonzero(woken >= 0), np.flatnonzero(woken < 0)
        rows = resting[woken[old]]
        before[old] -= self._looked[rows]
        self._sites.replace(rows, places, old)
        self.proposed[rows] = proposed
        self.retired_frame[rows] = -1
        self._idle[rows] = 0
        m = len(self)
        self._sites.take(places, new)
        self.proposed = np.concatenate([self.proposed, np.full(len(new), proposed)])
        for name, value in _FRESH.items():
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.full(len(new), value, array.dtype)]))
        self._changed()
        order = np.concatenate([old, new])
        site = np.concatenate([rows, np.arange(m, len(self))])
        history = code[1:] if proposed else code[:-1]  # a proposal comes before the frame is seen
        return Begun(site, history[:, order], np.maximum(before[order], 0.0))

    def _note_view(self, y: float, x: float) -> None:
        view = round(y / self._view_px), round(x / self._view_px)
        self._views[view] = self._views.get(view, 0) + 1
        if len(self._views) > _MOST_VIEWS:
            finer, self._views = self._views, {}
            self._view_px *= 2
            for (v, u), frames in finer.items():
                coarse = round(v / 2), round(u / 2)
                self._views[coarse] = self._views.get(coarse, 0) + frames

    def _missed_before(self, yx_nm: np.ndarray) -> np.ndarray:
        """(memory, k) u1, what the last frames say of places where nothing was seen; oldest first."""
        code = np.empty((self.memory, len(yx_nm)), np.uint8)
        for row, view in zip(code, self._in_view, strict=True):
            # at the very border, a column found just outside would have opened nothing
            looked = self._visible(yx_nm, view[:2], _MARGIN + _GATE, view[2])
            row[:] = np.where(looked & (view[3] > 0), MISSED, UNOBSERVED)
        return code

    def _changed(self) -> None:
        rows = self.awake
        beside = neighbours(self.yx_nm[rows], _NEIGHBOUR * self.spacing_nm, _MOST_NEIGHBOURS)
        self.neighbours = np.full((len(self), _MOST_NEIGHBOURS), -1, np.int64)
        self.neighbours[rows] = np.append(rows, -1)[beside]
        self.version += 1

    def _visible(
        self, yx_nm: np.ndarray, shift: np.ndarray, margin: float = _MARGIN, turn_rad: float = 0.0
    ) -> np.ndarray:
        """(n,) bool: whether specimen positions lie in the frame, `margin` spacings from its border, and not where
        the camera is blind."""
        seen = in_frame(yx_nm, self.pixel_size_nm, shift, margin * self.spacing_px, self._shape)
        if self._blind is not None:
            yx_px = turned(yx_nm / self.pixel_size_nm + shift, turn_rad, (self._shape - 1) / 2)
            seen &= ~self._blind.hide(yx_px, self._gate_nm / self.pixel_size_nm)
        return seen

    def _in_view_before(self, yx_nm: np.ndarray) -> np.ndarray:
        """(b,) f8, in how many of the frames before the last `memory` these places were in view."""
        if not len(yx_nm) or not self._views:
            return np.zeros(len(yx_nm))
        shifts = self._view_px * np.array(list(self._views), np.float64)
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
        if not free.any():
            return
        free[free] = nearest(yx_nm[free], self.yx_nm[self.awake], _APART * self.spacing_nm)[0] < 0
        free[free] = nearest(yx_nm[free], self.candidates_yx_nm, self._gate_nm)[0] < 0
        if not free.any():
            return
        yx_nm = yx_nm[free]
        history = self._missed_before(yx_nm)
        history[-1] = DETECTED
        self._candidates.append(yx_nm, np.full(len(yx_nm), frame), history)

    def _promote(self) -> Begun:
        """Make sites of the candidates seen often enough, forget those no longer seen."""
        candidates = self._candidates
        seen = candidates.code[-self.born_within :] == DETECTED
        ripe = np.flatnonzero(np.count_nonzero(seen, axis=0) >= self.born_after)
        gone = ~np.any(seen, axis=0)
        gone[ripe] = True
        apart = _APART * self.spacing_nm
        if len(ripe):
            ripe = ripe[nearest(candidates.yx_nm[ripe], self.yx_nm[self.awake], apart)[0] < 0]
            ripe = ripe[~crowded(candidates.yx_nm[ripe], apart)]
        places = Places(self.memory)
        if len(ripe):
            places.take(candidates, ripe)
        candidates.keep(~gone)
        begun = self._begin(places, proposed=False)
        if len(ripe):
            self._measure_spacing(self.yx_nm[self.awake])
            self._changed()
        return begun

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        scalars = np.array([self.spacing_nm, self.version, self._view_px])
        views = np.array([(*view, count) for view, count in self._views.items()], np.int64).reshape(-1, 3)
        state = {
            "scalars": scalars,
            "in_view": self._in_view.copy(),
            "views": views,
            "neighbours": self.neighbours.copy(),
            "proposed": self.proposed.copy(),
        } | {name.strip("_"): getattr(self, name).copy() for name in _FRESH}
        for name, places in (("sites", self._sites), ("candidates", self._candidates)):
            state |= {f"{name}/{key}": getattr(places, key).copy() for key in Places.FIELDS}
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of a SiteMap made with the same arguments."""
        self.spacing_nm, self.version = float(state["scalars"][0]), int(state["scalars"][1])
        self._view_px = float(state["scalars"][2])
        self._in_view = np.array(state["in_view"])
        self._views = {(y, x): count for y, x, count in state["views"].tolist()}
        self.neighbours = np.array(state["neighbours"])
        self.proposed = np.array(state["proposed"])
        for name in _FRESH:
            setattr(self, name, np.array(state[name.strip("_")]))
        for name, places in (("sites", self._sites), ("candidates", self._candidates)):
            for key in Places.FIELDS:
                setattr(places, key, np.array(state[f"{name}/{key}"]))


_FRESH = {"retired_frame": -1, "merged_into": -1, "_idle": 0, "_there": 0, "_looked": 0.0}  # of a new site
