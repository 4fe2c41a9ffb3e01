"""Recordings played through a real socket, and what arrives."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import zmq

from stream.codecs import encode
from stream.files import open_recording
from stream.frame import Algorithm, Encoding, Frame, Gap, Item, SeriesEnd, SeriesHeader, WireError
from stream.ingest import ZmqSource
from stream.replay import Played, play
from stream.sender import Dialect
from stream.wire import dectris_v2
from stream.wire.messages import EndMessage, ImageMessage, StartMessage
from tests.helpers.data import data_path

PATIENCE_S = 30.0
STACK = np.random.default_rng(8).poisson(9, (12, 64, 48)).astype("<u2")
HEADER = SeriesHeader(
    5, (64, 48), np.dtype("<u2"), frame_period_s=0.02, pixel_size_nm=0.02, beam_energy_ev=3e5,
    dose_rate_e_nm2_s=1e6, frames_expected=len(STACK),
)  # fmt: skip


def movie(algorithm: Algorithm = "none", series_id: int = 5) -> Iterator[Item]:
    yield replace(HEADER, series_id=series_id)
    for index, counts in enumerate(STACK):
        payload = memoryview(encode(counts, algorithm))
        encoding = Encoding((64, 48), np.dtype("<u2"), algorithm)
        yield Frame(series_id, index, 10**9 + index * 20_000_000, 0, payload, encoding)
    yield SeriesEnd(series_id)


@contextmanager
def playing(source: Iterator[Item] | object, **options: object) -> Iterator[tuple[str, Callable[[], Played]]]:
    """`play` in a thread; the address it is bound to, and a function that waits for its outcome."""
    bound: queue.Queue[str] = queue.Queue()
    outcome: queue.Queue[Played | BaseException] = queue.Queue()
    told = threading.Event()

    def run() -> None:
        settings = {"stop": told.is_set, "patience_s": PATIENCE_S, **options}
        try:
            outcome.put(play(source, "tcp://127.0.0.1:*", on_bound=bound.put, **settings))  # type: ignore[arg-type]
        except BaseException as error:
            outcome.put(error)

    def result() -> Played:
        done = outcome.get(timeout=PATIENCE_S)
        if isinstance(done, BaseException):
            raise done
        return done

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield bound.get(timeout=PATIENCE_S), result
    finally:
        told.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def receiver(endpoint: str, hwm: int = 0) -> Iterator[Callable[[], list[bytes]]]:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.rcvhwm = hwm
        socket.linger = 0
        socket.rcvtimeo = int(PATIENCE_S * 1000)
        socket.connect(endpoint)
        yield socket.recv_multipart


def receive_series(endpoint: str, series: int = 1, dialect: str = "auto", idle_s: float = 10) -> list[Item]:
    """What ingest makes of what is sent, until so many series are over."""
    source = ZmqSource(endpoint, idle_s=idle_s, dialect=dialect)
    items: list[Item] = []
    try:
        for item in source:
            if item is None:
                continue
            items.append(item)
            if isinstance(item, Frame):
                _ = item.counts
            series -= isinstance(item, SeriesEnd)
            if series == 0:
                break
    finally:
        source.close()
    assert not source.faults
    return items


@pytest.mark.parametrize("algorithm", ["none", "lz4", "bslz4"])
@pytest.mark.parametrize("stored", ["none", "bslz4"])
def test_messages_are_those_of_a_camera(algorithm: Algorithm, stored: Algorithm) -> None:
    with playing(movie(stored), algorithm=algorithm) as (endpoint, result), receiver(endpoint) as receive:
        raw = [receive() for _ in range(len(STACK) + 2)]
        played = result()
    assert all(len(parts) == 1 for parts in raw)
    start, *images, end = [dectris_v2.decode_message(parts[0]) for parts in raw]
    assert isinstance(start, StartMessage)
    assert isinstance(end, EndMessage)
    assert start.series == end.series
    assert start.series[0] == 5
    payload_bytes = 0
    for index, (message, counts) in enumerate(zip(images, STACK, strict=True)):
        assert isinstance(message, ImageMessage)
        assert (message.index, message.t_ns) == (index, 10**9 + index * 20_000_000)
        (channel,) = message.channels.values()
        assert channel.encoding.algorithm == algorithm
        assert bytes(channel.payload) == encode(counts, algorithm)
        payload_bytes += len(channel.payload)
    assert (played.frames, played.bytes, played.max_lag_s) == (len(STACK), payload_bytes, 0.0)
    assert played.seconds > 0


@pytest.mark.parametrize("dialect", ["dectris-v2", "array-1.0"])
def test_what_is_listened_to_is_what_was_recorded(dialect: Dialect) -> None:
    with playing(movie(), dialect=dialect) as (endpoint, result):
        header, *frames, end = receive_series(endpoint, idle_s=1)
        assert result().frames == len(STACK)
    assert isinstance(header, SeriesHeader)
    assert (header.series_id, end) == (5, SeriesEnd(5))
    for name in ("shape_yx", "dtype", "pixel_size_nm", "frame_period_s", "dose_rate_e_nm2_s"):
        assert getattr(header, name) == getattr(HEADER, name), name
    if dialect == "dectris-v2":
        assert header.beam_energy_ev == 3e5
        assert header.frames_expected == len(STACK)
    assert [frame.index for frame in frames if isinstance(frame, Frame)] == list(range(len(STACK)))
    for frame, counts in zip(frames, STACK, strict=True):
        assert isinstance(frame, Frame)
        assert frame.t_ns == 10**9 + frame.index * 20_000_000
        np.testing.assert_array_equal(frame.counts, counts)


def test_gaps_of_the_file_are_gaps_on_the_wire(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = STACK[:4].astype("f4") / 7
        file["frame_index"] = [2, 3, 7, 8]
    with open_recording(tmp_path / "a.h5") as recording, playing(recording) as (endpoint, result):
        items = receive_series(endpoint)
        assert result().frames == 4
    body = [(item.index, 1) if isinstance(item, Frame) else (item.first, item.count) for item in items[1:-1]]  # type: ignore[union-attr]
    assert body[-4:] == [(3, 1), (4, 3), (7, 1), (8, 1)]
    last = items[-2]
    assert isinstance(last, Frame)
    assert last.encoding.dtype == np.dtype("<f4"), "real numbers stay real numbers"
    np.testing.assert_array_equal(last.counts, STACK[3].astype("f4") / 7)


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "si_walk_movie.h5",
        "au_particles_750C_movie.tif",
        "graphene_hrtem/graphene_731px_0.01196nm.tif",
        "wse2_ti/1028_ADF1_2.dm4",
    ],
)
@pytest.mark.parametrize("dialect", ["dectris-v2", "array-1.0"])
def test_real_recordings_arrive_as_they_are(name: str, dialect: Dialect) -> None:
    with open_recording(data_path(*name.split("/"))) as recording:
        with playing(recording, dialect=dialect) as (endpoint, result):
            items = receive_series(endpoint, idle_s=1)
            assert result().frames == len(recording)
        header = items[0]
        assert isinstance(header, SeriesHeader)
        assert header.pixel_size_nm == recording.header.pixel_size_nm
        frames = [item for item in items if isinstance(item, Frame)]
        assert [frame.index for frame in frames] == recording.indices.tolist()
        gaps = [item for item in items if isinstance(item, Gap) and item.first > recording.indices[0]]
        assert [(gap.first, gap.count) for gap in gaps] == [(gap.first, gap.count) for gap in recording.gaps]
        for position, frame in enumerate(frames):
            assert frame.counts.dtype == recording.header.dtype
            np.testing.assert_array_equal(frame.counts, recording.read(position))


def test_a_slow_receiver_holds_the_sender_up_and_loses_nothing(tmp_path: Path) -> None:
    """96 MB through queues that take far less, read only once the sender is stuck."""
    np.save(tmp_path / "a.npy", np.arange(48 * 1024 * 1024, dtype="<u2").reshape(48, 1024, 1024))
    sent: list[int] = []
    waits: list[int] = []
    stuck = threading.Event()

    def stop() -> bool:  # asked while waiting for room
        waits.append(len(sent))
        if waits[-20:] == [len(sent)] * 20 and sent:
            stuck.set()
        return False

    with (
        open_recording(tmp_path / "a.npy") as recording,
        playing(recording, algorithm="none", stop=stop, on_frame=lambda frame: sent.append(frame.index)) as (
            endpoint,
            result,
        ),
        receiver(endpoint, hwm=1) as receive,
    ):
        assert stuck.wait(PATIENCE_S)
        assert len(sent) < 48, "the sender must have been held up"
        raw = [receive() for _ in range(50)]
        assert result().frames == 48
        images = [dectris_v2.decode_message(parts[0]) for parts in raw[1:-1]]
        for position, message in enumerate(images):
            assert isinstance(message, ImageMessage)
            (channel,) = message.channels.values()
            assert bytes(channel.payload) == recording.read(position).tobytes()


def test_all_is_delivered_before_play_returns() -> None:
    with playing(movie()) as (endpoint, result), receiver(endpoint) as receive:
        assert result().frames == len(STACK)  # nothing was read so far
        assert len([receive() for _ in range(len(STACK) + 2)]) == len(STACK) + 2


def test_without_a_receiver_it_says_what_to_do() -> None:
    with playing(movie(), patience_s=0.1) as (endpoint, result), pytest.raises(TimeoutError) as error:
        result()
    assert "no receiver came" in str(error.value)
    assert "hopscope live" in str(error.value)
    assert endpoint.startswith("tcp://127.0.0.1:")


def test_told_to_stop_while_it_waits_for_a_receiver() -> None:
    waiting = threading.Event()
    told = threading.Event()

    def stop() -> bool:
        waiting.set()
        return told.is_set()

    with playing(movie(), stop=stop) as (_, result):
        assert waiting.wait(PATIENCE_S)
        told.set()
        assert result() == Played(0, 0, 0.0, 0.0)


def test_told_to_stop_the_series_is_ended() -> None:
    told = threading.Event()

    def on_frame(frame: Frame) -> None:
        if frame.index == 3:
            told.set()

    with (
        playing(movie(), stop=told.is_set, on_frame=on_frame) as (endpoint, result),
        receiver(endpoint) as receive,
    ):
        assert result().frames == 4
        messages = [dectris_v2.decode_message(receive()[0]) for _ in range(6)]
    assert isinstance(messages[-1], EndMessage)


def test_two_series_one_after_the_other() -> None:
    def both() -> Iterator[Item]:
        yield from movie(series_id=5)
        yield from movie(series_id=6)

    with playing(both()) as (endpoint, result):
        items = receive_series(endpoint, series=2)
        assert result().frames == 2 * len(STACK)
    assert [item.series_id for item in items if isinstance(item, SeriesHeader)] == [5, 6]
    assert sum(isinstance(item, Frame) for item in items) == 2 * len(STACK)


def test_memory_that_is_lent_is_copied_before_it_goes_back() -> None:
    lent = bytearray(STACK[0].tobytes())

    def one() -> Iterator[Item]:
        yield HEADER

        def take_back() -> None:
            lent[:] = bytes(len(lent))

        payload = memoryview(lent)
        yield Frame(5, 0, None, 0, payload, Encoding((64, 48), np.dtype("<u2")), on_release=take_back)
        yield SeriesEnd(5)

    with (
        playing(one(), algorithm="none", dialect="array-1.0") as (endpoint, result),
        receiver(endpoint) as receive,
    ):
        _, counts = receive()
        assert result().frames == 1
    assert not any(lent)
    np.testing.assert_array_equal(np.frombuffer(counts, "<u2").reshape(64, 48), STACK[0])


def test_a_damaged_frame_is_left_out_and_the_others_are_sent(caplog: pytest.LogCaptureFixture) -> None:
    def damaged() -> Iterator[Item]:
        for item in movie("bslz4"):
            if isinstance(item, Frame) and item.index == 4:
                item.payload = item.payload[:30]
            yield item

    with playing(damaged(), algorithm="none") as (endpoint, result):
        items = receive_series(endpoint)
        assert result().frames == len(STACK) - 1
    assert [item.index for item in items if isinstance(item, Frame)] == [0, 1, 2, 3, *range(5, len(STACK))]
    assert Gap(5, 4, 1, "wire") in items
    assert "frame 4 is not sent" in caplog.text


def test_an_endpoint_that_is_taken() -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(OSError, match="expected a free address"):
            play(movie(), f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("options", "said"), [({"dialect": "v3"}, "dialect must be"), ({"fps": 0.0}, "fps must be")]
)
def test_impossible_wishes(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        play(movie(), "tcp://127.0.0.1:*", **options)  # type: ignore[arg-type]


def test_a_frame_without_a_header_is_no_series() -> None:
    frames = (item for item in movie() if isinstance(item, Frame))
    with pytest.raises((ValueError, WireError), match="begin with the header"):
        play(frames, "tcp://127.0.0.1:*")
