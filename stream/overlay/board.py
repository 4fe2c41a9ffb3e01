"""What the page shows: the newest of everything, kept once for all viewers, and each viewer's next message.

A message to the browser is a u4 (little endian) length of its JSON, the JSON, and raw arrays. An array in the
JSON is `{"t": "u1" | "f4", "s": shape, "o": offset}`; offsets count from the part's own "at", which counts
from the end of the JSON. Everything is aligned to 4 bytes, so that a browser can look at it in place.
"""

from __future__ import annotations

import json
import logging
import math
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from stream.frame import WireError
from stream.metrics import LatencyHistogram
from stream.wire.results import unpack

log = logging.getLogger("hopscope")

EVENTS_KEPT = 1000
_PICTURE_S = 0.5  # frames without a picture are shown as such if no picture came for so long
_RECENT_S = 10  # the page shows the latency of so many last seconds


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the page's message, made once for all viewers."""

    version: int
    name: str
    body: bytes
    blob: bytes


class Board:
    """The newest of everything; written by the threads that hear it, read by each viewer.

    Parameters
    ----------
    changed : called, from any thread, whenever there is something new for the viewers.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.viewers = 0
        self._changed = changed
        self._lock = threading.Lock()
        self._version = 0
        self._series: dict[str, Any] | None = None
        self._frame: Part | None = None
        self._maps: dict[str, Part] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._events_seen = 0
        self._frames_ready = 0
        self._frame_s = self._picture_s = self._status_s = -math.inf
        self._status: dict[str, Any] | None = None
        self._faults: Counter[str] = Counter()
        self._latency = LatencyHistogram()
        self._recent: deque[tuple[int, LatencyHistogram]] = deque(maxlen=_RECENT_S)

    def take(self, data: bytes) -> None:
        """Take in a message of the analysis; bad ones are counted, and logged once per kind."""
        try:
            message = unpack(data)
        except WireError as error:
            self._fault("bad message", str(error))
            return
        kind = message["type"]
        if kind == "frame":
            self._take_frame(message)
        elif kind == "map":
            part = _part(self._next_version(), "map", message)
            with self._lock:
                self._maps[message["name"]] = part
        elif kind == "series":
            self._take_series(message)
        else:
            self._fault("unexpected message", f"a {kind} message came where the analysis' results do")
            return
        self._changed()

    def take_status(self, status: dict[str, Any]) -> None:
        """Take in the supervisor's figures."""
        with self._lock:
            self._status, self._status_s = status, time.monotonic()

    def report(self) -> dict[str, Any]:
        """How the page does: latency from the socket to here over the whole run and lately, and viewers."""
        with self._lock:
            recent = LatencyHistogram()
            for second, histogram in self._recent:
                if second > time.monotonic() - _RECENT_S:
                    recent.merge(histogram)
            return {
                "latency_ms": self._latency.as_ms(),
                "recent_latency_ms": recent.as_ms(),
                "frames_ready": self._frames_ready,
                "clients": self.viewers,
                "faults": dict(self._faults),
            }

    def figures(self) -> dict[str, Any]:
        """Everything but pictures, for scripts: the newest status, the page's own figures, ages in s."""
        now = time.monotonic()
        return {
            "status": self._status,
            "status_age_s": _age(now, self._status_s),
            "frame_age_s": _age(now, self._frame_s),
            "page": self.report(),
        }

    def _take_series(self, message: dict[str, Any]) -> None:
        with self._lock:
            if self._series is None or self._series["series"] != message["series"]:
                self._maps.clear()
                self._events.clear()
            self._series = message

    def _take_frame(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        events = message.pop("events")
        part = None
        if message.get("picture") is not None or now - self._picture_s > _PICTURE_S:
            part = _part(self._next_version(), "frame", message)
        with self._lock:
            self._frame_s = now
            self._frames_ready += 1
            for event in events:
                self._events_seen += 1
                self._events.append({**event, "n": self._events_seen})
            if part is not None:
                self._frame = part
            if message.get("picture") is not None:
                self._picture_s = now
            self._measure(message["recv_ns"])

    def _measure(self, recv_ns: int) -> None:
        latency_ns = time.monotonic_ns() - recv_ns
        if latency_ns < 0:
            self._fault(
                "clock", f"a frame was received {-latency_ns} ns in the future; its latency is left out"
            )
            return
        second = int(time.monotonic())
        if not self._recent or self._recent[-1][0] != second:
            self._recent.append((second, LatencyHistogram()))
        self._recent[-1][1].add(latency_ns)
        self._latency.add(latency_ns)

    def _fault(self, kind: str, text: str) -> None:
        self._faults[kind] += 1
        if self._faults[kind] == 1:
            log.warning("results for the page: %s (%s; said once, counted on)", kind, text)

    def _next_version(self) -> int:
        self._version += 1  # only the results' thread comes here
        return self._version


class Viewer:
    """One browser: what it has already got, and what it gets next."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._frame = 0
        self._maps: dict[str, int] = {}
        self._events = 0
        self._series: dict[str, Any] | None = None

    @property
    def has_news(self) -> bool:
        """Whether a frame came since its last message."""
        frame = self._board._frame
        return frame is not None and frame.version != self._frame

    def message(self, wanted: str = "") -> bytes:
        """Figures, and whatever is newer than its last message; of the maps the one `wanted`, none without a name."""
        board = self._board
        now = board.figures()
        with board._lock:
            if board._series is not self._series:
                self._series = now["series"] = board._series
            fresh = min(board._events_seen - self._events, len(board._events))
            now["events"] = list(islice(reversed(board._events), fresh))  # newest first
            self._events = board._events_seen
            parts = []
            shown = board._maps.get(wanted)
            if shown is not None and self._maps.get(wanted) != shown.version:
                parts.append(shown)
                self._maps[wanted] = shown.version
            if board._frame is not None and board._frame.version != self._frame:
                parts.append(board._frame)
                self._frame = board._frame.version
        return _compose(now, parts)


def _age(now_s: float, then_s: float) -> float | None:
    return now_s - then_s if math.isfinite(then_s) else None


def _plain(value: Any) -> Any:
    """As JSON can say it: what is no number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def as_json(value: dict[str, Any]) -> bytes:
    """Of plain values, NaN and infinity as null."""
    return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False, default=_unsayable).encode()


def _unsayable(value: Any) -> str:
    """Arrays and bytes outside the known fields mean nothing to the page; it learns that they were there."""
    return f"<{type(value).__name__}>"


def _part(version: int, name: str, message: dict[str, Any]) -> Part:
    """The message's arrays, one after the other, and the rest as JSON that says where they lie."""
    blobs: list[bytes] = []
    body: dict[str, Any] = {}
    offset = 0
    for key, value in message.items():
        if isinstance(value, np.ndarray):
            short = "u1" if value.dtype == np.uint8 else "f4"
            blob = np.ascontiguousarray(value, dtype=f"<{short}").tobytes()
            blob += bytes(-len(blob) % 4)
            body[key] = {"t": short, "s": list(value.shape), "o": offset}
            blobs.append(blob)
            offset += len(blob)
        else:
            body[key] = value
    return Part(version, name, as_json(body), b"".join(blobs))


def _compose(now: dict[str, Any], parts: list[Part]) -> bytes:
    listed, at = [], 0
    for part in parts:
        listed.append(b'{"name":"%s","at":%d,"body":%s}' % (part.name.encode(), at, part.body))
        at += len(part.blob)
    text = b'{"now":%s,"parts":[%s]}' % (as_json(now), b",".join(listed))
    text += b" " * (-len(text) % 4)
    return b"".join([struct.pack("<I", len(text)), text, *(part.blob for part in parts)])
