"""One process of a session, through all its restarts, with the connection to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

STOP_S = 20.0
REHEARSE_AGAIN_S = 60.0  # an understudy that could not be loaded is tried again, but not at once


@dataclass
class Child:
    """One process, through all its restarts.

    With `rehearsed` an understudy, loaded and warmed up, waits to take over: a restart is then immediate.
    """

    name: str
    target: Callable[..., None]
    arguments: tuple[Any, ...]
    rehearsed: bool = False
    understudy: tuple[BaseProcess, Connection] | None = None
    process: BaseProcess | None = None
    connection: Connection | None = None
    ready: bool = False
    asked: bool = False
    busy: bool = False
    heard_s: float = 0.0
    rehearse_at_s: float = 0.0
    started_s: float = 0.0
    restart_at_s: float | None = None
    restarts: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def start(self, context: Any, cue: bool = True) -> None:
        """Begin; a rehearsed child without its cue is loaded, and waits for it."""
        if self.connection is not None:
            self.connection.close()
        self.process, self.connection = self.understudy or self._launch(context)
        self.understudy = None
        self.ready = self.asked = self.busy = False
        self.restart_at_s = None
        self.started_s = self.heard_s = time.monotonic()
        if self.rehearsed and cue:
            self.go()

    def go(self) -> None:
        self.say({"type": "go"})

    def rehearse(self, context: Any, now: float) -> str | None:
        """See to it that an understudy waits; why there is none, when one has just ended by itself."""
        if self.understudy is None:
            if now >= self.rehearse_at_s:
                self.understudy = self._launch(context)
            return None
        process, connection = self.understudy
        if process.is_alive():
            return None
        self.understudy, self.rehearse_at_s = None, now + REHEARSE_AGAIN_S
        with connection:
            said = [message.get("text") for message in _received(connection)]
        return next((text for text in said if text), f"exit code {process.exitcode}; its log above says why")

    def dismiss(self) -> None:
        """Let the understudy go."""
        if self.understudy is not None:
            self.understudy[1].close()
            self.understudy[0].join(STOP_S)
            self.understudy[0].kill()
            self.understudy = None

    def _launch(self, context: Any) -> tuple[BaseProcess, Connection]:
        ours, theirs = context.Pipe()
        process: BaseProcess = context.Process(
            target=self.target, args=(theirs, *self.arguments), name=f"hopscope-{self.name}"
        )
        process.start()
        theirs.close()
        return process, ours

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def say(self, message: dict[str, Any]) -> None:
        if self.connection is not None:
            try:
                self.connection.send(message)
            except OSError:  # it just died; its end is noticed by the sentinel
                return

    def messages(self) -> Iterable[dict[str, Any]]:
        if self.connection is not None:
            for message in _received(self.connection):
                self.heard_s = time.monotonic()
                yield message


def _received(connection: Connection) -> Iterable[dict[str, Any]]:
    try:
        while connection.poll():
            yield connection.recv()
    except (EOFError, OSError):
        return
