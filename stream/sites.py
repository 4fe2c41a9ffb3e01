"""The map of sites: places of the specimen where columns are, were, or come and go; kept online.

A column without a site opens a candidate; a candidate seen often enough within a few frames becomes a
site, and one that is not seen again is forgotten. Sites keep their number for ever. What was seen of a
candidate comes along when it becomes a site, so that its first appearance is dated by evidence.

A site at which hardly a column ever was is retired: nothing looks there any more. When a column is seen there after
all, or the place is proposed anew, it wakes under its old number. Two sites that came to lie in one place are made one.
Rows stay, and rest: a place has one number for ever, so there are no more rows than places.
"""

from __future__ import annotations

import numpy as np

from stream.candidates import Candidates
from stream.lives import Lives
from stream.matching import crowded, match, nearest, neighbours, spacing
from stream.places import DETECTED, GATE, MISSED, UNOBSERVED, Begun, Places, Sighting
from stream.views import Views

_APART = 0.5  # no two sites closer than this
_NEIGHBOUR = 1.5
_MOST_NEIGHBOURS = 8
_NEVER = -1
_FEW = 8  # points from which a spacing can be measured
_FACTOR = 3.0  # it is believed if it is within this factor of what was told
_NONE = np.empty(0, np.int64)


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
    error_nm : (m, 2) f8, standard error of `yx_nm`; NaN where fewer than two columns were seen.
    born_frame : (m,) i8, the frame that first gave evidence of the site; -1 where none did.
    neighbours : (m, 8) i8, sites within 1.5 median spacings, nearest first, then -1.
    proposed : (m,) bool, sites that are there because the lattice goes on; no column was seen there yet.
    retired_frame : (m,) i8, since when nobody looks there, or -1.
    merged_into : (m,) i8, the older site in the same place of which this one is part, or -1.
    version : rises whenever sites are added, retired or woken.

    Notes
    -----
    Neighbours are told by distance, not by steps of the lattice: a bond of a honeycomb is no step, and <100> would lose
    its diagonals, across which atoms of one layer touch. 1.5 spacings end between two shells of every lattice whose
    columns engines know: of gold (a = 0.408 nm) along <100> after 4 at 0.204 and 4 at 0.288 nm, the next at 0.408;
    <110> 4 at 0.250 and 2 at 0.288, the next at 0.408; <111> 6 at 0.167, the next, in the same layer, at 0.288; of
    honeycombs after 3, the next at 1.73 spacings.
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
        self.pixel_size_nm = pixel_size_nm
        self.spacing_nm = self._told_nm = spacing_nm
        self.memory, self.birth_score, self.forget_frames = memory, birth_score, forget_frames
        self.version = 0
        self._candidates = Candidates(born_after, born_within, memory)
        self._views = Views(shape_yx, pixel_size_nm, memory, bad_pixels)
        self._lives = Lives()
        self._sites = Places(memory)
        self.neighbours = np.empty((0, _MOST_NEIGHBOURS), np.int64)

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
        again = self._sites.weight[:, None] - 1.0  # sightings after the first
        return np.sqrt(self._sites.variance / np.where(again > 0, again, np.nan))

    @property
    def born_frame(self) -> np.ndarray:
        return self._sites.first

    @property
    def proposed(self) -> np.ndarray:
        return self._lives.proposed

    @property
    def retired_frame(self) -> np.ndarray:
        return self._lives.retired_frame

    @property
    def merged_into(self) -> np.ndarray:
        return self._lives.merged_into

    @property
    def spacing_px(self) -> float:
        return self.spacing_nm / self.pixel_size_nm

    @property
    def candidates_yx_nm(self) -> np.ndarray:
        """(c, 2) f8, places that were seen but are not believed yet."""
        return self._candidates.yx_nm

    def in_view(self, shift_yx_px: np.ndarray, turn_rad: float) -> np.ndarray:
        """(m,) bool, the sites looked at that a frame so shifted and turned shows, away from its border."""
        shown = self._views.show(self.yx_nm, self.spacing_px, shift_yx_px, turn_rad)
        return shown & (self.retired_frame < 0)

    @property
    def awake(self) -> np.ndarray:
        """(k,) i8, the sites that are looked at."""
        return self._lives.awake

    def resting_yx_nm(self, frame: int) -> np.ndarray:
        """(r, 2) f8, places retired so lately that they are not to be proposed again yet."""
        return self.yx_nm[self._lives.rested_lately(frame)]

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
        self._views.note(shift, turn_rad, lost=lost)
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
        self._sites.see(np.where(self.in_view(shift, turn_rad), MISSED, UNOBSERVED))
        in_view = self._views.show(self.candidates_yx_nm, self.spacing_px, shift, turn_rad)
        self._candidates.see(np.where(in_view, MISSED, UNOBSERVED))
        column_site = np.append(awake, -1)[match(yx_nm, self.yx_nm[awake], GATE * self.spacing_nm)]
        mine = np.flatnonzero(column_site >= 0)
        self._sites.add_columns(column_site[mine], yx_nm[mine], self.forget_frames)
        self._lives.proposed &= self._sites.weight <= self._candidates.born_after
        unseen = self._sites.first == _NEVER
        self._sites.first[unseen & (self._sites.code[-1] == DETECTED)] = frame

        rest = np.flatnonzero(column_site < 0)
        rest = rest[~self._candidates.claim(yx_nm[rest], self.spacing_nm, self.forget_frames)]
        self._open(frame, yx_nm[rest[score[rest] >= self.birth_score]], shift, turn_rad)
        begun = self._promote()
        return Sighting(column_site, self._sites.code[-1], begun)

    def propose(self, yx_nm: np.ndarray) -> Begun:
        """Look at places where no column was seen so far (k, 2), in the specimen's frame; `proposed` until some are."""
        places = Places(self.memory)
        places.append(yx_nm, np.full(len(yx_nm), _NEVER), self._views.missed(yx_nm, self.spacing_px))
        return self._begin(places, proposed=True)

    def learn(self, p_occupied: np.ndarray, observed: np.ndarray) -> None:
        """Take the smoothed P(occupied) (m,) of a frame, to know where a column ever is."""
        self._lives.learn(p_occupied, observed)

    def retire(self, frame: int) -> np.ndarray:
        """Let those rest at which hardly a column ever was; returns them, (k,) i8."""
        old = self._lives.idlers()
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
            self._lives.merge(older, younger)
            merged.append((older, younger))
        if merged:
            self._rest(frame, np.array([younger for _, younger in merged]))
        return merged

    def _rest(self, frame: int, rows: np.ndarray) -> None:
        self._lives.rest(rows, frame, self._views.before(self.yx_nm[rows], self.spacing_px))
        self._sites.code[:, rows] = UNOBSERVED
        self._changed()

    def _begin(self, places: Places, *, proposed: bool) -> Begun:
        """Look at these places from now on: wake the sites that are retired there, make new ones elsewhere."""
        code, before = places.code, self._views.before(places.yx_nm, self.spacing_px)
        if not len(places.yx_nm):
            return Begun(_NONE, code[:-1], before)
        resting = self._lives.resting
        woken = match(places.yx_nm, self.yx_nm[resting], _APART * self.spacing_nm)
        old, new = np.flatnonzero(woken >= 0), np.flatnonzero(woken < 0)
        rows = resting[woken[old]]
        before[old] -= self._lives.looked[rows]
        self._sites.replace(rows, places, old)
        self._lives.wake(rows, proposed=proposed)
        m = len(self)
        self._sites.take(places, new)
        self._lives.begin(len(new), proposed=proposed)
        self._changed()
        order = np.concatenate([old, new])
        site = np.concatenate([rows, np.arange(m, len(self))])
        history = code[1:] if proposed else code[:-1]  # a proposal comes before the frame is seen
        return Begun(site, history[:, order], np.maximum(before[order], 0.0))

    def _changed(self) -> None:
        rows = self.awake
        beside = neighbours(self.yx_nm[rows], _NEIGHBOUR * self.spacing_nm, _MOST_NEIGHBOURS)
        self.neighbours = np.full((len(self), _MOST_NEIGHBOURS), -1, np.int64)
        self.neighbours[rows] = np.append(rows, -1)[beside]
        self.version += 1

    def _measure_spacing(self, yx_nm: np.ndarray) -> None:
        """Take the spacing from these points, unless they are too few or no lattice (far off what was told)."""
        if len(yx_nm) >= _FEW:
            measured = spacing(yx_nm)
            if self._told_nm / _FACTOR < measured < self._told_nm * _FACTOR:
                self.spacing_nm = measured

    def _open(self, frame: int, yx_nm: np.ndarray, shift: np.ndarray, turn_rad: float) -> None:
        """Open candidates where there is room; what was in view before and not seen counts as missed."""
        free = self._views.show(yx_nm, self.spacing_px, shift, turn_rad)
        if not free.any():
            return
        free[free] = nearest(yx_nm[free], self.yx_nm[self.awake], _APART * self.spacing_nm)[0] < 0
        free[free] = self._candidates.elsewhere(yx_nm[free], self.spacing_nm)
        if not free.any():
            return
        yx_nm = yx_nm[free]
        history = self._views.missed(yx_nm, self.spacing_px)
        history[-1] = DETECTED
        self._candidates.append(yx_nm, np.full(len(yx_nm), frame), history)

    def _promote(self) -> Begun:
        """Make sites of the candidates seen often enough, forget those no longer seen."""
        places, apart_nm = self._candidates.ripen(), _APART * self.spacing_nm
        if len(places.yx_nm):
            places.keep(nearest(places.yx_nm, self.yx_nm[self.awake], apart_nm)[0] < 0)
            places.keep(~crowded(places.yx_nm, apart_nm))
        begun = self._begin(places, proposed=False)
        if len(begun.site):
            code = self._sites.code[:, self.awake]
            # columns found by chance lie between the others, and would make the spacing theirs
            mostly = np.count_nonzero(code == DETECTED, axis=0) > np.count_nonzero(code == MISSED, axis=0)
            self._measure_spacing(self.yx_nm[self.awake[mostly]])
            self._changed()
        return begun

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        state = {
            "scalars": np.array([self.spacing_nm, self.version]),
            "neighbours": self.neighbours.copy(),
        } | {f"views/{key}": value for key, value in self._views.state().items()}
        for name, rows in self._rows():
            state |= {f"{name}/{key}": getattr(rows, key).copy() for key in rows.FIELDS}
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of a SiteMap made with the same arguments."""
        self.spacing_nm, self.version = float(state["scalars"][0]), int(state["scalars"][1])
        self.neighbours = np.array(state["neighbours"])
        self._views.restore({key: state[f"views/{key}"] for key in ("last", "before", "step_px")})
        for name, rows in self._rows():
            for key in rows.FIELDS:
                setattr(rows, key, np.array(state[f"{name}/{key}"]))

    def _rows(self) -> tuple[tuple[str, Places | Lives], ...]:
        return ("sites", self._sites), ("candidates", self._candidates), ("lives", self._lives)
