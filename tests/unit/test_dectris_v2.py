"""Stream V2: what we send and what was really sent is understood; what is no good says why and which."""

from __future__ import annotations

from typing import Any

import cbor2
import numpy as np
import pytest

from stream.codecs import decode, encode
from stream.frame import Encoding, SeriesHeader, WireError
from stream.wire import dectris_v2
from stream.wire.dectris_v2 import decode_message, encode_end, encode_image, encode_start
from stream.wire.messages import BadImage, EndMessage, ImageMessage, StartMessage
from tests.helpers import hostile
from tests.helpers.data import data_path

COUNTS = np.arange(24 * 40).reshape(24, 40) % 97
TYPED_TAGS = {64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8", 72: "i1"}
TYPED_TAGS |= {73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8"}
TYPED_TAGS |= {80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8"}


def start(**fields: Any) -> StartMessage:
    message = decode_message(cbor2.dumps({"type": "start", "series_id": 5, **fields}))
    assert isinstance(message, StartMessage)
    return message


def image(**fields: Any) -> ImageMessage:
    message = decode_message(
        cbor2.dumps({"type": "image", "series_id": 5, "image_id": 2, "data": {"1": array()}, **fields})
    )
    assert isinstance(message, ImageMessage)
    return message


def array(counts: np.ndarray = COUNTS, tag: int = 69, number: int = 40) -> cbor2.CBORTag:
    content = counts.astype(TYPED_TAGS[tag]).tobytes(order="F" if number == 1040 else "C")
    return cbor2.CBORTag(number, [list(counts.shape), cbor2.CBORTag(tag, content)])


def counts_of(message: ImageMessage, channel: str | None = None) -> np.ndarray:
    found = message.channels[channel] if channel else next(iter(message.channels.values()))
    return decode(found.payload, found.encoding)


def test_a_start_says_again_what_was_told() -> None:
    bad = np.zeros((24, 40), bool)
    bad[3, 4] = True
    header = SeriesHeader(9, (24, 40), np.dtype("<u2"), 0.01, 0.009, 0.02, 300e3, 1.5e5, bad, 600)
    data = encode_start(header, series_unique_id="01ABC", detector_description="phantom")
    assert data[:3] == b"\xd9\xd9\xf7"
    message = decode_message(data)
    assert isinstance(message, StartMessage)
    assert message.series == (9, "01ABC")
    assert (message.shape_yx, message.dtype) == (header.shape_yx, header.dtype)
    facts = dict(message.facts)
    assert np.array_equal(facts.pop("bad_pixels"), bad)
    metadata = facts.pop("metadata")
    assert facts == {
        "pixel_size_nm": 0.02,
        "dose_rate_e_nm2_s": 1.5e5,
        "frame_period_s": 0.01,
        "exposure_s": 0.009,
        "beam_energy_ev": 300e3,
        "frames_expected": 600,
    }
    assert metadata["detector_description"] == "phantom"
    assert "bytes" not in repr(metadata)


def test_a_start_may_say_next_to_nothing() -> None:
    message = start()
    assert message.shape_yx is None
    assert message.dtype is None
    assert message.channels == ()
    assert {value for name, value in message.facts.items() if name != "metadata"} == {None}


def test_the_detectors_pitch_is_not_the_pixel_size() -> None:
    assert start(pixel_size_x=7.5e-5, pixel_size_y=7.5e-5).facts["pixel_size_nm"] is None


@pytest.mark.parametrize("user_data", [{"pixel_size_nm": 0.03}, '{"pixel_size_nm": 0.03}'])
def test_the_specimens_pixel_size_may_come_as_user_data(user_data: object) -> None:
    assert start(user_data=user_data).facts["pixel_size_nm"] == 0.03


@pytest.mark.parametrize("user_data", ["{no JSON", "a note", 7, [1], {"other": 1}, {"pixel_size_nm": 0}])
def test_user_data_may_be_anything(user_data: object) -> None:
    assert start(user_data=user_data).facts["pixel_size_nm"] is None


@pytest.mark.parametrize("size", [-0.02, float("nan"), float("inf"), "0.02", True, [0.02]])
def test_an_impossible_pixel_size_is_refused(size: object) -> None:
    with pytest.raises(WireError, match="pixel_size_nm: expected"):
        start(user_data={"pixel_size_nm": size})


@pytest.mark.parametrize("mask", [b"\0\0\0\0", {}, {"1": b"\0\0\0\0"}, None, 3])
def test_a_mask_that_is_no_image_says_nothing(mask: object) -> None:
    assert start(pixel_mask=mask).facts["bad_pixels"] is None


def test_a_mask_of_the_first_channel() -> None:
    mask = np.zeros((24, 40), "u4")
    mask[1, 2], mask[5, 6] = 1, 1 << 31
    masks = {"2": array(mask * 0, 70), "1": array(mask, 70)}
    fields = {"image_size_y": 24, "image_size_x": 40, "pixel_mask": masks}
    assert np.array_equal(start(channels=["1", "2"], **fields).facts["bad_pixels"], mask != 0)
    with pytest.raises(WireError, match="pixel_mask"):
        start(channels=["1"], **{**fields, "image_size_x": 41})


@pytest.mark.parametrize("tag", TYPED_TAGS)
@pytest.mark.parametrize("number", [40, 1040])
def test_every_typed_array_in_both_orders(tag: int, number: int) -> None:
    counts = counts_of(image(data={"1": array(tag=tag, number=number)}))
    assert counts.dtype == np.dtype(TYPED_TAGS[tag])
    assert np.array_equal(counts, COUNTS)


@pytest.mark.parametrize("algorithm", ["none", "lz4", "bslz4"])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<u4", "<f4"])
def test_an_image_says_again_what_was_told(algorithm: Any, dtype: str) -> None:
    counts = COUNTS.astype(dtype)
    encoding = Encoding(counts.shape, counts.dtype, algorithm)
    data = encode_image(
        9, 600, 123_456_789, encoding, encode(counts, algorithm), exposure_ns=5, series_unique_id="01A"
    )
    message = decode_message(data)
    assert isinstance(message, ImageMessage)
    assert (message.series, message.index, message.t_ns) == ((9, "01A"), 600, 123_456_789)
    assert message.channels["threshold_1"].encoding == encoding
    assert np.array_equal(counts_of(message), counts)


def test_what_we_send_is_plain_cbor() -> None:
    data = encode_image(9, 1, 10, Encoding((24, 40), np.dtype("<u2"), "bslz4"), hostile.PAYLOAD)
    message = cbor2.loads(data)
    array = message["data"]["threshold_1"]
    assert (array.tag, list(array.value[0]), array.value[1].tag) == (40, [24, 40], 69)
    assert list(array.value[1].value.value) == ["bslz4", 2, hostile.PAYLOAD]
    assert list(message["start_time"]) == [10, 10**9]


def test_payloads_are_views_of_the_message() -> None:
    data = hostile.image()
    message = decode_message(data)
    assert isinstance(message, ImageMessage)
    payload = message.channels["threshold_1"].payload
    assert np.shares_memory(np.frombuffer(payload, "u1"), np.frombuffer(data, "u1"))
    assert payload.readonly


def test_a_column_major_array_may_be_compressed() -> None:
    turned = np.ascontiguousarray(COUNTS.astype("<u2").T)
    typed = cbor2.CBORTag(69, cbor2.CBORTag(56500, ["bslz4", 2, encode(turned, "bslz4")]))
    assert np.array_equal(counts_of(image(data={"1": cbor2.CBORTag(1040, [[24, 40], typed])})), COUNTS)


def test_all_channels_are_there_in_their_order() -> None:
    message = image(data={"threshold_2": array(COUNTS + 1), "threshold_1": array()})
    assert list(message.channels) == ["threshold_2", "threshold_1"]
    assert np.array_equal(counts_of(message, "threshold_1"), COUNTS)


@pytest.mark.parametrize(
    ("rational", "t_ns"),
    [
        ([0, 50_000_000], 0),
        ([215_873, 50_000_000], 4_317_460),
        ([1, 3], 333_333_333),
        ([2**62, 10**9], 2**62),  # as an integer: a float would be off by hundreds of ns
        (None, None),
    ],
)
def test_times_are_rationals(rational: object, t_ns: int | None) -> None:
    assert image(start_time=rational).t_ns == t_ns


@pytest.mark.parametrize("dumps", [cbor2.dumps, lambda item: cbor2.dumps(cbor2.CBORTag(55799, item))])
def test_the_tag_of_self_described_cbor_may_be_missing(dumps: Any) -> None:
    assert decode_message(dumps({"type": "end", "series_id": 4})) == EndMessage((4, ""))


def test_unknown_keys_are_kept_as_metadata() -> None:
    known = {
        "x_new": {"deep": [1, 2.5, "three", None, True]},
        "when": cbor2.CBORTag(0, "2023-10-03T17:47:48Z"),
    }
    metadata = start(**known, blob=b"bytes", pixel_mask={"1": array(tag=70)}, flatfield={}).facts["metadata"]
    assert metadata["x_new"] == known["x_new"]
    assert metadata["when"] == "2023-10-03T17:47:48Z"
    assert "blob" not in metadata
    assert metadata["pixel_mask"] == {}


def test_an_end_says_again_what_was_told() -> None:
    assert decode_message(encode_end(9, series_unique_id="01A")) == EndMessage((9, "01A"))


@pytest.mark.parametrize(("name", "data"), list(hostile.v2_images()), ids=lambda value: str(value)[:40])
def test_an_image_that_is_no_good_says_which_it_is(name: str, data: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        decode_message(data)
    assert (caught.value.series, caught.value.index) == ((hostile.SERIES, ""), hostile.INDEX)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("name", "data"), list(hostile.v2_foreign()), ids=lambda value: str(value)[:40])
def test_what_is_foreign_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode_message(data)
    assert not isinstance(caught.value, BadImage)
    assert len(str(caught.value)) < 400


def test_a_message_has_one_part() -> None:
    with pytest.raises(WireError, match="2 parts"):
        dectris_v2.decode([memoryview(hostile.image())] * 2)


@pytest.mark.data
class TestTheRealCapture:
    """An EIGER2 16M in 2023: no self-describing tag and no image_dtype in the start, no compression but bslz4."""

    def message(self, name: str) -> Any:
        return decode_message(data_path("dectris_v2", f"{name}.cbor").read_bytes())

    def test_start(self) -> None:
        start = self.message("start")
        assert start.series == (15614, "01HBV3JPF9T4ZDPADX6EMK6XMZ")
        assert start.shape_yx == (4362, 4148)
        assert start.dtype is None
        assert start.channels == ("threshold_1",)
        assert start.facts["frame_period_s"] == pytest.approx(0.0043176, rel=1e-4)
        assert start.facts["exposure_s"] < start.facts["frame_period_s"]
        assert start.facts["frames_expected"] == 1
        assert start.facts["pixel_size_nm"] is None
        assert start.facts["metadata"]["detector_description"] == "Dectris EIGER2 Si 16M"
        assert start.facts["metadata"]["arm_date"].startswith("2023-10-03")

    def test_image(self) -> None:
        image = self.message("image")
        assert image.series == self.message("start").series
        assert (image.index, image.t_ns) == (0, 0)
        assert image.channels["threshold_1"].encoding == Encoding((4362, 4148), np.dtype("<u2"), "bslz4")

    def test_end(self) -> None:
        assert self.message("end") == EndMessage(self.message("start").series)
