"""From columns to events, frame by frame: drift, sites, occupancy, hopping in their order.

Live, in replay and in tests the order is this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream.appearance import Appearance
from stream.drift import SEVERAL, Drift, Shift
from stream.emission import Emission
from stream.hopping import Hop, Hopping
from stream.lattice import empty_places
from stream.maps import SpecimenMap, site_maps
from stream.occupancy import Occupancy, OccupancyFilter
from stream.picture import Picture
from stream.places import DETECTED, UNOBSERVED, Begun
from stream.reading import Reading
from stream.site_rows import site_rows
from stream.sites import SiteMap

_MEMORY = 10  # frames of which candidates keep what was seen
_PROPOSE_EVERY = 20, 100  # frames: a tenth of all so far, within these
_KNOWN_LOOKS = 1.0  # told: from there a picture is a better witness than whether a column was found
_SURELY = 0.9  # occupied: columns whose lattice is continued
_TIDY_EVERY = 100  # frames: sites are retired and merged
_CREPT = 0.1  # of the spacing: more than a position is uncertain
_ONE_PLACE = 0.75  # of the spacing: a hop over less is none if the two sites turn out to be one


@dataclass(frozen=True, slots=True)
class Past:
    """What the past says of sites that nobody looked at so far.

    Attributes
    ----------
    site : (b,) i8.
    log_ratio : (k, b) f8, their evidence in the k frames before this one, oldest first; NaN where not observed.
    empty_frames : (b,) f8, how many frames before those had the place in view, and nothing there.
    """

    site: np.ndarray
    log_ratio: np.ndarray
    empty_frames: np.ndarray


_NOTHING_NEW = Past(np.empty(0, np.int64), np.empty((0, 0)), np.empty(0))


@dataclass(frozen=True, slots=True)
class Tracked:
    """What is known after one frame.

    Attributes
    ----------
    shift : where the specimen is.
    column_site : (n,) i8, the site of each column, or -1.
    site_yx_px : (m, 2) f8, the sites in this frame's pixels.
    occupancy : of the sites, given the frames so far.
    evidence : (m,) f8, log P(this frame | occupied) / P(this frame | empty) of each site; 0 where not observed.
    observed : (m,) bool.
    begun : what the past says of sites that are new, or looked at again.
    detected : (m,) bool, a column was found at the site in this frame.
    followed : (m,) bool, False for sites that were retired: nobody looks there.
    proposed : (m,) bool, sites that are there because the lattice goes on; no column was seen there yet.
    flipped : (m,) bool, raw flips: detected now and not when last observed, or the reverse.
    events : settled by this frame; they happened some frames ago.
    """

    shift: Shift
    column_site: np.ndarray
    site_yx_px: np.ndarray
    occupancy: Occupancy
    evidence: np.ndarray
    observed: np.ndarray
    begun: list[Past]
    detected: np.ndarray
    followed: np.ndarray
    proposed: np.ndarray
    flipped: np.ndarray
    events: list[Hop]


class Tracker:
    """Follows the columns of one series.

    Parameters
    ----------
    shape_yx : of the frames.
    pixel_size_nm : at the specimen.
    frame_period_s : from frame to frame; what one observed frame stands for.
    spacing_nm : between neighbouring columns, within a factor of 3; measured once there are 8.
    lag : frames that the smoother looks ahead.
    rate_hz : switches per second of a site to begin with; by default one in 50 frames.
    emission : what detections are worth to begin with.
    birth_score : a column of a lower score counts at known places, but makes no new one.
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed: sites behind them are not observed.

    Attributes
    ----------
    drift, sites, emission, reading, appearance, occupancy, hopping : the stages, to be read.
    """

    def __init__(
        self,
        shape_yx: tuple[int, int],
        pixel_size_nm: float,
        frame_period_s: float,
        *,
        spacing_nm: float = 0.25,
        lag: int = 10,
        rate_hz: float | None = None,
        emission: Emission | None = None,
        birth_score: float = 0.0,
        bad_pixels: np.ndarray | None = None,
    ) -> None:
        self.drift = Drift(shape_yx)
        memory = max(lag + 2, _MEMORY)
        self.sites = SiteMap(
            shape_yx, pixel_size_nm, spacing_nm, birth_score=birth_score, memory=memory, bad_pixels=bad_pixels
        )
        self.emission = Emission() if emission is None else emission
        self.reading = Reading(lag)
        self.appearance = Appearance(lag)
        self.occupancy = OccupancyFilter(frame_period_s, lag=lag, rate_hz=rate_hz)
        self.hopping = Hopping(frame_period_s)
        self._next_proposal = self._next_tidy = 0
        self._exchanged: dict[tuple[int, int], int] = {}  # hops between sites that lie too near each other

    def update(
        self,
        frame: int,
        t_ns: int,
        yx_px: np.ndarray,
        score: np.ndarray | None = None,
        picture: Picture | None = None,
    ) -> Tracked:
        """Take the columns of the next frame.

        Parameters
        ----------
        frame, t_ns : index and time by the detector's clock. Frames that were not seen are left
            out: the time that passed is known from `t_ns`.
        yx_px : (n, 2), positions of the columns.
        score : (n,), their scores; needed where `birth_score` is used.
        picture : that they were found in: evidence of sites that are known already. Without it, whether a column
            was found at a site is all the evidence there is.

        Raises
        ------
        ValueError
            For a frame out of order, or positions that are not finite; nothing is changed then.
        """
        yx_px = np.asarray(yx_px, np.float64).reshape(-1, 2)
        score = np.ones(len(yx_px)) if score is None else np.asarray(score)
        if score.shape != (len(yx_px),) or not np.isfinite(yx_px).all() or not np.isfinite(score).all():
            raise ValueError(
                f"frame {frame}: expected a finite score for each of {len(yx_px)} finite positions, got scores of "
                f"shape {score.shape} and values that are not finite; leave such columns out"
            )
        self.occupancy.elapsed_s(frame, t_ns)  # refuses what is out of order

        reference_nm, occupied, trusted = self._reference()
        pixel_nm = self.sites.pixel_size_nm
        shift = self.drift.update(yx_px, reference_nm / pixel_nm, self.sites.spacing_px)
        blank = not len(yx_px) and occupied >= SEVERAL
        lost = shift.lost and (trusted or blank)
        begun = []
        if trusted and not lost:
            self._tidy(frame)
            begun.append(self._propose(frame))
        sighting = self.sites.update(
            frame, shift.upright(yx_px), score, shift.yx_px, turn_rad=shift.turn_rad, lost=lost
        )

        begun.append(self._take_up(sighting.begun))
        site_yx_px = shift.to_frame_px(self.sites.yx_nm / pixel_nm)
        observed = sighting.code != UNOBSERVED
        evidence = self._evidence(sighting.code, picture, site_yx_px, observed)
        neighbours = self.sites.neighbours
        smoothed = self.occupancy.update(frame, t_ns, evidence, observed, neighbours)
        flipped = self.hopping.see(sighting.code)
        events: list[Hop] = []
        if smoothed is not None:
            events = self.hopping.update(smoothed, neighbours)
            self._note_exchanges(events)
            self.sites.learn(smoothed.p_occupied, smoothed.observed)
            self.emission.learn(self.sites.code_before(self.occupancy.lag), smoothed.p_occupied)
            self.reading.learn(smoothed.p_occupied)
            self.appearance.learn(smoothed.p_occupied)
        return Tracked(
            shift,
            sighting.column_site,
            site_yx_px,
            self.occupancy.snapshot(),
            evidence,
            observed,
            begun,
            sighting.code == DETECTED,
            self.sites.retired_frame < 0,
            self.sites.proposed.copy(),
            flipped,
            events,
        )

    def _evidence(
        self, code: np.ndarray, picture: Picture | None, site_yx_px: np.ndarray, observed: np.ndarray
    ) -> np.ndarray:
        """(m,) f8, log ratios by the best witness: a site's picture, where it is known how the site looks; else the
        network's map; where there is neither, whether a column was found (m,)."""
        spacing_px = self.sites.spacing_px
        if picture is None or picture.background is None:
            self.reading.skip()
            evidence = self.emission.log_ratio(code)
        else:
            evidence = self.reading.log_ratio(picture, site_yx_px, observed, spacing_px)
        if picture is None:
            self.appearance.skip()
            return evidence
        ratio, told = self.appearance.log_ratio(picture, site_yx_px, observed, spacing_px)
        # not against the worth of the map's levels: so many of them are flattered by what they made believe
        return np.where(told > self.emission.told, ratio, evidence)

    def finish(self) -> list[Hop]:
        """The series is over: the events that were held back, in order of time."""
        neighbours = self.sites.neighbours
        held = self.occupancy.finish(neighbours)
        events = [event for smoothed in held for event in self.hopping.update(smoothed, neighbours)]
        return events + self.hopping.finish(neighbours)

    def look_again(self, shift: Shift, picture: Picture, site_yx_px: np.ndarray | None = None) -> np.ndarray:
        """After `finish`: what a picture says of all sites, now that their looks are known.

        Parameters
        ----------
        shift, picture : of one of the frames, as they were then.
        site_yx_px : (k, 2), where the first k sites were then, in the specimen's pixels; NaN where that is not known.
            Those that crept since are looked for there, the others where they are now, which is known better.

        Returns
        -------
        (m,) f8, log P(picture | occupied) / P(picture | empty), NaN where the site is out of view, is another one
        after all, or looks like none; inf where its looks never became known, or nobody looks there any more.
        """
        sites = self.sites
        observed = sites.in_view(shift.yx_px, shift.turn_rad) & (not shift.lost)
        at_px = sites.yx_nm / sites.pixel_size_nm
        if site_yx_px is not None:
            now = at_px[: len(site_yx_px)]
            crept = np.hypot(*(site_yx_px - now).T) > _CREPT * sites.spacing_px
            now[crept] = site_yx_px[crept]
        at_px = shift.to_frame_px(at_px)
        ratio, told = self.appearance.log_ratio(picture, at_px, observed, sites.spacing_px)
        as_it_was = (told < _KNOWN_LOOKS) | (sites.retired_frame >= 0)
        ratio = np.where(as_it_was, np.inf, np.where(observed, ratio, np.nan))
        return np.where((sites.merged_into >= 0) | self.appearance.strange, np.nan, ratio)

    def maps(self, nm_per_px: float | None = None) -> dict[str, SpecimenMap]:
        """Occurrence, raw events, events, rate and residence so far, as in a result file."""
        rows = site_rows(self.sites, self.occupancy.snapshot(), self.hopping, self.hopping.raw_flips)
        maps = site_maps(rows, self.sites.spacing_nm, nm_per_px)
        return {name: drawn for name, (drawn, _) in maps.items()}

    def _propose(self, frame: int) -> Past:
        """Follow the empty places of the lattice beside the columns as well: a column may come."""
        if frame < self._next_proposal:
            return _NOTHING_NEW
        self._next_proposal = frame + int(np.clip(frame // 10, *_PROPOSE_EVERY))
        sites = self.sites
        surely = (self.occupancy.p_occupied > _SURELY) & ~sites.proposed
        known = np.concatenate([sites.yx_nm[sites.awake], sites.candidates_yx_nm, sites.resting_yx_nm(frame)])
        places = empty_places(sites.yx_nm[surely], known, sites.spacing_nm)
        return self._take_up(sites.propose(places))

    def _tidy(self, frame: int) -> None:
        """Make one of sites in one place, and let those rest at which nothing ever is."""
        if frame < self._next_tidy:
            return
        self._next_tidy = frame + _TIDY_EVERY
        for older, younger in self.sites.merge(frame):
            exchanged = self._exchanged.pop((older, younger), 0)
            self.emission.merge(older, younger)
            self.reading.emission.merge(older, younger)
            self.appearance.forget(np.array([older, younger]))
            self.occupancy.merge(older, younger, exchanged)
            self.hopping.merge(older, younger, exchanged)
        self.occupancy.rest(self.sites.retire(frame))

    def _note_exchanges(self, events: list[Hop]) -> None:
        """Remember hops over less than from one column to the next."""
        near = _ONE_PLACE * self.sites.spacing_nm
        for event in events:
            if event.kind == "hop":
                a, b = sorted((event.from_site, event.to_site))
                if np.hypot(*(self.sites.yx_nm[a] - self.sites.yx_nm[b])) < near:
                    self._exchanged[a, b] = self._exchanged.get((a, b), 0) + 1

    def _take_up(self, begun: Begun) -> Past:
        """Take new and woken sites into all other stages, with what was seen of them before."""
        if not len(begun.site):
            return _NOTHING_NEW
        known = len(self.occupancy)
        woken, new = begun.site < known, begun.site >= known
        for stage in (self.emission, self.reading, self.appearance):
            stage.forget(begun.site[woken])
            stage.add(int(np.count_nonzero(new)))
        ratio, seen = self.emission.log_ratio(begun.history, begun.site), begun.history != UNOBSERVED
        self.occupancy.begin(begun.site[woken], ratio[:, woken], seen[:, woken], begun.empty_frames[woken])
        self.occupancy.add(ratio[:, new], seen[:, new], begun.empty_frames[new])
        return Past(begun.site, np.where(seen, ratio, np.nan), begun.empty_frames)

    def _reference(self) -> tuple[np.ndarray, int, bool]:
        """Where columns are expected (k, 2) in nm, of how many that is sure, and whether not to find them means being
        lost.

        While most places are mere candidates, they count as well.
        """
        occupied = self.sites.yx_nm[self.occupancy.p_occupied > 0.5]
        candidates = self.sites.candidates_yx_nm
        if len(occupied) >= max(self.drift.least, len(candidates)):
            return occupied, len(occupied), True
        return np.concatenate([occupied, candidates]), len(occupied), False

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs to go on after a crash, as copies; names are "stage/array"."""
        exchanged = [(*pair, count) for pair, count in self._exchanged.items()]
        mine = {
            "next": np.array([self._next_proposal, self._next_tidy]),
            "exchanged": np.array(exchanged, np.int64).reshape(-1, 3),
        }
        return mine | {
            f"{stage}/{key}": value
            for stage in _STAGES
            for key, value in getattr(self, stage).state().items()
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of a Tracker made with the same arguments."""
        self._next_proposal, self._next_tidy = state["next"].tolist()
        self._exchanged = {(a, b): count for a, b, count in state["exchanged"].tolist()}
        for stage in _STAGES:
            mine = {k.removeprefix(f"{stage}/"): v for k, v in state.items() if k.startswith(f"{stage}/")}
            getattr(self, stage).restore(mine)


_STAGES = ("drift", "sites", "emission", "reading", "appearance", "occupancy", "hopping")
