"""The sending side of a camera: a series of frames through a socket, in one of the dialects we understand."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import zmq

from stream.codecs import encode
from stream.frame import Algorithm, Frame, SeriesHeader, WireError
from stream.wire import array1, dectris_v2

log = logging.getLogger(__name__)

Dialect = Literal["dectris-v2", "array-1.0"]
Parts = list[bytes | memoryview]

_LOOK_MS = 20  # between two looks at `stop`
_QUEUE_BYTES = 64 << 20  # frames that may wait here for the receiver; beyond, sending blocks
_LAST_WORD_S = 1.0  # once told to stop: for the message that ends the series
_STOPPED_PATIENCE_S = 5.0  # ... and for what is under way


class Sender:
    """A camera's socket: PUSH, bound, blocking while nobody takes what it sends.

    `start`, `send` and `end` return False once told to stop. `play` of `stream.replay` explains the parameters.

    Attributes
    ----------
    frames, bytes : sent so far, and the bytes of their payloads.

    Raises
    ------
    TimeoutError
        From any verb, if no receiver comes or it takes nothing for `patience_s`.
    """

    def __init__(
        self,
        endpoint: str,
        dialect: Dialect,
        algorithm: Algorithm,
        stop: Callable[[], bool],
        patience_s: float,
        on_bound: Callable[[str], object],
    ) -> None:
        if dialect not in ("dectris-v2", "array-1.0"):
            raise ValueError(f"dialect must be dectris-v2 or array-1.0, got {dialect!r}")
        self.frames = 0
        self.bytes = 0
        self._endpoint = endpoint
        self._dialect = dialect
        self._algorithm: Algorithm = algorithm
        self._stop = stop
        self._patience_s = patience_s
        self._on_bound = on_bound
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._began_s: float | None = None
        self._header: SeriesHeader | None = None
        self._unique_id = ""

    def start(self, header: SeriesHeader) -> bool:
        """Begin a series, once there is a receiver."""
        if self._socket is None:
            self._socket = self._bound(header.frame_bytes)
        if not self._wait(self._socket, self._stop):
            return False
        if self._began_s is None:
            self._began_s = time.monotonic()
        self._header = header
        self._unique_id = uuid.uuid4().hex  # the same file played again is another series
        if self._dialect == "array-1.0":
            return True
        return self._send([dectris_v2.encode_start(header, series_unique_id=self._unique_id)], self._stop)

    def send(self, frame: Frame) -> bool:
        """One exposure; one that cannot be compressed as asked, because it is damaged, is left out."""
        payload, encoding = frame.payload, frame.encoding
        if encoding.algorithm != self._algorithm:
            try:
                payload = memoryview(encode(frame.counts, self._algorithm))
            except WireError as error:
                log.warning("frame %d is not sent: %s", frame.index, error)
                return True
            encoding = replace(encoding, algorithm=self._algorithm)
        if frame.on_release is not None:
            payload = memoryview(bytes(payload))  # its owner wants the memory back before all is delivered
        if self._dialect == "dectris-v2":
            parts: Parts = [
                dectris_v2.encode_image(
                    frame.series_id,
                    frame.index,
                    frame.t_ns,
                    encoding,
                    payload,
                    series_unique_id=self._unique_id,
                )
            ]
        else:
            names = ("pixel_size_nm", "frame_period_s", "dose_rate_e_nm2_s")
            known: dict[str, Any] = {name: getattr(self._header, name, None) for name in names}
            known |= {"series": frame.series_id, "series_unique_id": self._unique_id}
            parts = array1.encode_image(frame.index, frame.t_ns, encoding, payload, **known)
        if not self._send(parts, self._stop):
            return False
        self.frames += 1
        self.bytes += len(payload)
        return True

    def end(self) -> bool:
        """End the series, if one has begun; once told to stop, without insisting."""
        if self._header is None:
            return True
        series_id, self._header = self._header.series_id, None
        if self._dialect == "array-1.0":
            return True
        parts: Parts = [dectris_v2.encode_end(series_id, series_unique_id=self._unique_id)]
        given_up_s = time.monotonic() + _LAST_WORD_S
        return self._send(parts, lambda: self._stop() and time.monotonic() > given_up_s)

    def hand_over(self) -> float:
        """Close once all is delivered; seconds since a receiver took the first message."""
        if self._socket is None or self._began_s is None:
            self.hang_up()
            return 0.0
        stopped = self._stop()
        patience_s = min(self._patience_s, _STOPPED_PATIENCE_S) if stopped else self._patience_s
        closed_s = time.monotonic()
        self._socket.close(linger=int(patience_s * 1000))
        self._context.term()
        now_s = time.monotonic()
        if now_s - closed_s >= patience_s:
            lost = (
                f"the receiver at {self._endpoint} did not take the last messages within {patience_s:g} s; "
                "expected it to read all; see whether it still runs"
            )
            if not stopped:
                raise TimeoutError(lost)
            log.warning("%s", lost)
        return now_s - self._began_s

    def hang_up(self) -> None:
        """Close at once, whatever is still under way."""
        if self._socket is not None:
            self._socket.close(linger=0)
        self._context.term()

    def _bound(self, frame_bytes: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.PUSH)
        socket.linger = 0
        socket.sndhwm = min(1000, max(4, _QUEUE_BYTES // frame_bytes))
        try:
            socket.bind(self._endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise OSError(
                error.errno,
                f"cannot send from {self._endpoint}: {error.strerror}; expected a free address of this machine, "
                "such as tcp://127.0.0.1:31001",
            ) from error
        self._endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._on_bound(self._endpoint)
        return socket

    def _send(self, parts: Parts, stop: Callable[[], bool]) -> bool:
        if self._socket is None:
            raise ValueError("a frame came before its series' header; begin with the header")
        while self._wait(self._socket, stop):
            try:
                self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
            except zmq.Again:  # the receiver went away in between
                continue
            return True
        return False

    def _wait(self, socket: zmq.Socket[bytes], stop: Callable[[], bool]) -> bool:
        """Wait for room at a receiver."""
        deadline_s = time.monotonic() + self._patience_s
        while not stop():
            if socket.poll(_LOOK_MS, zmq.POLLOUT):
                return True
            if time.monotonic() > deadline_s:
                happened = "no receiver came" if self.frames == 0 else "the receiver took nothing more"
                raise TimeoutError(
                    f"{happened} at {self._endpoint} within {self._patience_s:g} s; expected one that connects and "
                    "reads: start `hopscope live` with camera.endpoint set to this address, or see why it stopped"
                )
        return False
