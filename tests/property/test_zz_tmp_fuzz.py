"""Whatever bytes arrive: a message, or a WireError; never another exception, a hang, or memory for the asking."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from contextlib import suppress
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.codecs import decode
from stream.frame import Encoding, Frame, Gap, SeriesEnd, SeriesHeader, WireError
from stream.series import FAR, SeriesOrder
from stream.wire import array1, cbor, dectris_v2
from stream.wire.messages import BadImage, Channel, EndMessage, ImageMessage, Message, StartMessage, facts_of
from tests.helpers import hostile
from tests.helpers.camera import camera, check_rules, collect, outline

quiet = settings(deadline=None, max_examples=120000)

MASK = np.zeros((24, 40), bool)
START = dectris_v2.encode_start(SeriesHeader(7, (24, 40), np.dtype("<u2"), 0.1, 0.1, 0.02, 3e5, 1.5, MASK, 9))
ARRAY1 = array1.encode_image(3, 5, hostile.ENCODING, hostile.PAYLOAD, series=7, pixel_size_nm=0.02)
GOOD = (START, hostile.image(), dectris_v2.encode_end(7), bytes(ARRAY1[0]), bytes(ARRAY1[1]))


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes changed, cut out, put in, and cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(
            st.integers(0, max(0, min(len(data) - 1, 300)) if draw(st.booleans()) else max(0, len(data) - 1))
        )
        kind = draw(st.sampled_from(["change", "insert", "remove", "cut"]))
        if kind == "change" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 9))]
        else:
            del data[max(at, 1) :]
    return bytes(data)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=40)
    | st.sampled_from(["start", "image", "end", "uint16", "bslz4", hostile.PAYLOAD]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4)
        | st.tuples(st.sampled_from([0, 40, 1040, 64, 69, 87, 56500, 55799]), inner).map(
            lambda p: cbor2.CBORTag(*p)
        )
    ),
    max_leaves=12,
)
V2_KEYS = """type series_id series_unique_id image_id data channels pixel_mask user_data start_time image_size_x
    image_size_y image_dtype frame_time count_time incident_energy number_of_images pixel_size_nm other"""
ARRAY1_KEYS = """htype shape type frame series series_unique_id encoding endianness endianess timeStamp t_ns ndattr
    user_data pixel_size_nm frame_period_s"""


def read_v2(data: bytes) -> None:
    with suppress(WireError):
        use(dectris_v2.decode_message(data))


def read_array1(parts: list[bytes]) -> None:
    with suppress(WireError):
        for message in array1.decode([memoryview(part) for part in parts]):
            use(message)


def use(message: Message) -> None:
    """What follows of a message may be refused as well, and in no other way."""
    if not isinstance(message, ImageMessage):
        return
    assert 0 <= message.index < 2**63
    assert message.t_ns is None or -(2**63) <= message.t_ns < 2**63
    with suppress(WireError):
        facts_of(message.about)
    for channel in message.channels.values():
        with suppress(WireError):
            assert decode(channel.payload, channel.encoding).shape == channel.encoding.shape_yx


@quiet
@given(st.sampled_from(GOOD[:3]).flatmap(damaged))
def test_damaged_messages_of_stream_v2(data: bytes) -> None:
    read_v2(data)


@quiet
@given(
    st.dictionaries(st.sampled_from(V2_KEYS.split()), values, max_size=9),
    st.sampled_from(["start", "image", "end", None]),
)
def test_stream_v2_with_anything_in_its_fields(fields: dict[str, Any], kind: str | None) -> None:
    known = {"type": kind, "series_id": 1, "image_id": 2} if kind else {}
    read_v2(cbor2.dumps({**known, **fields}))


@quiet
@given(st.binary(max_size=400))
@example(b"\x9f" * 400)
@example(b"\xbf" * 400)
@example(b"\x5f" * 400)
def test_any_bytes(data: bytes) -> None:
    read_v2(data)
    read_array1([data, data])
    with suppress(WireError):
        cbor.loads(data)


@quiet
@given(st.data())
def test_damaged_messages_of_array1(data: st.DataObject) -> None:
    head, counts = GOOD[3:]
    read_array1([data.draw(damaged(head)), counts])
    read_array1([head, data.draw(damaged(counts))])


@quiet
@given(st.data())
def test_array1_with_anything_in_its_fields(data: st.DataObject) -> None:
    inner = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    anything = inner | st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    fields = {
        **json.loads(GOOD[3]),
        **data.draw(st.dictionaries(st.sampled_from(ARRAY1_KEYS.split()), anything, max_size=6)),
    }
    read_array1([json.dumps(fields).encode(), GOOD[4]])


def test_no_message_is_given_memory_for_the_asking() -> None:
    tracemalloc.start()
    try:
        for _, data in [*hostile.v2_foreign(), *hostile.v2_images()]:
            read_v2(data)
        for _, parts in [*hostile.array1_foreign(), *hostile.array1_images()]:
            read_array1(parts)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


ENCODING = Encoding((1, 2), np.dtype("<u2"))
CHANNELS = {"1": Channel(memoryview(b"1234"), ENCODING)}
series = st.sampled_from([(1, ""), (2, ""), (2, "b"), (None, "")])
index = st.integers(0, 12) | st.sampled_from([FAR + 20, FAR + 21, 2**62])
some_messages = st.lists(
    st.builds(ImageMessage, series, index, st.none(), st.just(CHANNELS))
    | st.builds(ImageMessage, series, index, st.none(), st.just(CHANNELS))
    | st.builds(BadImage, series, index, st.just("bad"))
    | st.builds(StartMessage, series.filter(lambda s: s[0] is not None), st.sampled_from([None, (1, 2)]))
    | st.builds(EndMessage, series)
    | st.just("silence"),
    max_size=60,
)


@settings(deadline=None, max_examples=12000)
@given(some_messages)
def test_any_order_of_messages_makes_whole_series(messages: list[Message | BadImage | str]) -> None:
    faults: Counter[str] = Counter()
    order = SeriesOrder(lambda kind, reason: faults.update([kind]))
    items = []
    for message in messages:
        items += order.silence() if isinstance(message, str) else order.take(message)
    check_rules(items)
    came = sum(isinstance(message, ImageMessage) for message in messages)
    delivered = sum(isinstance(item, Frame) for item in items)
    refused = sum(faults[kind] for kind in ("repeated", "out-of-order", "far-index", "leftover"))
    assert came == delivered + refused  # whatever is not delivered was counted
    spoiled = sum(item.count for item in items if isinstance(item, Gap) and item.reason == "decode")
    assert spoiled <= faults["bad-image"] == sum(isinstance(message, BadImage) for message in messages)
    began = sum(isinstance(item, SeriesHeader) for item in items)
    assert began - sum(isinstance(item, SeriesEnd) for item in items) in (0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_source_survives_a_thousand_damaged_messages(seed: int) -> None:
    rng = random.Random(seed)
    with camera() as (source, send):
        for _ in range(1000):
            parts = [bytearray(data) for data in rng.choice([GOOD[:1], GOOD[1:2], GOOD[2:3], GOOD[3:]])]
            for _ in range(rng.randint(1, 4)):
                part = rng.choice(parts)
                if part:
                    part[rng.randrange(min(len(part), 200))] = rng.randrange(256)
                    del part[rng.choice([len(part), rng.randrange(len(part))]) :]
            send(*map(bytes, parts))
        send(dectris_v2.encode_start(SeriesHeader(99, (24, 40), np.dtype("<u2"))))
        send(hostile.image(99, 0))
        send(dectris_v2.encode_end(99))
        items = collect(source, lambda items: "end 99" in outline(items[-1:]))
        check_rules(items)
        assert outline(items)[-3:] == ["header 99", "frame 0", "end 99"]
        assert sum(source.faults.values()) > 500
