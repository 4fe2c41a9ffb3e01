"""The page's process over real sockets: what it says, to whom, and how it ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.resources import files

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from stream.publish import ResultsPublisher
from tests.helpers.fake_results import FakePublisher, FakeSession
from tests.helpers.page import ServedPage, read_message, until


@pytest.fixture(scope="module")
def publisher() -> Iterator[ResultsPublisher]:
    with ResultsPublisher("tcp://127.0.0.1:*") as made:
        yield made


@pytest.fixture(scope="module")
def page(publisher: ResultsPublisher) -> Iterator[ServedPage]:
    with ServedPage(publisher.endpoint) as made:
        assert made.first["type"] == "serving"
        yield made
        assert made.stop() == 0


def get(
    page: ServedPage, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", page.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def live(page: ServedPage, **options: object) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{page.port}/live", proxy=None, max_size=None, **options)  # type: ignore[arg-type]


def frames_ready(page: ServedPage) -> int:
    return json.loads(get(page, "/status")[2])["page"]["frames_ready"]


def test_every_file_of_the_page_is_served_and_nothing_of_others(page: ServedPage) -> None:
    status, headers, body = get(page, "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    static = files("stream.overlay").joinpath("static")
    for file in static.iterdir():
        assert b"://" not in file.read_bytes().replace(b"http://www.w3.org/2000/svg", b"").replace(
            b'"}://${location.host}', b""
        ), f"{file.name} asks for something elsewhere"
        status, _, served = get(page, f"/static/{file.name}")
        assert (status, served) == (200, file.read_bytes())
    assert get(page, "/static/index.html")[2] == body


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e%2fserver.py",
        "/static/..%5cserver.py",
        "/static//etc/passwd",
        "/static/page.js%00",
        "/static/page.js/",
        "/static/",
        "/server.py",
        "//evil/static/../../server.py",
    ],
)
def test_nothing_else_can_be_asked_for(page: ServedPage, path: str) -> None:
    status, headers, body = get(page, path)
    assert status in (307, 404)
    assert b"import" not in body
    assert "content-security-policy" in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1", "a b"]
)
def test_a_name_that_is_not_ours_is_refused(page: ServedPage, host: str) -> None:
    for path in ("/", "/status", "/healthz"):
        status, _, body = get(page, path, Host=host)
        assert status in (400, 403)
        assert b"latency" not in body


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "192.168.7.4:9000"]
)
def test_our_names_and_plain_addresses_are_answered(page: ServedPage, host: str) -> None:
    assert get(page, "/", Host=host.format(port=page.port))[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost", "http://["]
)
def test_live_data_is_refused_to_foreign_pages(page: ServedPage, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        live(page, origin=origin)
    assert refused.value.response.status_code == 403


def test_live_data_is_given_to_our_own_page_and_to_scripts(page: ServedPage) -> None:
    for origin in (f"http://127.0.0.1:{page.port}", None):
        with live(page, origin=origin) as browser:
            browser.send("next")
            read_message(browser.recv(timeout=10))  # type: ignore[arg-type]


def test_nothing_can_be_changed(page: ServedPage) -> None:
    for path in ("/", "/status", "/static/page.js"):
        for method in ("POST", "PUT", "DELETE"):
            assert get(page, path, method=method)[0] == 405


def test_a_word_that_is_not_next_ends_the_conversation(page: ServedPage) -> None:
    with live(page) as browser:
        browser.send("stop the microscope")
        with pytest.raises(ConnectionClosed) as closed:
            browser.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_a_slow_browser_gets_the_newest_frame_and_is_told_of_silence(
    page: ServedPage, publisher: ResultsPublisher
) -> None:
    session = FakeSession(5, side_px=64)
    publisher.send(session.series())
    before = frames_ready(page)
    until(lambda: _sent(publisher, session) and frames_ready(page) > before, "the subscription")
    with live(page) as browser:
        start = frames_ready(page)
        for _ in range(10):
            publisher.send(session.frame())
        until(lambda: frames_ready(page) == start + 10, "ten frames")
        browser.send("next")
        now, parts = read_message(browser.recv(timeout=10))  # type: ignore[arg-type]
        assert now["series"]["series"] == 7
        assert [p["index"] for p in parts if p["part"] == "frame"] == [session.index]
        assert now["frame_age_s"] < 10
        browser.send("next")
        now, parts = read_message(browser.recv(timeout=10))  # type: ignore[arg-type]
        assert parts == []
        assert now["frame_age_s"] > 0.3


def test_a_status_is_passed_on_and_health_follows_it(publisher: ResultsPublisher) -> None:
    session = FakeSession(6, side_px=64)
    with ServedPage(publisher.endpoint) as own:
        status, _, text = get(own, "/healthz")
        assert (status, text) == (503, b"no word from the supervisor yet")
        own.connection.send(session.status(state="testing"))
        until(lambda: get(own, "/healthz")[0] == 200, "health")
        told = json.loads(get(own, "/status")[2])
        assert told["state"] == "testing"
        assert told["status_age_s"] < 5
        assert told["page"]["clients"] == 0
        with live(own) as browser:
            browser.send("next")
            now, _ = read_message(browser.recv(timeout=10))  # type: ignore[arg-type]
            assert now["status"]["state"] == "testing"
            assert now["page"]["clients"] == 1
        assert own.stop() == 0


def test_the_supervisor_is_told_the_latency() -> None:
    with (
        FakePublisher(FakeSession(6, side_px=64), fps=50) as published,
        ServedPage(published.endpoint) as own,
    ):
        told = until(lambda: (m := own.page_message())["frames_ready"] and m, "frames")
        assert told["type"] == "page"
        assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]
        assert told["clients"] == 0


def test_it_finds_the_analysis_again_after_a_restart() -> None:
    session = FakeSession(6, side_px=64)
    with FakePublisher(session, fps=50) as first, ServedPage(first.endpoint) as own:
        until(lambda: frames_ready(own) > 3, "frames")
        first.__exit__()
        seen = frames_ready(own)
        with FakePublisher(session, endpoint=first.endpoint, fps=50):
            until(lambda: frames_ready(own) > seen + 3, "frames after the restart")


def test_a_port_in_use_is_refused_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ServedPage("tcp://127.0.0.1:9", port=port) as own:
            assert own.first["type"] == "refused"
            assert f"expected to listen on 127.0.0.1 port {port}" in own.first["text"]
            assert "set another host or port" in own.first["text"]
            own.process.join(20)
            assert own.process.exitcode == 1


def test_it_ends_when_the_supervisor_is_gone() -> None:
    with ServedPage("tcp://127.0.0.1:9") as own, live(own) as browser:
        own.connection.close()
        browser.send("next")
        own.process.join(20)
        assert own.process.exitcode == 0


def test_the_same_port_can_be_served_again_at_once() -> None:
    with ServedPage("tcp://127.0.0.1:9") as first, live(first) as browser:
        browser.send("next")
        browser.recv(timeout=10)
        first.kill()
        with ServedPage("tcp://127.0.0.1:9", port=first.port) as second:
            assert second.url == first.url


def _sent(publisher: ResultsPublisher, session: FakeSession) -> bool:
    publisher.send(session.frame())
    return True
