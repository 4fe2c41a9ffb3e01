"""The processes of a live session, their supervision and restart.

acquire, analyse and serve (and, in a demo, a simulated detector) run apart, so that none takes another
down. The supervisor asks each for its figures, restarts whoever dies, and tells the page what happened.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from stream.acquire import acquire
from stream.analyse import analyse
from stream.config import Settings
from stream.crashsafe import repair
from stream.one_process import STOP_S, Child
from stream.overlay.server import serve
from stream.ring_root import create_root, remove
from stream.summary import Session

log = logging.getLogger("hopscope")

ASK_S = 0.2  # between two questions to a child
SILENT_S = 10.0  # an analysis that has not answered for so long is hung, and is restarted
START_S = 300.0  # the very first start compiles the numerical kernels
BUSY_S = 120.0  # and one that said it would be busy
REHEARSE_S = 2.0  # a new understudy is not loaded while its principal is
CALM_S = 10.0  # a child that dies twice within this time is restarted more slowly


class Refused(Exception):
    """A session cannot run as it is set up; the message says what to change."""


class Supervisor:
    """Starts the processes, keeps them running, and sums up what they did.

    Parameters
    ----------
    settings : of the site.
    detector : for a demo, the entry function of a simulated detector and its arguments; it starts when
        everybody else is ready, as a camera is armed when its receivers are connected.

    Raises
    ------
    Refused
        From `start`, where a process says that it cannot work with these settings.
    """

    def __init__(
        self, settings: Settings, detector: tuple[Callable[..., None], tuple[Any, ...]] | None = None
    ) -> None:
        # the network has the cores; small matrix products elsewhere must not contend for them
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self._context = multiprocessing.get_context("spawn")
        self._scratch = Path(tempfile.mkdtemp(prefix="hopscope-"))
        base = f"hs{secrets.token_hex(4)}"
        self._root = create_root(base)
        ready, freed = self._context.Semaphore(0), self._context.Semaphore(0)
        results = f"tcp://127.0.0.1:{free_port()}"
        ring = (settings, base, ready, freed)
        self.acquire = Child("acquire", acquire, ring, rehearsed=True)
        tracked = (*ring, results, self._scratch / "checkpoint.npz")
        self.analyse = Child("analyse", analyse, tracked, rehearsed=True)
        self.serve = Child("serve", serve_page, (settings, results))
        self.detector = Child("detector", *detector) if detector else None
        self.session = Session()
        self._next_ask_s = 0.0
        self._stopping = False

    @property
    def children(self) -> list[Child]:
        return [c for c in (self.detector, self.acquire, self.analyse, self.serve) if c]

    @property
    def url(self) -> str | None:
        """Where the page is."""
        return self.serve.facts.get("url")

    def start(self) -> None:
        """Start everything; returns when frames can come. The camera is not called before the analysis has proved
        that its engine runs where it shall."""
        receivers = (self.acquire, self.analyse, self.serve)
        for child in receivers:
            child.start(self._context, cue=child is not self.acquire)
        called = False
        deadline_s = time.monotonic() + START_S
        while not all(c.ready for c in receivers):
            if self.analyse.ready and not called:
                self.acquire.go()
                called = True
            self.tick(0.05)
            for child in receivers:
                if not child.alive and not child.ready:
                    self._hear_all(child)  # its last words say it better
                    raise Refused(f"{child.name} ended before it was ready; its log above says why")
            if time.monotonic() > deadline_s:
                slow = ", ".join(c.name for c in receivers if not c.ready)
                raise Refused(
                    f"{slow} was not ready within {START_S:.0f} s; is the machine out of memory, or does a card wait "
                    "for its plan? hopscope build-engine makes that before a session"
                )
        if self.detector:
            self.detector.start(self._context)
        self.session.begin()

    def tick(self, timeout_s: float) -> None:
        """Hear what there is to hear within `timeout_s`, restart the dead, keep the page informed."""
        handles: list[Any] = []
        for child in self.children:
            if child.process is not None and child.alive:
                handles += [child.connection, child.process.sentinel]
        wait(handles, timeout_s)
        now = time.monotonic()
        for child in self.children:
            self._hear_all(child)
            if child.process is not None and not self._stopping:
                self._look_after(child, now)
        if now >= self._next_ask_s:
            self._next_ask_s = now + ASK_S
            for child in self.children:
                if child.ready and not child.asked and child is not self.serve:
                    child.asked = True
                    child.say({"type": "report"})
            self.serve.say(self.status())

    def status(self) -> dict[str, Any]:
        """What the page shows beside the picture; a process that was not started yet is neither alive nor dead."""
        processes = {
            c.name: {
                "pid": c.process.pid if c.process else None,
                "alive": c.alive if c.process else None,
                "restarts": c.restarts,
            }
            for c in self.children
        }
        device = {key: self.analyse.facts.get(key) for key in ("device", "runs_on", "reason")}
        return {"type": "status", "processes": processes, "analysis": device, **self.session.status()}

    @property
    def finished(self) -> bool:
        """Whether the simulated detector has sent all it had to send."""
        return self.detector is not None and self.detector.process is not None and not self.detector.alive

    def stop(self) -> dict[str, Any]:
        """End in the order of the beam, so that what was sent is still received, recorded and seen."""
        if self._stopping:
            return self.session.summary()
        self.session.end()
        self._stopping = True
        for child in self.children:
            child.dismiss()
        for child in self.children:
            self._stop(child)
        shutil.rmtree(self._scratch, ignore_errors=True)
        remove(self._root)
        return self.session.summary()

    def _stop(self, child: Child) -> None:
        child.say({"type": "stop"})
        deadline_s = time.monotonic() + STOP_S
        while child.alive and time.monotonic() < deadline_s:
            self.tick(0.05)
        self._hear_all(child)
        if child.process is not None and child.alive:
            self.session.alarm("error", f"{child.name} did not end within {STOP_S:.0f} s and was killed")
            child.process.kill()
            child.process.join()

    def _hear_all(self, child: Child) -> None:
        for message in child.messages():
            self._hear(child, message)

    def _hear(self, child: Child, message: dict[str, Any]) -> None:
        kind = message.pop("type")
        child.busy = kind == "busy"
        if kind == "refused":
            if not self.session.running and not self._stopping:
                raise Refused(message["text"])
            self.session.alarm("error", f"{child.name}: {message['text']}")
        elif kind in ("ready", "serving"):
            child.ready = True
            child.facts.update(message)
            if child is self.analyse:
                self._settle(message["device"])
        elif kind != "busy":
            child.asked = False
            self.session.hear(child.name, message)

    def _settle(self, device: str) -> None:
        """Whoever takes the analysis over runs where it began: what "auto" found is not asked again."""
        settings, *rest = self.analyse.arguments
        engine = settings.engine.model_copy(update={"device": device})
        self.analyse.arguments = (settings.model_copy(update={"engine": engine}), *rest)

    def _look_after(self, child: Child, now: float) -> None:
        patience_s = BUSY_S if child.busy else SILENT_S
        hung = child is self.analyse and child.asked and now - child.heard_s > patience_s
        if hung and child.process is not None and child.alive:
            self.session.alarm("error", f"analyse gave no answer for {patience_s:.0f} s and was restarted")
            child.process.kill()
            child.process.join()
        if child.rehearsed and child.alive and self.session.running and now - child.started_s > REHEARSE_S:
            lacking = child.rehearse(self._context, now)
            if lacking is not None:
                self.session.alarm(
                    "warning",
                    f"nobody waits to take over from {child.name}, a restart would take longer: {lacking}",
                )
        if child.alive or child is self.detector or not self.session.running:
            return
        if child.restart_at_s is None:
            self._mourn(child, now)
        elif now >= child.restart_at_s:
            child.restarts += 1
            child.start(self._context)

    def _mourn(self, child: Child, now: float) -> None:
        code = child.process.exitcode if child.process else None
        calm = now - child.started_s > CALM_S
        child.restart_at_s = now if calm or not child.restarts else now + min(5.0, 0.5 * 2**child.restarts)
        if child is self.acquire:
            self.session.alarm(
                "error", f"acquire died (exit code {code}) and is restarted: frames were lost meanwhile"
            )
            recording = self.session.recording
            if recording:
                repair(Path(recording["path"]))
        elif child is self.analyse:
            self.session.alarm(
                "warning", f"analyse died (exit code {code}) and is restarted; recording went on"
            )
        else:
            self.session.alarm("warning", f"{child.name} died (exit code {code}) and is restarted")
        self.session.bury(child.name)
        log.error("%s died with exit code %s; restarting", child.name, code)


def serve_page(connection: Connection, settings: Settings, results_endpoint: str) -> None:
    """Entry of the page's process."""
    serve(
        results_endpoint=results_endpoint,
        status_connection=connection,
        host=settings.page.host,
        port=settings.page.port,
    )


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
