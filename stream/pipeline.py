"""What happens to a frame, in order: decode, find columns, follow them. The only file that knows it.

Live (stream.analyse) and in replay (stream.offline) the frames go through the same `Analysis`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engines.runtime import Engine
from stream.appearance import Picture
from stream.columns import Columns
from stream.config import Settings
from stream.frame import CalibrationError, Frame, Gap, SeriesHeader
from stream.hopping import Hop
from stream.infer import ColumnFinder, own_pixel_size_nm
from stream.maps import SpecimenMap
from stream.tracking import Tracked, Tracker

WARM_UP_SHAPE_YX = (512, 512)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was made of one frame.

    Attributes
    ----------
    frame, t_ns, recv_ns : its index, time by the detector's clock, and receipt (monotonic).
    columns : found in it, in its pixels.
    image : (ny', nx') f4, normalized, at the engine's sampling.
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


class Analysis:
    """The stages of one session, with what must be remembered between frames and series."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.header: SeriesHeader | None = None
        self.tracker: Tracker | None = None
        self.events: list[Hop] = []  # settled since the last look, by `see` or `finish`
        self._finder: ColumnFinder | None = None
        self._next_index: int | None = None
        self._restored: dict[str, np.ndarray] | None = None
        self._counters: Counter[str] = Counter(analysed=0, columns=0, sites=0, events=0, hops=0)
        self._gaps: Counter[str] = Counter()

    def begin(self, header: SeriesHeader) -> None:
        """Make ready for a series; the same series again (acquire was restarted) goes on as it was.

        Raises
        ------
        CalibrationError
            If the pixel size or the frame period is known neither from the stream nor from site.toml.
        EngineMismatch
            If the engine cannot read frames of this sampling.
        """
        before = self.header
        known = calibrated(header, self.settings)
        if before is not None and self.tracker is not None and _same_series(before, known):
            return
        self.tracker = self._finder = self._next_index = None
        self.header = known
        pixel_size_nm, period_s = known.pixel_size_nm or 0.0, known.frame_period_s or 0.0
        threshold = self.settings.engine.threshold
        own_nm = own_pixel_size_nm(self.engine.manifest, pixel_size_nm, self.settings.camera.spacing_px)
        self._finder = ColumnFinder(self.engine, known.shape_yx, own_nm or 0.0, threshold)
        self.tracker = Tracker(known.shape_yx, pixel_size_nm, period_s, lag=self.settings.tracking.lag_frames)
        self._go_on_from_checkpoint()

    def see(self, frame: Frame) -> Seen | None:
        """Send one frame down the pipeline; None if its series is not analysed.

        Raises
        ------
        WireError
            If its payload cannot be decoded; nothing is changed then.
        """
        if self._finder is None or self.tracker is None or self.header is None:
            self.miss(Gap(frame.series_id, frame.index, 1, "paused"))
            return None
        started_ns = time.perf_counter_ns()
        counts = frame.counts
        decoded_ns = time.perf_counter_ns()
        columns, image = self._finder.find(counts, self.header.bad_pixels)
        found_ns = time.perf_counter_ns()
        self._expect(frame.index)
        t_ns = self._time_ns(frame)
        picture = Picture(image, self._finder.zoom_yx)
        tracked = self.tracker.update(frame.index, t_ns, columns.yx_px, columns.score, picture)
        tracked_ns = time.perf_counter_ns()
        self._next_index = frame.index + 1
        self._count(tracked.events)
        self._counters["analysed"] += 1
        self._counters["columns"] = len(columns.score)
        self._counters["sites"] = int(np.count_nonzero(~self.tracker.sites.proposed))
        stage_ms = {name: ns / 1e6 for name, ns in self._finder.stage_ns.items()}
        stage_ms |= {"decode": (decoded_ns - started_ns) / 1e6, "track": (tracked_ns - found_ns) / 1e6}
        return Seen(frame.index, t_ns, frame.recv_ns, columns, image, tracked, stage_ms)

    def miss(self, gap: Gap) -> None:
        """Note frames that were not seen; the tracker knows from the next frame's time how long it was.

        After a restart a gap may reach back over frames that the checkpoint remembers: those do not count.
        """
        self._expect(gap.first)
        end = gap.first + gap.count
        first = gap.first if self._next_index is None else max(gap.first, self._next_index)
        self._gaps[gap.reason] += max(end - first, 0)
        self._next_index = max(end, first)

    def finish(self) -> list[Hop]:
        """End the series: the events that were held back for confirmation."""
        held = self.tracker.finish() if self.tracker is not None else []
        self._count(held)
        self.tracker = self._finder = None
        return held

    def refuse(self) -> None:
        """Leave this series alone; its frames count as paused."""
        self.tracker = self._finder = None

    def draw_maps(self) -> dict[str, SpecimenMap]:
        """Maps of events and occurrence so far; empty before the first site."""
        if self.tracker is None or not len(self.tracker.sites):
            return {}
        return self.tracker.maps()

    def report(self) -> dict[str, Any]:
        """Counters and gaps so far."""
        return {"counters": dict(self._counters), "gaps": dict(self._gaps)}

    def warm_up(self) -> None:
        """Compile and load everything a first frame would have to wait for."""
        nominal_nm = self.engine.manifest.nominal_nm_px
        finder = ColumnFinder(self.engine, WARM_UP_SHAPE_YX, nominal_nm)
        noise = np.random.default_rng(0).poisson(10, WARM_UP_SHAPE_YX).astype(np.uint16)
        lattice = 14.0 * np.argwhere(np.ones((30, 30)))
        tracker = Tracker(WARM_UP_SHAPE_YX, nominal_nm, 1.0)
        for index in range(4 * self.settings.tracking.lag_frames):
            _, image = finder.find(noise)
            there = np.delete(lattice, index // 10, axis=0)  # one after the other comes and goes
            leap_px = 5.0 * (index >= 2 * self.settings.tracking.lag_frames)
            tracker.update(index, index * 10**9, there + leap_px, None, Picture(image))
        tracker.finish()
        tracker.maps()

    def state(self) -> dict[str, np.ndarray]:
        """The tracker's state with the series it belongs to, for a checkpoint."""
        if self.tracker is None or self.header is None or self._next_index is None:
            return {}
        place = np.array([self.header.series_id, self._next_index, *self.header.shape_yx], np.int64)
        counted = np.array(json.dumps([self._counters, self._gaps]))
        return {"place": place, "counted": counted, **self.tracker.state()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a checkpoint: its counters now, its tracker when the same series is seen again."""
        if state:
            counters, gaps = json.loads(str(state["counted"]))
            self._counters, self._gaps = Counter(counters), Counter(gaps)
            self._restored = state

    def _go_on_from_checkpoint(self) -> None:
        state, self._restored = self._restored, None
        if state is None or self.header is None or self.tracker is None:
            return
        series_id, next_index, ny, nx = (int(v) for v in state["place"])
        if series_id == self.header.series_id and (ny, nx) == self.header.shape_yx:
            self.tracker.restore({k: v for k, v in state.items() if k not in ("place", "counted")})
            self._next_index = next_index

    def _expect(self, index: int) -> None:
        """Frames between the last one and this that nobody accounted for were lost in a restart."""
        if self._next_index is not None and index > self._next_index:
            self._gaps["restart"] += index - self._next_index

    def _time_ns(self, frame: Frame) -> int:
        if frame.t_ns is not None:
            return frame.t_ns
        period_s = self.header.frame_period_s if self.header else None
        return round(frame.index * (period_s or 0.0) * 1e9)

    def _count(self, events: list[Hop]) -> None:
        self._counters["events"] += len(events)
        self._counters["hops"] += sum(event.kind == "hop" for event in events)


def calibrated(header: SeriesHeader, settings: Settings) -> SeriesHeader:
    """The header with what the stream did not say filled in from site.toml.

    Raises
    ------
    CalibrationError
        If pixel size or frame period are known from neither.
    """
    camera = settings.camera
    site_nm = None if isinstance(camera.pixel_size_nm, str) else camera.pixel_size_nm
    pixel_size_nm = site_nm or header.pixel_size_nm
    period_s = header.frame_period_s or camera.frame_period_s
    for name, value in (("pixel_size_nm", pixel_size_nm), ("frame_period_s", period_s)):
        if value is None:
            raise CalibrationError(
                f"series {header.series_id} cannot be analysed: expected camera.{name} in site.toml or "
                f"{name} in the stream, got neither; set it under [camera] in site.toml"
            )
    dose = header.dose_rate_e_nm2_s or camera.dose_rate_e_nm2_s
    return replace(header, pixel_size_nm=pixel_size_nm, frame_period_s=period_s, dose_rate_e_nm2_s=dose)


def _same_series(a: SeriesHeader, b: SeriesHeader) -> bool:
    return (a.series_id, a.shape_yx, a.pixel_size_nm) == (b.series_id, b.shape_yx, b.pixel_size_nm)
