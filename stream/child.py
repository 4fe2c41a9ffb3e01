"""A child process' side of its connection to the supervisor.

The child speaks only when asked, so a supervisor that hangs can never block it; a supervisor that is gone
(end of file) means stop. Interrupts from the keyboard are the supervisor's business alone.
"""

from __future__ import annotations

import mmap
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LOOK_S = 0.05  # between two looks at the connection


class Orders:
    """What the supervisor wants: a report now and then, and in the end a stop."""

    def __init__(self, connection: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._connection = connection
        self._next_s = 0.0
        self.stopped = False

    def due(self, report: Callable[[], dict[str, Any]]) -> bool:
        """Answer what was asked since the last look; True once told to stop."""
        now = time.monotonic()
        if now < self._next_s:
            return self.stopped
        self._next_s = now + LOOK_S
        try:
            while self._connection.poll():
                message = self._connection.recv()
                if message["type"] == "stop":
                    self.stopped = True
                elif message["type"] == "report":
                    self._connection.send({"type": "report", **report()})
        except (EOFError, OSError):
            self.stopped = True
        return self.stopped

    def await_cue(self) -> bool:
        """Wait, with everything loaded, until work shall begin; False if it never shall (told to stop)."""
        try:
            self.stopped = self.stopped or self._connection.recv()["type"] == "stop"
        except (EOFError, OSError):
            self.stopped = True
        return not self.stopped

    def say_ready(self, **facts: Any) -> None:
        """Tell that work has begun, and what the supervisor should know of it."""
        self._say({"type": "ready", **facts})

    def say_busy(self) -> None:
        """That the next answer may take minutes: a card is made ready for a series."""
        self._say({"type": "busy"})

    def say_refused(self, text: str) -> None:
        """Why work cannot begin, or go on, and what to do."""
        self._say({"type": "refused", "text": text})

    def say_done(self, report: dict[str, Any]) -> None:
        """The last report of all."""
        self._say({"type": "report", "final": True, **report})

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._connection.send(message)
        except OSError:  # the supervisor is gone, there is nobody to tell
            self.stopped = True


def rss_mib() -> float | None:
    """Memory this process holds now, in MiB (Linux; None elsewhere)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * mmap.PAGESIZE / 2**20
