"""The camera's ZeroMQ stream as a FrameSource: one socket in, headers, frames, gaps and ends out.

Frames are views of ZeroMQ's own buffers, which live as long as the frame does. Nothing a peer sends ends the
iteration: what is wrong is counted by kind in `faults` and logged once per kind.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Literal

import zmq

from stream.frame import Frame, Item, SeriesHeader, WireError
from stream.series import SeriesOrder
from stream.wire import array1, dectris_v2
from stream.wire.messages import MAX_FRAME_BYTES, BadImage, Message

log = logging.getLogger(__name__)

_DIALECTS: dict[str, Callable[[list[memoryview]], list[Message]]] = {
    "dectris-v2": dectris_v2.decode,
    "array-1.0": array1.decode,
}
_LEAST_FRAME_BYTES = 128 << 10  # assumed until a frame was seen
_LEAST_FRAMES = 4
_LOOK_MS = 100  # None is yielded at least that often
_MAX_MESSAGE_BYTES = MAX_FRAME_BYTES + (1 << 20)
_PERIODS_OF_SILENCE = 3  # a slow camera is not silent while it exposes


class ZmqSource:
    """Receives what one camera sends.

    While its reader is busy, ZeroMQ queues messages, and it counts messages, not bytes. The queue is opened
    for small frames and, as soon as a larger frame is seen, shortened to `buffer_mib`; it is never lengthened,
    because libzmq can stall for good when that is done to a full queue. What does not fit waits at the sender,
    or is lost there and shows as a gap in the detector's own numbers.

    Parameters
    ----------
    endpoint : such as "tcp://192.168.1.5:31001".
    pattern : "pull" (be the only one: each message goes to one receiver) or "sub" (a viewing stream).
    dialect : "dectris-v2", "array-1.0", or "auto": that of the first message which is of a known one.
    buffer_mib : what may wait in this process, in MiB.
    idle_s : silence after which a series counts as over; at least three frame periods, where they are known.
    bind : wait for the camera at the endpoint instead of calling there; port 0 takes a free port.

    Attributes
    ----------
    endpoint : the endpoint in use, with its port.
    faults : how often each kind of fault occurred.

    Raises
    ------
    ValueError
        If the endpoint, pattern or dialect is none.
    OSError
        If the endpoint cannot be bound.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        pattern: Literal["pull", "sub"] = "pull",
        dialect: str = "auto",
        buffer_mib: float = 512,
        idle_s: float = 10.0,
        bind: bool = False,
    ) -> None:
        if pattern not in ("pull", "sub"):
            raise ValueError(f"pattern: expected pull or sub, got {pattern!r}")
        if dialect not in ("auto", *_DIALECTS):
            raise ValueError(f"dialect: expected auto, {' or '.join(_DIALECTS)}, got {dialect!r}")
        self.faults: Counter[str] = Counter()
        self._dialect = dialect
        self._idle_s = idle_s
        self._heard_s = self._yielded_s = time.monotonic()
        self._ready: deque[Item] = deque()
        self._order = SeriesOrder(self._fault)
        self._buffer_bytes = int(buffer_mib * (1 << 20))
        self._largest_bytes = _LEAST_FRAME_BYTES
        self._socket = zmq.Context.instance().socket(zmq.PULL if pattern == "pull" else zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, self._queue_length())
        self._socket.setsockopt(zmq.RCVTIMEO, _LOOK_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        # Or a camera that lost power would never be called again.
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
        if pattern == "sub":
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        try:
            (self._socket.bind if bind else self._socket.connect)(endpoint)
        except zmq.ZMQError as error:
            self._socket.close(linger=0)
            if error.errno in (zmq.EINVAL, zmq.EPROTONOSUPPORT):
                expected = "endpoint: expected such as tcp://192.168.1.5:31001"
                raise ValueError(f"{expected}, got {endpoint!r}") from error
            raise OSError(error.errno, f"the camera's endpoint {endpoint}: {error}") from error
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def __iter__(self) -> Iterator[Item | None]:
        """Items as they come; None at least every 100 ms while there are none. Ends after `close`.

        Iterating may be left and taken up again; nothing is lost in between.
        """
        while not self._socket.closed:
            if self._ready:
                self._yielded_s = time.monotonic()
                yield self._ready.popleft()
            elif not self._take() or time.monotonic() - self._yielded_s > _LOOK_MS / 1000:
                self._yielded_s = time.monotonic()
                yield None

    def _take(self) -> bool:
        """Make items of the next message; False if none comes within 100 ms."""
        parts = self._receive()
        now_s, recv_ns = time.monotonic(), time.monotonic_ns()
        for message in self._understand(parts) if parts else ():
            self._heard_s = now_s
            self._ready.extend(self._order.take(message, recv_ns))
            if self._ready and isinstance(self._ready[-1], Frame):
                self._fit_queue(len(self._ready[-1].payload))
        if now_s - self._heard_s > self._silence_s(self._order.header):
            self._heard_s = now_s
            self._ready.extend(self._order.silence())
        return parts is not None

    def close(self) -> None:
        """Leave the camera; to be called from the thread that iterates. Frames handed out stay valid."""
        self._socket.close(linger=0)

    def _receive(self) -> list[memoryview] | None:
        """The parts of the next message, or None if none comes within 100 ms."""
        try:
            parts = self._socket.recv_multipart(copy=False)
        except zmq.Again:
            return None
        return [part.buffer for part in parts]

    def _understand(self, parts: list[memoryview]) -> list[Message | BadImage]:
        """The messages in the parts of one ZeroMQ message; none if they cannot be understood."""
        names = list(_DIALECTS) if self._dialect == "auto" else [self._dialect]
        reasons = []
        for name in names:
            try:
                messages: list[Message | BadImage] = [*_DIALECTS[name](parts)]
            except BadImage as error:
                messages = [error]
            except WireError as error:
                reasons.append(f"{name}: {error}")
                continue
            self._dialect = name
            return messages
        self._fault("foreign" if len(names) > 1 else "undecodable", "; ".join(reasons))
        return []

    def _silence_s(self, header: SeriesHeader | None) -> float:
        period_s = header.frame_period_s if header else None
        return max(self._idle_s, _PERIODS_OF_SILENCE * (period_s or 0))

    def _queue_length(self) -> int:
        return max(_LEAST_FRAMES, self._buffer_bytes // self._largest_bytes)

    def _fit_queue(self, frame_bytes: int) -> None:
        if frame_bytes > self._largest_bytes:
            self._largest_bytes = frame_bytes
            self._socket.setsockopt(zmq.RCVHWM, self._queue_length())

    def _fault(self, kind: str, reason: str) -> None:
        self.faults[kind] += 1
        if self.faults[kind] == 1:
            log.warning(
                "%s from the camera, and the stream goes on: %s (further ones are counted only)", kind, reason
            )
