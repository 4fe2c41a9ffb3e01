"""analyse: leases the newest frame, sends it down the pipeline, and tells the page what was seen.

It may crash at any time: a new one restores the tracker's last checkpoint, and what was missed is a gap.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engines.manifest import EngineMismatch
from stream.checkpoint import load_checkpoint, save_checkpoint
from stream.child import Orders, rss_mib
from stream.config import Settings
from stream.device import DeviceError
from stream.find import open_where
from stream.frame import CalibrationError, Frame, Gap, Item, SeriesEnd, SeriesHeader
from stream.pipeline import Analysis, Seen
from stream.publish import ResultsPublisher
from stream.ring import RingReader, Semaphore
from stream.tell import frame_message, map_message, series_message
from stream.warm_up import warm_up

log = logging.getLogger("hopscope.analyse")

WAIT_S = 0.1
MAP_S = 1.0  # between two maps sent to the page


class LiveAnalysis:
    """The pipeline with a page at its end: feeds items in, sends messages out, keeps checkpoints."""

    def __init__(
        self,
        settings: Settings,
        analysis: Analysis,
        publisher: ResultsPublisher,
        checkpoint: Path,
        say_busy: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._analysis, self._publisher = settings, analysis, publisher
        self._checkpoint, self._say_busy = checkpoint, say_busy
        self._picture_due_s = self._map_due_s = 0.0
        self._checkpoint_due_s = time.monotonic() + settings.tracking.checkpoint_s
        self.alarm: str | None = None

    def take(self, items: list[Item]) -> None:
        """Items from the ring, in order; when there are none, what is still under way is finished."""
        batch: list[Frame | Gap] = []
        for item in items:
            if isinstance(item, Frame | Gap):
                batch.append(item)
                continue
            self._start(batch)
            batch = []
            self._finish()
            if isinstance(item, SeriesHeader):
                self._begin(item)
            else:
                self._send_maps()
                self._analysis.finish()
        self._start(batch)
        if not items:
            self._finish()

    def _start(self, batch: list[Frame | Gap]) -> None:
        """Begin with a batch; the oldest is seen when there is no room for another."""
        self._analysis.start(batch)
        while not self._analysis.room:
            self._see()

    def _finish(self) -> None:
        while self._analysis.under_way:
            self._see()

    def _begin(self, header: SeriesHeader) -> None:
        if self._analysis.where.on_cards:  # kernels are chosen for a shape that was not seen before
            self._say_busy()
        try:
            self._analysis.begin(header)
        except (CalibrationError, EngineMismatch) as error:
            self._refuse(error)
            return
        self.alarm = None
        self._publisher.send(series_message(self._analysis))

    def _see(self) -> None:
        try:
            for seen in self._analysis.fetch():
                if isinstance(seen, Seen):
                    self._tell(seen)
        except CalibrationError as error:
            self._refuse(error)
        if self._analysis.tracker is not None and self._analysis.clock.other_s is not None:
            self._analysis.go_by_clock()
            self._publisher.send(series_message(self._analysis))

    def _tell(self, seen: Seen) -> None:
        now = time.monotonic()
        with_picture = now >= self._picture_due_s
        if with_picture:  # a little early rather than a frame late
            self._picture_due_s = now + 0.8 / self._settings.page.max_fps
        self._publisher.send(frame_message(self._analysis, seen, with_picture=with_picture))
        if now >= self._map_due_s:
            self._map_due_s = now + MAP_S
            self._send_maps()
        if now >= self._checkpoint_due_s:
            self._checkpoint_due_s = now + self._settings.tracking.checkpoint_s
            save_checkpoint(self._checkpoint, self._analysis.state())

    def _send_maps(self) -> None:
        for name, drawn in self._analysis.draw_maps().items():
            self._publisher.send(map_message(name, drawn))

    def _refuse(self, error: Exception) -> None:
        """Recording goes on; the analysis waits for a series it can read, and says why."""
        self.alarm = str(error)
        log.error("this series is not analysed: %s", error)
        self._analysis.refuse()


def analyse(
    connection: Connection,
    settings: Settings,
    ring: str,
    ready: Semaphore,
    freed: Semaphore,
    results_endpoint: str,
    checkpoint: Path,
) -> None:
    """Run until told to stop; then see what is left in the ring, and end.

    Raises
    ------
    DeviceError, EngineMismatch
        If a card fails later: it is told to the operator, and who is started next takes over on the same card.
    """
    orders = Orders(connection)
    try:
        where = open_where(settings.engine)
    except (DeviceError, EngineMismatch, ImportError, OSError) as error:
        orders.say_refused(str(error))
        return
    with closing(where):
        try:
            analysis = Analysis(settings, where)
            warm_up(where, settings.tracking.lag_frames)
            if orders.await_cue():
                _run(orders, settings, analysis, ring, ready, freed, results_endpoint, checkpoint)
        except (DeviceError, EngineMismatch) as error:
            orders.say_refused(str(error))
            raise


def _run(
    orders: Orders,
    settings: Settings,
    analysis: Analysis,
    ring: str,
    ready: Semaphore,
    freed: Semaphore,
    results_endpoint: str,
    checkpoint: Path,
) -> None:
    with (
        closing(ResultsPublisher(results_endpoint)) as publisher,
        closing(RingReader(ring, ready, freed)) as reader,
    ):
        state = load_checkpoint(checkpoint)
        if state is not None:
            analysis.restore(state)
        live = LiveAnalysis(settings, analysis, publisher, checkpoint, orders.say_busy)

        def report() -> dict[str, Any]:
            told = {"alarm": live.alarm, "warnings": analysis.warnings, "rss_mib": rss_mib()}
            return {**analysis.report(), **told}

        orders.say_ready(
            device=analysis.where.device, runs_on=analysis.where.runs_on, reason=analysis.where.reason
        )
        while True:
            items = reader.take(0 if analysis.under_way else WAIT_S, analysis.choose)
            live.take(items)
            publisher.welcome()
            if orders.due(report) and not items:
                break
        live.take([SeriesEnd(0)])
    orders.say_done(report())
