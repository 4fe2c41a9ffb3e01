"""What every FrameSource promises, kept by ZmqSource whatever a camera sends."""

from __future__ import annotations

import gc
import logging
import time
from typing import Any

import cbor2
import numpy as np
import pytest
import zmq

from stream.codecs import encode
from stream.frame import Encoding, Frame, Gap, Item, SeriesHeader
from stream.ingest import ZmqSource
from stream.wire import array1, dectris_v2
from tests.helpers import hostile
from tests.helpers.camera import ANY_PORT, camera, check_rules, collect, ends, outline
from tests.helpers.data import data_path

SHAPE = (24, 40)


def counts(index: int) -> np.ndarray:
    return np.full(SHAPE, index, "<u2") + hostile.COUNTS


def v2(index: int, series: int = 7) -> bytes:
    return hostile.image(series, index, counts(index))


def v2_start(series: int = 7, **fields: Any) -> bytes:
    header = SeriesHeader(series, SHAPE, np.dtype("<u2"), 0.01, 0.009, 0.02, 300e3, frames_expected=10)
    return dectris_v2.encode_start(header, **fields)


def frames(items: list[Item]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def test_a_series_of_stream_v2() -> None:
    with camera() as (source, send):
        send(v2_start())
        for index in (0, 1, 2, 5, 6):
            send(v2(index))
        before_ns = time.monotonic_ns()
        send(dectris_v2.encode_end(7))
        items = collect(source, ends(1))
        check_rules(items)
        assert outline(items)[3:] == ["frame 2", "gap 3+2 wire", "frame 5", "frame 6", "end 7"]
        header = items[0]
        assert isinstance(header, SeriesHeader)
        assert (header.pixel_size_nm, header.frame_period_s, header.beam_energy_ev) == (0.02, 0.01, 300e3)
        for frame in frames(items):
            assert np.array_equal(frame.counts, counts(frame.index))
            assert not frame.counts.flags.writeable
            assert frame.t_ns == 0
            assert before_ns - 60e9 < frame.recv_ns <= time.monotonic_ns()
        assert not source.faults


def test_a_series_of_array1() -> None:
    with camera(idle_s=0.2) as (source, send):
        for index in (4, 5, 7):
            send(
                *array1.encode_image(
                    index, 10 * index, Encoding(SHAPE, np.dtype("<u2")), counts(index).tobytes()
                )
            )
        items = collect(source, ends(1))
        check_rules(items)
        assert outline(items) == ["header 1", "frame 4", "frame 5", "gap 6+1 wire", "frame 7", "end 1"]
        assert [frame.t_ns for frame in frames(items)] == [40, 50, 70]
        assert all(np.array_equal(frame.counts, counts(frame.index)) for frame in frames(items))


@pytest.mark.data
def test_the_real_capture() -> None:
    with camera() as (source, send):
        for name in ("start", "image", "end", "end"):
            send(data_path("dectris_v2", f"{name}.cbor").read_bytes())
        items = collect(source, ends(1))
        assert outline(items) == ["header 15614", "frame 0", "end 15614"]
        header, frame, _ = items
        assert isinstance(header, SeriesHeader)
        assert isinstance(frame, Frame)
        assert header.shape_yx == (4362, 4148)
        assert header.dtype == np.dtype("<u2")
        assert frame.counts.max() == 65535
        assert not source.faults


def test_a_frame_is_a_view_that_outlives_its_message_and_the_source() -> None:
    with camera() as (source, send):
        for index in range(20):
            send(v2(index))
        kept = frames(collect(source, lambda items: len(frames(items)) == 20))
        assert all(isinstance(frame.payload.obj, zmq.Frame) for frame in kept)
    del source
    gc.collect()
    for frame in kept:
        assert np.array_equal(frame.counts, counts(frame.index))
        frame.release()


def test_none_is_yielded_while_nothing_comes() -> None:
    with camera() as (source, _):
        items = iter(source)
        assert [next(items) for _ in range(3)] == [None] * 3


def test_none_is_yielded_while_nothing_but_rubbish_comes() -> None:
    with camera() as (source, send):
        for looked, item in enumerate(source):
            assert item is None
            if looked == 2:
                break
            for _ in range(500):
                send(b"rubbish")


def test_silence_ends_a_series_which_may_go_on() -> None:
    with camera(idle_s=0.15) as (source, send):
        send(v2(3))
        items = collect(source, ends(1))
        send(v2(5))
        items += collect(source, ends(1))
        assert outline(items) == [
            "header 7",
            "frame 3",
            "end 7",
            "header 7",
            "gap 4+1 wire",
            "frame 5",
            "end 7",
        ]


def test_a_slow_camera_is_not_silent_while_it_exposes() -> None:
    header = SeriesHeader(7, SHAPE, np.dtype("<u2"), frame_period_s=3600.0)
    with camera(idle_s=0.01) as (source, send):
        send(dectris_v2.encode_start(header))
        send(v2(0))
        collect(source, lambda items: len(items) == 2)
        items = iter(source)
        assert [next(items) for _ in range(3)] == [None] * 3


def test_every_hostile_message_is_counted_and_the_stream_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    foreign = [data for _, data in hostile.v2_foreign()]
    spoiled = [data for _, data in hostile.v2_images()]
    with camera() as (source, send), caplog.at_level(logging.WARNING):
        for data in foreign:
            send(data)  # before anything is known of the dialect
        send(v2_start())
        for index in range(hostile.INDEX):
            send(v2(index))
        for data in foreign + spoiled:
            send(data)
        for _, parts in hostile.array1_images():
            send(*parts)  # another dialect, within a series
        send(v2(hostile.INDEX + 1))
        send(dectris_v2.encode_end(7))
        items = collect(source, ends(1))
        check_rules(items)
        words = ["header 7", "frame 0", "frame 1", "frame 2", "gap 3+1 decode", "frame 4", "end 7"]
        assert outline(items) == words
        others = len(list(hostile.array1_images()))
        assert source.faults == {
            "foreign": len(foreign),
            "undecodable": len(foreign) + others,
            "bad-image": len(spoiled),
        }
    assert len([record for record in caplog.records if record.name == "stream.ingest"]) == 3


def test_every_hostile_message_of_array1_is_counted_and_the_stream_goes_on() -> None:
    good = array1.encode_image(2, None, Encoding(SHAPE, np.dtype("<u2")), counts(2).tobytes())
    foreign = [parts for _, parts in hostile.array1_foreign() if parts]
    spoiled = [parts for _, parts in hostile.array1_images()]
    with camera(idle_s=0.2) as (source, send):
        send(*good)
        for parts in foreign + spoiled:
            send(*parts)
        items = collect(source, ends(1))
        assert outline(items) == ["header 1", "frame 2", "gap 3+1 decode", "end 1"]
        assert source.faults == {"undecodable": len(foreign), "bad-image": len(spoiled)}


def test_counts_that_do_not_decode_are_told_by_the_frame() -> None:
    """What only decoding can tell is not looked for on the way in; the frame says it, and is recorded all the same."""
    from stream.frame import WireError

    payload = hostile.PAYLOAD[:16] + b"\xff" * (len(hostile.PAYLOAD) - 16)
    with camera() as (source, send):
        send(dectris_v2.encode_image(7, 0, None, hostile.ENCODING, payload))
        (frame,) = frames(collect(source, lambda items: len(items) == 2))
        with pytest.raises(WireError):
            _ = frame.counts


@pytest.mark.parametrize("dialect", ["dectris-v2", "array-1.0"])
def test_a_dialect_may_be_set(dialect: str) -> None:
    with camera(dialect=dialect) as (source, send):
        for index in range(3):
            send(v2(index))
            send(*array1.encode_image(index, None, Encoding(SHAPE, np.dtype("<u2")), counts(index).tobytes()))
        items = collect(source, lambda items: len(frames(items)) == 3)
        assert isinstance(items[0], SeriesHeader)
        assert items[0].series_id == (7 if dialect == "dectris-v2" else 1)
        collect(source, lambda _: source.faults["undecodable"] >= 2)


def test_a_viewing_stream() -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.linger = 0
        source = ZmqSource(ANY_PORT, pattern="sub", bind=True)
        publisher.connect(source.endpoint)
        collect(source, lambda _: publisher.poll(0) > 0)
        assert publisher.recv() == b"\x01"  # it has subscribed
        publisher.send(v2(0))
        assert len(collect(source, lambda items: len(items) == 2)) == 2
        source.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": "nowhere"}, "endpoint"),
        ({"endpoint": "smoke://signals"}, "endpoint"),
        ({"pattern": "pub"}, "pattern"),
        ({"dialect": "klingon"}, "dialect"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZmqSource(**{"endpoint": ANY_PORT, **settings})


def test_an_endpoint_that_is_taken_is_refused() -> None:
    with camera() as (source, _), pytest.raises(OSError, match="camera's endpoint"):
        ZmqSource(source.endpoint, bind=True)


def test_iteration_may_be_left_anywhere_and_taken_up_again() -> None:
    with camera(idle_s=0.2) as (source, send):
        send(v2_start())
        for index in (1, 2, 5):
            send(v2(index))
        words: list[str] = []
        while "end 7" not in words:
            item = next(iter(source))
            words += outline([item]) if item else []
        assert words[1:] == ["gap 0+1 wire", "frame 1", "frame 2", "gap 3+2 wire", "frame 5", "end 7"]


def test_iteration_ends_with_close() -> None:
    with camera() as (source, send):
        send(v2(0))
        seen = []
        for item in source:
            if isinstance(item, Frame):
                source.close()
            seen.append(item)
        assert outline([item for item in seen if item]) == ["header 7", "frame 0"]
        source.close()


def test_what_was_lost_at_the_start_is_a_gap_and_what_was_never_asked_for_is_not() -> None:
    with camera() as (source, send):
        send(v2(5))
        assert not [item for item in collect(source, lambda items: len(items) == 2) if isinstance(item, Gap)]
        send(v2_start(8))
        send(v2(5, 8))
        assert outline(collect(source, lambda items: len(items) == 4))[1:3] == ["header 8", "gap 0+5 wire"]


def test_extra_keys_and_other_names_do_no_harm() -> None:
    start = {**cbor2.loads(v2_start())}
    start |= {"channels": ["1"], "type": "start", "brand_new": {"a": [1]}}
    with camera() as (source, send):
        send(cbor2.dumps(start))
        send(
            dectris_v2.encode_image(7, 0, None, hostile.ENCODING, encode(counts(0), "bslz4"), another=[1, 2])
        )
        header, frame = collect(source, lambda items: len(items) == 2)
        assert isinstance(header, SeriesHeader)
        assert isinstance(frame, Frame)
        assert header.metadata["brand_new"] == {"a": [1]}
        assert np.array_equal(frame.counts, counts(0))
        assert not source.faults
