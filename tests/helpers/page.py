"""The page's process, started and spoken to as the supervisor does; and its messages, read as a browser does."""

from __future__ import annotations

import json
import multiprocessing
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stream.overlay.server import serve

PATIENCE_S = 20.0


class ServedPage:
    """`serve` in a process of its own, told the newest of `status` four times a second; a context manager."""

    def __init__(
        self, results_endpoint: str, *, port: int = 0, status: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = {"results_endpoint": results_endpoint, "status_connection": theirs, "port": port}
        self.process = context.Process(target=serve, kwargs=arguments, name="page")
        self.process.start()
        theirs.close()
        if not self.connection.poll(PATIENCE_S):
            self.process.kill()
            raise TimeoutError("the page's process says nothing")
        self.first = self.connection.recv()
        self.url: str = self.first.get("url", "")
        self._status = status
        self._ending = threading.Event()
        self._feeder = threading.Thread(target=self._feed, name="supervisor")
        if status is not None:
            self._feeder.start()

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def page_message(self) -> dict[str, Any]:
        """The next figures that the page sends to the supervisor; not for pages that are fed a status."""
        if not self.connection.poll(PATIENCE_S):
            raise TimeoutError("the page's process says nothing")
        return self.connection.recv()

    def stop(self) -> int | None:
        """Tell it to stop; the exit code."""
        self._end_feeder()
        if self.process.is_alive():
            self.connection.send({"type": "stop"})
        self.process.join(PATIENCE_S)
        return self.process.exitcode

    def kill(self) -> None:
        self._end_feeder()
        self.process.kill()
        self.process.join(PATIENCE_S)

    def __enter__(self) -> ServedPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.connection.close()

    def _feed(self) -> None:
        assert self._status is not None
        while not self._ending.wait(0.25):
            try:
                self.connection.send(self._status())
                while self.connection.poll():
                    self.connection.recv()
            except (EOFError, OSError):
                return

    def _end_feeder(self) -> None:
        self._ending.set()
        if self._feeder.is_alive():
            self._feeder.join()


def read_message(data: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures and parts of a message to the browser; arrays as numpy arrays."""
    (length,) = struct.unpack_from("<I", data)
    text = json.loads(data[4 : 4 + length], parse_constant=_refuse)
    parts = []
    for part in text["parts"]:
        body = part["body"]
        for key, value in body.items():
            if isinstance(value, dict) and "o" in value:
                offset = 4 + length + part["at"] + value["o"]
                size = int(np.prod(value["s"]))
                body[key] = np.frombuffer(data, f"<{value['t']}", size, offset).reshape(value["s"])
                assert offset % 4 == 0, "a browser could not look at it in place"
        parts.append({"part": part["name"], **body})
    return text["now"], parts


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true value of `condition`; fails if there is none in time."""
    deadline_s = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(f"waited {patience_s:.0f} s in vain for {what}")
        time.sleep(0.02)


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON: a browser would refuse it")
