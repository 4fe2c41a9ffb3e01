"""Results out over ZeroMQ: whoever wants them connects; nobody can hold the analysis up."""

from __future__ import annotations

from typing import Any

import zmq

from stream.wire.results import pack

_SEND_HWM = 20  # messages a slow subscriber may lie behind before it misses some; five maps come at once
_UNBIND_MS = 1000
_LINGER_MS = 500  # for the last maps and events to leave at the end


class ResultsPublisher:
    """Binds a PUB socket and sends messages without ever waiting.

    A subscriber who comes late is sent the newest "series" and maps first, which are otherwise sent rarely.

    Parameters
    ----------
    endpoint : such as "tcp://127.0.0.1:5570"; port 0 or * lets the system choose.

    Raises
    ------
    OSError
        If the endpoint cannot be bound.
    """

    def __init__(self, endpoint: str) -> None:
        self._kept: dict[str, bytes] = {}
        # An XPUB socket is a PUB socket that tells when somebody subscribes.
        self._socket = zmq.Context.instance().socket(zmq.XPUB)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.setsockopt(zmq.SNDHWM, _SEND_HWM)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close(linger=0)
            raise OSError(
                error.errno,
                f"results cannot be published: expected to bind {endpoint}, got '{error}'; "
                "end the other program that uses this port, or set another results endpoint",
            ) from error
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def send(self, message: dict[str, Any]) -> None:
        """Send one message to whoever listens; whoever is too slow misses it.

        Raises
        ------
        ValueError
            If the message is not what `stream.wire.results` describes.
        """
        data = pack(message)
        self.welcome()
        if message["type"] == "series":
            self._kept = {"series": data}  # maps of the series before are of no use now
        elif message["type"] == "map":
            self._kept[f"map {message['name']}"] = data
        self._socket.send(data, zmq.NOBLOCK)

    def welcome(self) -> None:
        """Send the newest series and maps to who subscribed since; `send` does so too, idle loops should."""
        newcomers = False
        while self._socket.poll(0):
            newcomers |= self._socket.recv(zmq.NOBLOCK)[:1] == b"\x01"
        if newcomers:
            for data in self._kept.values():
                self._socket.send(data, zmq.NOBLOCK)

    def close(self) -> None:
        """Close the socket; what was sent still leaves. The port is free when this returns."""
        if self._socket.closed:
            return
        closed = self._socket.get_monitor_socket(zmq.EVENT_CLOSED)
        self._socket.unbind(self.endpoint)
        closed.poll(_UNBIND_MS)
        self._socket.disable_monitor()
        self._socket.close()

    def __enter__(self) -> ResultsPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
