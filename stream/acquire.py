"""acquire: the only client of the detector. Receives, hands on, records; waits for nobody but the disk.

While the disk is slow, ZeroMQ holds `camera.buffer_mib` of frames; what does not fit is a gap in the
detector's own numbers, and shows as one.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from stream.child import Orders, rss_mib
from stream.config import Settings
from stream.frame import Frame, Gap, Item, RecordingError, SeriesEnd, SeriesHeader
from stream.ingest import ZmqSource
from stream.record import Recorder
from stream.ring import RingWriter, Semaphore
from stream.ring_root import newest_header

DRAIN_S = 5.0  # how long after "stop" frames already on their way are still taken in


@dataclass
class Received:
    """What has come in so far."""

    frames: int = 0
    bytes: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)  # series -> (first, last) index
    in_series: bool = False
    series_ended: int = 0

    def count(self, item: Item) -> None:
        if isinstance(item, Frame):
            self.frames += 1
            self.bytes += len(item.payload)
            self._extend(item.series_id, item.index, item.index)
        elif isinstance(item, Gap):
            self.gaps[item.reason] += item.count
            self._extend(item.series_id, item.first, item.first + item.count - 1)
        else:
            self.in_series = isinstance(item, SeriesHeader)
            self.series_ended += not self.in_series

    def _extend(self, series_id: int, first: int, last: int) -> None:
        low, high = self.spans.get(series_id, (first, last))
        self.spans[series_id] = (min(low, first), max(high, last))


def acquire(
    connection: Connection, settings: Settings, ring: str, ready: Semaphore, freed: Semaphore
) -> None:
    """Run until told to stop; then take in what is still on its way, and close the recording."""
    orders = Orders(connection)
    if not orders.await_cue():
        return
    camera = settings.camera
    recorder = None
    if settings.record.enabled:
        try:
            recorder = Recorder(
                settings.record.directory,
                settings_toml=settings.to_toml(),
                min_free_mib=settings.record.min_free_mib,
            )
        except RecordingError as error:
            connection.send({"type": "refused", "text": str(error)})
            return
    source = ZmqSource(
        camera.endpoint,
        pattern=camera.pattern,
        dialect=camera.dialect,
        buffer_mib=camera.buffer_mib,
        idle_s=camera.idle_s,
    )
    former = newest_header(ring)
    writer = RingWriter(ring, ready, freed, budget_bytes=settings.ring.size_mib << 20)
    received = Received()

    def report() -> dict[str, Any]:
        return {
            "counters": {
                "received": received.frames,
                "recorded": recorder.frames_total if recorder else 0,
                "unrecorded": recorder.unrecorded if recorder else received.frames,
                "evicted": writer.evicted,
                "series_ended": received.series_ended,
            },
            "gaps": dict(received.gaps),
            "faults": {**source.faults, **({"oversized": writer.oversized} if writer.oversized else {})},
            "spans": received.spans,
            "bytes": received.bytes,
            "recording": {
                "path": str(recorder.path),
                "bytes": recorder.bytes_written,
                "frames": recorder.frames,
            }
            if recorder and recorder.path
            else None,
            "alarm": recorder.alarm if recorder else None,
            "rss_mib": rss_mib(),
        }

    with closing(source), closing(writer):
        orders.say_ready()
        deadline_s = float("inf")
        for item in source:
            if item is not None:
                if isinstance(item, SeriesHeader):
                    item = _recalled(item, former)
                received.count(item)
                writer.put(item)
                if recorder:
                    recorder.put(item)
                if isinstance(item, Frame):
                    item.release()
            elif recorder:
                recorder.tick()
            if orders.due(report) and deadline_s == float("inf"):
                deadline_s = time.monotonic() + DRAIN_S
            if orders.stopped and (item is None or time.monotonic() > deadline_s):
                break
        if received.in_series:
            end = SeriesEnd(max(received.spans, default=0))
            writer.put(end)
        if recorder:
            recorder.close()
    orders.say_done(report())


def _recalled(header: SeriesHeader, former: SeriesHeader | None) -> SeriesHeader:
    """What was known of a series before acquire was restarted: its start message is not sent again."""
    if former is None:
        return header
    same = (header.series_id, header.shape_yx, header.dtype) == (
        former.series_id,
        former.shape_yx,
        former.dtype,
    )
    return former if same and header.pixel_size_nm is None else header
