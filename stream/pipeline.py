"""What happens to a frame, in order: its columns are found (on the CPU or a card), then followed. The only file that
knows it.

Live (stream.analyse) and in replay (stream.offline) the frames go through the same `Analysis`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stream.batching import BatchSize
from stream.clock import Clock, differ
from stream.columns import Columns
from stream.config import Settings, calibrated, calibration, contradictions, same_series
from stream.drift import Shift
from stream.find import Where
from stream.frame import Frame, Gap, SeriesHeader
from stream.hopping import Hop
from stream.infer import Found, own_pixel_size_nm, tracked_threshold
from stream.maps import SpecimenMap
from stream.picture import Picture
from stream.tally import Tally
from stream.tracking import Tracked, Tracker

log = logging.getLogger("hopscope.analyse")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was made of one frame.

    Attributes
    ----------
    frame, t_ns, recv_ns : its index, time by the detector's clock, and receipt (monotonic).
    columns : found in it, in its pixels.
    image : (ny', nx') f4, normalized, at the engine's sampling; on the CPU valid until the next fetch.
    tracked : sites, occupancy and events after it.
    stage_ms : time each stage took.
    """

    frame: int
    t_ns: int
    recv_ns: int
    columns: Columns
    image: np.ndarray
    tracked: Tracked
    stage_ms: dict[str, float]


@dataclass(slots=True)
class _Batch:
    """Frames under way, with the gaps between and after them, in order."""

    items: list[Frame | Gap]
    frames: int
    began_s: float
    fetched: bool = False


class Analysis:
    """The stages of one session, with what must be remembered between frames and series.

    Parameters
    ----------
    settings : of the site.
    where : columns are found, from `open_where`; it stays the caller's to close.

    Attributes
    ----------
    header : of the series, calibrated.
    tracker : of the series; None where it is not analysed.
    clock : of the series: whether its frames come at the period that the header says.
    warnings : what is to be told of the series' calibration, in sentences.
    """

    def __init__(self, settings: Settings, where: Where) -> None:
        self.settings, self.where = settings, where
        self.header: SeriesHeader | None = None
        self.tracker: Tracker | None = None
        self.clock = Clock(1.0)
        self.warnings: list[str] = []
        self._said: SeriesHeader | None = None  # the header, before the clock was asked
        self._under_way: deque[_Batch] = deque()
        self._size = BatchSize(settings.engine.latency_ms / 1e3, 1)
        self._tally = Tally()
        self._restored: dict[str, np.ndarray] | None = None

    def begin(self, header: SeriesHeader, period_s: float | None = None) -> None:
        """Make ready for a series; the same series again (acquire was restarted) goes on as it was.

        Parameters
        ----------
        period_s : by the frames' own time stamps, where they are known beforehand; it counts where it is another one
            than the header says.

        Raises
        ------
        CalibrationError
            If the pixel size or the frame period is known neither from the stream nor from site.toml.
        EngineMismatch
            If the engine cannot read frames of this sampling.
        """
        known = calibrated(header, self.settings.camera)
        same = self._said is not None and same_series(self._said, known)
        if same and self.tracker is not None:
            return
        if same and period_s is None:
            period_s = self.clock.period_s  # what the clock said of it holds on
        self.tracker = self._tally.next_index = None
        self.header = self._said = known
        self.warnings = contradictions(header, self.settings.camera)
        for text in self.warnings:
            log.warning("%s", text)
        pixel_size_nm = known.pixel_size_nm or 0.0
        own_nm = own_pixel_size_nm(self.where.manifest, pixel_size_nm, self.settings.camera.spacing_px)
        threshold = self.settings.engine.threshold or tracked_threshold(self.where.manifest)
        self.where.begin(known, own_nm or 0.0, threshold)
        self._size = BatchSize(self.settings.engine.latency_ms / 1e3, self.where.most)
        self._follow_anew(known)
        if period_s is not None and differ(period_s, known.frame_period_s or period_s):
            self._go_by(period_s)
        self._go_on_from_checkpoint()

    def go_by_clock(self) -> None:
        """Where the clock says another period than the header, follow the series anew from here on, by the clock.

        Raises
        ------
        ValueError
            If the clock says no other, or no series is followed.
        """
        if self.tracker is None or self.clock.other_s is None:
            raise ValueError("no other period to go by: expected a series whose clock says another")
        self._tally.add(self.tracker.finish())
        self._go_by(self.clock.other_s)

    def _go_by(self, period_s: float) -> None:
        """Follow the series anew by a period that is not the one said, and warn of it."""
        if self.header is None or self._said is None:
            raise ValueError("no series has begun: expected Analysis.begin before")
        told = (
            f"series {self._said.series_id}: expected {self._said.frame_period_s:.4g} s from frame to frame, as said, "
            f"got {period_s:.4g} s by the frames' own time stamps: going by these; correct frame_period_s where it is "
            "said"
        )
        self.warnings.append(told)
        log.warning("%s", told)
        self.header = replace(self.header, frame_period_s=period_s)
        self._follow_anew(self.header)

    def _follow_anew(self, header: SeriesHeader) -> None:
        pixel_size_nm, period_s = header.pixel_size_nm or 0.0, header.frame_period_s or 0.0
        self.clock = Clock(period_s)
        lag = self.settings.tracking.lag_frames
        self.tracker = Tracker(
            header.shape_yx, pixel_size_nm, period_s, lag=lag, bad_pixels=header.bad_pixels
        )

    @property
    def most(self) -> int:
        """Frames in the largest batch."""
        return self.where.most

    @property
    def room(self) -> bool:
        """Whether a batch may be started before one is fetched."""
        return self.where.room > 0

    @property
    def under_way(self) -> int:
        """Batches started and not fetched."""
        return len(self._under_way)

    def choose(self, recv_ns: np.ndarray) -> tuple[int, int]:
        """Of frames that wait, by when they were received, oldest first: how many to skip, and how many to take.

        The CPU takes the newest. A card takes as many as it can finish within the latency budget, and what waits
        on for its turn is not lost.
        """
        if not self.where.on_cards:
            return len(recv_ns) - 1, 1
        return self._size.choose(((time.monotonic_ns() - recv_ns) / 1e9).tolist())

    def start(self, items: Sequence[Frame | Gap]) -> None:
        """Begin with a batch of frames, `most` at the most, and the gaps between them; frames are released once
        they are seen. Where the series is not analysed they count as paused.

        Raises
        ------
        ValueError
            If there is no room.
        """
        if self.tracker is None:
            self._pause(items)
            return
        frames = [item for item in items if isinstance(item, Frame)]
        if frames:
            self.where.start(frames)
        if items:
            self._under_way.append(_Batch(list(items), len(frames), time.monotonic(), fetched=not frames))

    def fetch(self) -> Iterator[Seen | Gap]:
        """Follow the oldest batch: what was made of each frame, in order, with the gaps between. A frame that cannot be
        decoded, or whose time is not after the last one's, is a gap; one that was seen or given up already is counted
        and left alone."""
        if not self._under_way:
            raise ValueError("no batch is under way: start one before fetching")
        batch = self._under_way[0]
        found: Iterator[Found | None] = iter(())
        if not batch.fetched:
            batch.fetched, found = True, iter(self.where.fetch())
            self._size.learn(batch.frames, time.monotonic() - batch.began_s)
        while batch.items:
            item = batch.items.pop(0)
            if isinstance(item, Gap):
                self._tally.miss(item)
                yield item
                continue
            try:
                one = next(found)
                if not self._tally.due(item.index):
                    continue
                t_ns = self._time_ns(item)
                if one is None or t_ns is None:
                    gap = Gap(item.series_id, item.index, 1, "decode")
                    self._tally.miss(gap)
                    yield gap
                else:
                    yield self._follow(item, t_ns, one)
            finally:
                item.release()
        self._under_way.popleft()

    def _follow(self, frame: Frame, t_ns: int, found: Found) -> Seen:
        """Send one frame's columns down the rest of the pipeline."""
        if self.tracker is None or found.image is None:
            raise ValueError("columns without a series or a picture: expected begin, and pictures from cards")
        began_ns = time.perf_counter_ns()
        if frame.t_ns is not None:
            self.clock.see(frame.index, t_ns)
        columns, stride = found.columns, self.where.manifest.stride
        picture = Picture(found.image, self.where.zoom_yx, found.background, stride)
        tracked = self.tracker.update(frame.index, t_ns, columns.yx_px, columns.score, picture)
        sites = self.tracker.sites
        believed = int(np.count_nonzero(~sites.proposed[sites.awake]))
        self._tally.see(frame.index, len(columns.score), believed)
        self._tally.add(tracked.events)
        stage_ms = {**found.stage_ms, "track": (time.perf_counter_ns() - began_ns) / 1e6}
        return Seen(frame.index, t_ns, frame.recv_ns, columns, found.image, tracked, stage_ms)

    def look_again(self, frame: Frame, shift: Shift, site_yx_px: np.ndarray) -> np.ndarray:
        """Before `finish`, when nothing is under way: what one of the frames says of all sites, as
        `Tracker.look_again`.

        Raises
        ------
        WireError
            If its payload cannot be decoded.
        """
        if self.tracker is None:
            raise ValueError(f"frame {frame.index}: no series was followed that could be looked at again")
        picture = Picture(self.where.picture(frame), self.where.zoom_yx)
        return self.tracker.look_again(shift, picture, site_yx_px)

    def finish(self) -> list[Hop]:
        """End the series, of which nothing is under way: the events that were held back for confirmation."""
        held = self.tracker.finish() if self.tracker is not None else []
        self._tally.add(held)
        self.tracker = None
        return held

    def refuse(self) -> None:
        """Leave this series alone; its frames count as paused, those under way too."""
        self.tracker = None
        while self._under_way:
            batch = self._under_way.popleft()
            if not batch.fetched:
                self.where.fetch()
            self._pause(batch.items)

    def _pause(self, items: Sequence[Frame | Gap]) -> None:
        for item in items:
            if isinstance(item, Gap):
                self._tally.miss(item)
            else:
                self._tally.miss(Gap(item.series_id, item.index, 1, "paused"))
                item.release()

    def draw_maps(self) -> dict[str, SpecimenMap]:
        """Maps of the sites so far, by name; empty before the first site."""
        if self.tracker is None or not len(self.tracker.sites):
            return {}
        return self.tracker.maps()

    def report(self) -> dict[str, Any]:
        """Counters and gaps so far."""
        return self._tally.report()

    def state(self) -> dict[str, np.ndarray]:
        """The tracker's state with the series it belongs to, for a checkpoint."""
        if self.tracker is None or self._said is None or self._tally.next_index is None:
            return {}
        place = np.array([self._said.series_id, self._tally.next_index, *self._said.shape_yx], np.int64)
        mine = {
            "place": place,
            "calibration": calibration(self._said),
            "period_s": np.array(self.clock.period_s),
            "counted": np.array(self._tally.to_json()),
        }
        return mine | self.tracker.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a checkpoint: its counters now, its tracker when the same series is seen again."""
        if state:
            self._tally.restore(str(state["counted"]))
            self._restored = state

    def _go_on_from_checkpoint(self) -> None:
        state, self._restored = self._restored, None
        if state is None or self.header is None or self.tracker is None:
            return
        series_id, next_index, ny, nx = (int(v) for v in state["place"])
        same = (series_id, (ny, nx)) == (self.header.series_id, self.header.shape_yx)
        if same and np.array_equal(calibration(self.header), state["calibration"], equal_nan=True):
            mine = ("place", "calibration", "period_s", "counted")
            period_s = float(state["period_s"])
            if period_s != self.header.frame_period_s:
                self._go_by(period_s)
            self.tracker.restore({k: v for k, v in state.items() if k not in mine})
            self._tally.next_index = next_index

    def _time_ns(self, frame: Frame) -> int | None:
        """When it was taken, by the detector's clock; None if that is not after the last one."""
        period_s = self.header.frame_period_s if self.header else None
        t_ns = round(frame.index * (period_s or 0.0) * 1e9) if frame.t_ns is None else frame.t_ns
        try:
            if self.tracker is not None:
                self.tracker.occupancy.elapsed_s(frame.index, t_ns)
        except ValueError as error:
            log.warning("frame %d is left out: %s", frame.index, error)
            return None
        return t_ns
