"""Results go out to whoever listens, and nobody who does not listen holds them up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from stream.publish import ResultsPublisher
from stream.wire.results import unpack
from tests.helpers.fake_results import FakeSession


@pytest.fixture
def publisher() -> Iterator[ResultsPublisher]:
    with ResultsPublisher("tcp://127.0.0.1:*") as made:
        yield made


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    with zmq.Context() as made:
        yield made


def subscribe(context: zmq.Context, endpoint: str) -> zmq.Socket:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 10_000)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(endpoint)
    return socket


def welcomed(publisher: ResultsPublisher, socket: zmq.Socket) -> dict:
    """The first message that the socket gets from an idle publisher."""
    for _ in range(1000):
        publisher.welcome()
        if socket.poll(10):
            return unpack(socket.recv())
    raise AssertionError("nothing came")


def test_the_endpoint_says_which_port_it_became(publisher: ResultsPublisher) -> None:
    host, _, port = publisher.endpoint.rpartition(":")
    assert host == "tcp://127.0.0.1"
    assert int(port) > 0


def test_port_zero_is_any_port_too() -> None:
    with ResultsPublisher("tcp://127.0.0.1:0") as one, ResultsPublisher("tcp://127.0.0.1:0") as other:
        assert one.endpoint != other.endpoint


def test_who_comes_late_learns_the_series_and_the_newest_maps(
    publisher: ResultsPublisher, context: zmq.Context
) -> None:
    session = FakeSession(2, side_px=64)
    publisher.send(session.series(series=6))
    publisher.send(session.maps()[0])
    publisher.send(session.series(series=7))
    session.frame()
    old, new = session.maps()[1], session.maps()[1]
    new["array"][0, 0] = 0.25
    publisher.send(old)
    publisher.send(new)
    with subscribe(context, publisher.endpoint) as socket:
        first = welcomed(publisher, socket)
        second = unpack(socket.recv())
        assert (first["type"], first["series"]) == ("series", 7)
        assert (second["type"], second["name"], second["array"][0, 0]) == ("map", "occurrence", 0.25)
        publisher.send(session.frame())
        third = unpack(socket.recv())
        assert (third["type"], third["index"]) == ("frame", 1)


def test_messages_come_in_order(publisher: ResultsPublisher, context: zmq.Context) -> None:
    session = FakeSession(2, side_px=64)
    publisher.send(session.series())
    with subscribe(context, publisher.endpoint) as socket:
        assert welcomed(publisher, socket)["type"] == "series"
        for index in range(10):
            publisher.send(session.frame())
            assert unpack(socket.recv())["index"] == index


def test_who_does_not_read_misses_messages_and_holds_nobody_up(
    publisher: ResultsPublisher, context: zmq.Context
) -> None:
    session = FakeSession(2)
    publisher.send(session.series())
    with subscribe(context, publisher.endpoint) as socket:
        socket.setsockopt(zmq.RCVHWM, 1)
        assert welcomed(publisher, socket)["type"] == "series"
        message = session.frame()
        for index in range(300):  # 80 MB: more than all buffers hold; a waiting publisher would hang here
            publisher.send({**message, "index": index})
        got = 0
        while socket.poll(200):
            socket.recv()
            got += 1
        assert 0 < got < 300


def test_a_malformed_message_is_refused_before_it_leaves(publisher: ResultsPublisher) -> None:
    with pytest.raises(ValueError, match="index"):
        publisher.send({**FakeSession(2, side_px=64).frame(), "index": -3})


def test_a_port_in_use_is_an_error_that_says_what_to_do(publisher: ResultsPublisher) -> None:
    with pytest.raises(OSError, match=f"expected to bind {publisher.endpoint}.*another results endpoint"):
        ResultsPublisher(publisher.endpoint)


def test_a_restarted_publisher_has_its_old_port_at_once() -> None:
    for _ in range(20):
        with ResultsPublisher("tcp://127.0.0.1:*") as first:
            endpoint = first.endpoint
        with ResultsPublisher(endpoint) as second:
            assert second.endpoint == endpoint
