"""array-1.0: what scripts and areaDetector send is understood; what is no good says why and which."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from stream.codecs import decode as decode_counts
from stream.codecs import encode
from stream.frame import Encoding, WireError
from stream.wire import array1
from stream.wire.messages import BadImage, ImageMessage, facts_of
from tests.helpers import hostile

COUNTS = np.arange(24 * 40).reshape(24, 40)
PIXELS = COUNTS.astype("<u2")


def read(parts: list[Any]) -> ImageMessage:
    (message,) = array1.decode([memoryview(part) for part in parts])
    assert isinstance(message, ImageMessage)
    return message


def sent(counts: np.ndarray = PIXELS, **fields: Any) -> list[bytes]:
    about = {
        "htype": "array-1.0",
        "shape": list(counts.shape),
        "type": counts.dtype.name,
        "frame": 5,
        **fields,
    }
    return [json.dumps(about).encode(), counts.tobytes()]


def counts_of(message: ImageMessage) -> np.ndarray:
    channel = message.channels["counts"]
    return decode_counts(channel.payload, channel.encoding)


@pytest.mark.parametrize("algorithm", ["none", "lz4", "bslz4"])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", ">f4"])
def test_an_image_says_again_what_was_told(algorithm: Any, dtype: str) -> None:
    counts = COUNTS.astype(dtype)
    encoding = Encoding(counts.shape, counts.dtype, algorithm)
    parts = array1.encode_image(
        12, 99, encoding, encode(counts, algorithm), series=4, series_unique_id="a", pixel_size_nm=0.02
    )
    message = read(parts)
    assert (message.series, message.index, message.t_ns) == ((4, "a"), 12, 99)
    assert message.channels["counts"].encoding == encoding
    assert np.array_equal(counts_of(message), counts)
    assert facts_of(message.about)["pixel_size_nm"] == 0.02


def test_the_least_a_script_can_send() -> None:
    message = read(sent())
    assert (message.series, message.index, message.t_ns) == ((None, ""), 5, None)
    assert np.array_equal(counts_of(message), COUNTS)
    facts = facts_of(message.about)
    assert facts.pop("metadata")["frame"] == 5
    assert set(facts.values()) == {None}


@pytest.mark.parametrize("key", ["endianness", "endianess"])
def test_either_spelling_of_the_byte_order(key: str) -> None:
    message = read(sent(COUNTS.astype(">u2"), type="uint16", **{key: "big"}))
    assert message.channels["counts"].encoding.dtype.str == ">u2"
    assert np.array_equal(counts_of(message), COUNTS)


def test_areadetector() -> None:
    about = {"encoding": "", "timeStamp": 1.0e9 + 0.5, "ndattr": {"Gain": 2.0}}
    message = read(sent(**about))
    assert message.t_ns == 1_000_000_000_500_000_000
    assert message.channels["counts"].encoding == Encoding((24, 40), np.dtype("<u2"))
    assert facts_of(message.about)["metadata"]["ndattr"] == {"Gain": 2.0}


def test_areadetector_before_2022_sent_x_before_y() -> None:
    assert np.array_equal(counts_of(read(sent(htype=["array-1.0"], shape=[40, 24], ndattr={}))), COUNTS)


def test_a_list_of_one_htype_alone_does_not_turn_the_shape() -> None:
    assert np.array_equal(counts_of(read(sent(htype=["array-1.0"]))), COUNTS)


def test_a_time_in_another_form_says_nothing() -> None:
    assert read(sent(timeStamp=[1, 2])).t_ns is None


def test_payloads_are_views_of_the_message() -> None:
    parts = sent()
    payload = read(parts).channels["counts"].payload
    assert np.shares_memory(np.frombuffer(payload, "u1"), np.frombuffer(parts[1], "u1"))
    assert payload.readonly


@pytest.mark.parametrize(("name", "parts"), list(hostile.array1_images()), ids=lambda value: str(value)[:30])
def test_an_image_that_is_no_good_says_which_it_is(name: str, parts: list[bytes]) -> None:
    with pytest.raises(BadImage) as caught:
        read(parts)
    assert (caught.value.series, caught.value.index) == ((None, ""), hostile.INDEX)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("name", "parts"), list(hostile.array1_foreign()), ids=lambda value: str(value)[:30])
def test_what_is_foreign_is_refused(name: str, parts: list[bytes]) -> None:
    with pytest.raises(WireError) as caught:
        read(parts)
    assert not isinstance(caught.value, BadImage)
    assert len(str(caught.value)) < 400
