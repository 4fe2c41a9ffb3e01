"""The web page's process: hears the analysis and the supervisor, serves the operator's browsers.

The only asyncio of the house, here and in `stream.overlay.web`. Two threads listen (results over ZeroMQ,
figures over the supervisor's connection) and keep the newest of everything on the board.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection

import uvicorn
import zmq

from stream.overlay.board import Board
from stream.overlay.web import News, application

log = logging.getLogger("hopscope")

_LOOK_S = 0.1  # between two looks at whether to stop
_REPORT_S = 1.0
_RESULTS_HWM = 64


def serve(
    *,
    results_endpoint: str,
    status_connection: Connection,
    host: str = "127.0.0.1",
    port: int = 0,
    allowed_hosts: Collection[str] = (),
) -> None:
    """Serve the page until told to stop; the entry of its process.

    Parameters
    ----------
    results_endpoint : where the analysis publishes; it may come, go and come back.
    status_connection : to the supervisor, who sends "status" messages and in the end a "stop" (or goes away).
        It is sent "serving" with the url once browsers can connect, "page" figures each second, and "refused"
        with a text where the page cannot be served.
    host, port : to listen on; port 0 lets the system choose.
    allowed_hosts : further names under which browsers may ask for the page, beside plain addresses,
        localhost and this machine's own name.

    Raises
    ------
    SystemExit
        If the address cannot be listened on; the supervisor is told why.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when to end
    try:
        listener = _listen(host, port)
    except OSError as error:
        status_connection.send({"type": "refused", "text": str(error)})
        raise SystemExit(1) from error
    news = News()
    board = Board(changed=news.tell)
    stopping = threading.Event()
    config = uvicorn.Config(
        application(board, news, {host, "localhost", socket.gethostname(), *allowed_hosts}),
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=4096,
        ws_per_message_deflate=False,  # noise does not compress, and the machine has better things to do
        timeout_graceful_shutdown=1,
    )
    followers: list[Future[None]] = []

    def listening() -> None:
        news.loop = asyncio.get_running_loop()
        status_connection.send({"type": "serving", "url": _url(listener)})
        followers.append(pool.submit(_follow_results, results_endpoint, board, stopping))
        followers.append(pool.submit(_follow_supervisor, status_connection, board, stopping))
        for follower in followers:
            follower.add_done_callback(lambda _: server.end())

    server = _Server(config, listening)
    with listener, ThreadPoolExecutor(2) as pool:
        try:
            asyncio.run(server.serve(sockets=[listener]))
        finally:
            stopping.set()
    for follower in followers:
        follower.result()  # a fault of theirs is the process' fault


class _Server(uvicorn.Server):
    """uvicorn, which here leaves the signals alone and says when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    def end(self) -> None:
        self.should_exit = True


def _follow_results(endpoint: str, board: Board, stopping: threading.Event) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as results:
        results.setsockopt(zmq.RCVHWM, _RESULTS_HWM)
        results.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        results.setsockopt(zmq.LINGER, 0)
        results.setsockopt(zmq.SUBSCRIBE, b"")
        results.connect(endpoint)
        while not stopping.is_set():
            if results.poll(int(_LOOK_S * 1000)):
                board.take(results.recv())


def _follow_supervisor(connection: Connection, board: Board, stopping: threading.Event) -> None:
    next_report_s = time.monotonic() + _REPORT_S
    try:
        while not stopping.is_set():
            if connection.poll(_LOOK_S):
                message = connection.recv()
                if message["type"] == "stop":
                    break
                board.take_status(message)
            if time.monotonic() >= next_report_s:
                next_report_s = time.monotonic() + _REPORT_S
                connection.send({"type": "page", **board.report()})
        connection.send({"type": "page", **board.report()})
    except (EOFError, OSError):
        log.warning("the page ends: the supervisor is gone")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises
    ------
    OSError
        If the address is in use or is not this machine's; the message says what to do.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # On Windows SO_REUSEADDR would let two programs listen on one port.
            option = socket.SO_REUSEADDR if os.name == "posix" else socket.SO_EXCLUSIVEADDRUSE
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.bind(address)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"the page cannot be served: expected to listen on {host} port {port}, got '{error.strerror}'; "
            "end the other program that uses it (perhaps another hopscope), or set another host or port under "
            "[page] in site.toml (port = 0 takes any free one)",
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    """Where this machine's own browser finds the page."""
    address, port = listener.getsockname()[:2]
    ip = ipaddress.ip_address(address.split("%")[0])
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"http://[{ip}]:{port}/" if ip.version == 6 else f"http://{ip}:{port}/"
