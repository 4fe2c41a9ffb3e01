"""A camera in its own process, a network with strangers in it, and a reader that takes its time."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import zmq

from engines.runtime import open_engine
from stream.config import Settings
from stream.files import open_recording
from stream.find import OnCpu
from stream.frame import Encoding, Frame, SeriesEnd, SeriesHeader
from stream.ingest import ZmqSource
from stream.pipeline import Analysis
from stream.record import Recorder
from stream.replay import play
from stream.wire import array1, dectris_v2
from tests.helpers import hostile
from tests.helpers.camera import ANY_PORT, camera, check_rules, collect, ends, outline
from tests.helpers.tiny_engine import make_tiny_engine

SHAPE = (64, 96)
SPAWN = multiprocessing.get_context("spawn")


def counts(index: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(index).poisson(5, shape).astype("<u2")


def act_as_camera(endpoint: str, first: int, stop: int, then: str) -> None:
    """Send images first..stop, and then "end" or just "die" without a word."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 30_000
        push.bind(endpoint)
        encoding = Encoding(SHAPE, np.dtype("<u2"))
        if first == 0:
            push.send(dectris_v2.encode_start(SeriesHeader(5, SHAPE, encoding.dtype), series_unique_id="a"))
        for index in range(first, stop):
            payload = counts(index).tobytes()
            push.send(dectris_v2.encode_image(5, index, index, encoding, payload, series_unique_id="a"))
        if then == "end":
            push.send(dectris_v2.encode_end(5, series_unique_id="a"))


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def process(*arguments: object) -> Iterator[None]:
    camera_process = SPAWN.Process(target=act_as_camera, args=arguments)
    camera_process.start()
    try:
        yield
        camera_process.join(60)
        assert camera_process.exitcode == 0
    finally:
        camera_process.kill()
        camera_process.join()


def test_a_camera_that_restarts_is_called_again() -> None:
    endpoint = free_endpoint()
    source = ZmqSource(endpoint)  # before there is anybody
    items = []
    try:
        with process(endpoint, 0, 40, "die"):
            items += collect(source, lambda items: len(items) == 41)
        with process(endpoint, 43, 60, "end"):
            items += collect(source, ends(1))
    finally:
        source.close()
    check_rules(items)
    words = outline(items)
    assert words[40:43] == ["frame 39", "gap 40+3 wire", "frame 43"]
    assert words[-1] == "end 5"
    for item in items:
        if isinstance(item, Frame):
            assert item.t_ns == item.index
            assert np.array_equal(item.counts, counts(item.index))


@pytest.mark.parametrize("dialect", ["dectris-v2", "array-1.0"])
@pytest.mark.parametrize("algorithm", ["none", "lz4", "bslz4"])
def test_what_play_sends_arrives(dialect: str, algorithm: str) -> None:
    header = SeriesHeader(3, SHAPE, np.dtype("<u2"), frame_period_s=0.01, pixel_size_nm=0.02)
    indices = [0, 1, 2, 5, 6]

    class Recorded:
        """The least a FrameSource can be."""

        def __iter__(self):
            yield header
            for index in indices:
                encoding = Encoding(SHAPE, np.dtype("<u2"))
                yield Frame(3, index, index * 1000, 0, memoryview(counts(index).tobytes()), encoding)

        def close(self) -> None: ...

    endpoint = free_endpoint()
    source = ZmqSource(endpoint, idle_s=0.5)
    sender = Thread(
        target=play, args=(Recorded(), endpoint), kwargs={"dialect": dialect, "algorithm": algorithm}
    )
    sender.start()
    try:
        items = collect(source, ends(1))
    finally:
        sender.join()
        source.close()
    check_rules(items)
    assert outline(items) == [
        "header 3",
        "frame 0",
        "frame 1",
        "frame 2",
        "gap 3+2 wire",
        "frame 5",
        "frame 6",
        "end 3",
    ]
    assert isinstance(items[0], SeriesHeader)
    assert items[0].pixel_size_nm == 0.02
    for item in items:
        if isinstance(item, Frame):
            assert item.encoding.algorithm == algorithm
            assert item.t_ns == item.index * 1000
            assert np.array_equal(item.counts, counts(item.index))
    assert not source.faults


def test_a_calibration_that_changes_in_mid_series_begins_it_anew_and_loses_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a socket to the analysis and to disk."""
    encoding = Encoding(SHAPE, np.dtype("<u2"))
    facts = {"series": 4, "frame_period_s": 0.1}
    with camera() as (source, send):
        for index in range(20):
            size_nm = 0.02 if index < 12 else 0.0205
            payload = counts(index).tobytes()
            send(*array1.encode_image(index, None, encoding, payload, pixel_size_nm=size_nm, **facts))
        items = collect(source, lambda items: sum(isinstance(item, Frame) for item in items) == 20)
        faults = dict(source.faults)
    check_rules(items)
    assert faults == {"other-calibration": 1}
    assert "pixel_size_nm 0.02 before, now 0.0205" in caplog.text

    recorder = Recorder(tmp_path, settings_toml="", min_free_mib=1)
    trackers = []
    with open_engine(make_tiny_engine(tmp_path), threads=1) as engine:
        analysis = Analysis(Settings(), OnCpu(engine, "a test"))
        for item in [*items, SeriesEnd(4)]:
            recorder.put(item)
            if isinstance(item, SeriesHeader):
                analysis.begin(item)
                trackers.append(analysis.tracker)
            elif isinstance(item, Frame):
                analysis.start([item])
                list(analysis.fetch())
    recorder.close()
    assert [tracker.sites.pixel_size_nm for tracker in trackers if tracker] == [0.02, 0.0205]
    assert analysis.report()["counters"]["analysed"] == 20
    parts = []
    for path in sorted(tmp_path.glob("*.nxs")):
        with open_recording(path) as recording:
            parts.append((recording.header.pixel_size_nm, recording.indices.tolist()))
    assert parts == [(0.02, list(range(12))), (0.0205, list(range(12, 20)))]


def test_strangers_on_the_network_do_no_harm() -> None:
    with camera() as (source, send):
        address = source.endpoint.removeprefix("tcp://").split(":")
        for greeting in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 5000,
            bytes(64),
            b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL",
        ):
            with socket.create_connection((address[0], int(address[1]))) as stranger:
                stranger.sendall(greeting)
        with zmq.Context() as context, context.socket(zmq.REQ) as confused:
            confused.linger = 0
            confused.connect(source.endpoint)
            send(hostile.image(7, 3))
            assert outline(collect(source, lambda items: len(items) == 2)) == ["header 7", "frame 3"]


def test_large_plain_frames_arrive_whole() -> None:
    shape = (2048, 2048)
    encoding = Encoding(shape, np.dtype("<u2"))
    with camera(buffer_mib=32) as (source, send):
        for index in range(5):
            send(dectris_v2.encode_image(7, index, None, encoding, counts(index, shape).tobytes()))
        frames = collect(source, lambda items: len(items) == 6)[1:]
        for index, frame in enumerate(frames):
            assert isinstance(frame, Frame)
            assert np.array_equal(frame.counts, counts(index, shape))


def test_a_reader_that_takes_its_time_holds_no_more_than_its_buffer_and_the_sender_waits() -> None:
    frame_mib, buffer_mib = 1, 8
    encoding = Encoding((512, 1024), np.dtype("<u2"))
    payload = bytes(encoding.frame_bytes)
    source = ZmqSource(ANY_PORT, bind=True, buffer_mib=buffer_mib)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger, push.sndhwm, push.sndbuf = 0, 1, 1 << 16
        push.connect(source.endpoint)

        def send_all() -> int:
            first = following[0]
            while push.poll(500, zmq.POLLOUT):
                push.send(dectris_v2.encode_image(7, following[0], None, encoding, payload))
                following[0] += 1
            return following[0] - first

        following = [1]
        push.send(dectris_v2.encode_image(7, 0, None, encoding, payload))
        collect(source, lambda items: len(items) == 2)  # now the size of a frame is known
        for _ in range(3):
            sent = send_all()
            assert (
                buffer_mib - 2 <= sent * frame_mib <= 4 * buffer_mib
            )  # with what lies in the kernel, which may grow
            frames = collect(source, lambda items, sent=sent: len(items) == sent)
            assert all(isinstance(frame, Frame) for frame in frames)  # no gap: the sender waited
    source.close()
