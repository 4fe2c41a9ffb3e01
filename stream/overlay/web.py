"""What browsers can ask for: the page's files, its live data, its figures; and who may ask.

A browser asks for the next picture when it has drawn the last one, so a slow one gets fewer pictures, always
the newest, and holds nobody up. Nothing here can change the instrument.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Collection
from importlib import resources
from pathlib import PurePath
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from stream.overlay.board import Board, Viewer, as_json

_QUIET_S = 0.4  # a browser hears from us at least so often, frames or not
_STATUS_OLD_S = 5.0  # a supervisor that said nothing for so long is not well
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class News:
    """Wakes the viewers who wait; `tell` may be called from any thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._event = asyncio.Event()

    def tell(self) -> None:
        """There is something new."""
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended: nobody waits any more
                self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, arrived: Callable[[], bool], timeout_s: float) -> None:
        """Until `arrived`, but no longer than `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not arrived():
                    await self._event.wait()


def application(board: Board, news: News, names: Collection[str]) -> ASGIApp:
    """The page, its live data, and its figures for scripts; `names` are this machine's."""
    files = _files()

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return PlainTextResponse("there is no such file here", 404)
        content, media_type = files[name]
        return Response(content, media_type=media_type)

    async def status(_: Request) -> Response:
        figures = board.figures()
        return Response(as_json({**(figures.pop("status") or {}), **figures}), media_type="application/json")

    async def health(_: Request) -> Response:
        age_s = board.figures()["status_age_s"]
        if age_s is None or age_s > _STATUS_OLD_S:
            silence = "yet" if age_s is None else f"for {age_s:.0f} s"
            return PlainTextResponse(f"no word from the supervisor {silence}", 503)
        return PlainTextResponse("ok")

    async def live(browser: WebSocket) -> None:
        await browser.accept()
        viewer = Viewer(board)
        board.viewers += 1
        try:
            while (asked := (await browser.receive_text()).partition(" "))[0] == "next":
                await news.wait(lambda: viewer.has_news, _QUIET_S)
                await browser.send_bytes(viewer.message(asked[2]))
            await browser.close(1008, "expected: next, or next and the name of a map")
        except WebSocketDisconnect:
            return
        finally:
            board.viewers -= 1

    routes = [
        Route("/", page),
        Route("/static/{name}", page),
        Route("/status", status),
        Route("/healthz", health),
        WebSocketRoute("/live", live),
    ]
    return _Guard(Starlette(routes=routes), names)


class _Guard:
    """Answers only who asks for this machine by its own name, and gives live data to its own page only.

    A foreign page could otherwise read the microscope through the operator's browser: by a cross-site
    WebSocket, or by a domain name that resolves to this machine (DNS rebinding; it needs a name, so plain
    addresses are fine).
    """

    def __init__(self, inner: ASGIApp, names: Collection[str]) -> None:
        self._inner = inner
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        live = scope["type"] == "websocket"
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            refusal = "this machine is not known by that name: ask by its address, or allow the name"
        elif live and origin not in (None, f"http://{host}", f"https://{host}"):
            refusal = "live data is for this machine's own page only"
        else:
            await self._inner(scope, receive, _secured(send))
            return
        if live:
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        else:
            await PlainTextResponse(refusal, 403)(scope, receive, _secured(send))

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _secured(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_SECURITY)
        await send(message)

    return with_headers


def _files() -> dict[str, tuple[bytes, str]]:
    """The page's files by name, read once: what is not among them cannot be asked for."""
    found = {}
    for file in resources.files("stream.overlay").joinpath("static").iterdir():
        media_type = _MEDIA_TYPES.get(PurePath(file.name).suffix)
        if media_type:
            found[file.name] = (file.read_bytes(), media_type)
    return found
