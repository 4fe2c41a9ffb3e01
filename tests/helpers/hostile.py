"""Messages no reader may stumble over: cut off, foreign, oversized, or lying about themselves."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import cbor2
import numpy as np

from stream.codecs import encode
from stream.frame import Encoding
from stream.wire import array1, dectris_v2

SERIES, INDEX = 7, 3
COUNTS = np.arange(24 * 40, dtype="<u2").reshape(24, 40)
ENCODING = Encoding(COUNTS.shape, COUNTS.dtype, "bslz4")
PAYLOAD = encode(COUNTS, "bslz4")


def image(series: int = SERIES, index: int = INDEX, counts: np.ndarray = COUNTS) -> bytes:
    """A good image of Stream V2."""
    return dectris_v2.encode_image(
        series, index, 0, Encoding(counts.shape, counts.dtype, "bslz4"), encode(counts, "bslz4")
    )


def v2_images() -> Iterator[tuple[str, bytes]]:
    """Images of Stream V2 that are no good, but say that they are image INDEX of series SERIES."""
    good = image()
    yield "cut off in the counts", good[: len(good) // 2]
    yield "a byte short", good[:-1]
    yield "a byte too long", good + b"\0"
    for name, shape in {
        "of no pixels": [0, 40],
        "of another size": [24, 41],
        "of one dimension": [960],
        "of three dimensions": [1, 24, 40],
        "as large as the sky": [2**40, 2**40],
        "of negative size": [-24, -40],
        "of text size": ["24", "40"],
    }.items():
        yield name, _image(array=cbor2.CBORTag(40, [shape, _typed()]))
    yield "of another kind of array", _image(array=cbor2.CBORTag(41, [[24, 40], _typed()]))
    yield "of floats too long", _image(array=cbor2.CBORTag(40, [[24, 40], cbor2.CBORTag(87, PAYLOAD)]))
    yield "of an unknown type", _image(array=cbor2.CBORTag(40, [[24, 40], cbor2.CBORTag(99, PAYLOAD)]))
    yield "a plain list", _image(array=COUNTS.tolist())
    yield "without any array", _image(array=None)
    yield "without any channel", _image(data={})
    yield "with a list for channels", _image(data=[1, 2])
    yield "without counts", _image(array=cbor2.CBORTag(40, [[24, 40], _typed(payload=b"")]))
    yield "compressed by an unknown algorithm", _compressed("zstd", 2, PAYLOAD)
    yield "shuffled by another size", _compressed("bslz4", 4, PAYLOAD)
    yield "compressed bytes that are text", _compressed("bslz4", 2, "bytes")
    yield "with a bomb for counts", _compressed("bslz4", 2, struct.pack(">QI", 2**62, 8192) + PAYLOAD[12:])
    yield "with blocks of nothing", _compressed("bslz4", 2, struct.pack(">QI", 1920, 0) + PAYLOAD[12:])
    yield "with blocks out of step", _compressed("bslz4", 2, struct.pack(">QI", 1920, 1000) + PAYLOAD[12:])
    yield "with counts for less", _compressed("bslz4", 2, struct.pack(">QI", 1918, 8192) + PAYLOAD[12:])
    yield "with a framing only", _compressed("lz4", 2, PAYLOAD[:11])
    yield "plain and too short", _image(array=cbor2.CBORTag(40, [[24, 40], cbor2.CBORTag(69, PAYLOAD)]))
    yield "timed by nothing", _image(start_time=[1, 0])
    yield "timed by text", _image(start_time="now")
    yield "timed beyond all clocks", _image(start_time=[2**63, 1])
    yield (
        "out of step with itself",
        _image(array=cbor2.CBORTag(1040, [[24, 40], _typed(payload=PAYLOAD[:40])])),
    )


def v2_foreign() -> Iterator[tuple[str, bytes]]:
    """Single parts that are not messages of Stream V2, or do not say of which image they are."""
    yield "empty", b""
    yield "a network scanner", b"GET / HTTP/1.0\r\n\r\n"
    yield "zeros", bytes(1000)
    yield "ones", b"\xff" * 1000
    yield "a tag of nothing", b"\xd9\xd9\xf7"
    yield "tags without end", b"\xc1" * 5000
    yield "lists without end", b"\x81" * 5000
    yield "maps without end", b"\xa1\x61a" * 5000
    yield (
        "a pickle",
        b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    )
    yield "a map larger than memory", b"\xbb" + b"\xff" * 8
    yield "a list larger than memory", b"\xa1\x61a\x9b" + b"\x7f" * 8
    yield "a string larger than memory", b"\xa1\x61a\x5b" + b"\x7f" * 8 + b"abc"
    yield "too many items", b"\xa1\x64type\x9a" + struct.pack(">I", 200_000) + bytes(200_000)
    yield "no map", cbor2.dumps([1, 2, 3])
    yield "no type", cbor2.dumps({"series_id": 1})
    yield "an unknown type", cbor2.dumps({"type": "pause", "series_id": 1})
    yield "a type that is none", cbor2.dumps({"type": 3, "series_id": 1})
    yield "keys of keys", cbor2.dumps({(1, 2): 3})
    yield "the same key twice", b"\xa2\x64type\x63end\x64type\x63end"
    yield "text that is none", b"\xa1\x64type\x63\xff\xfe\xfd"
    yield "a start without a series", cbor2.dumps({"type": "start"})
    yield "a start of a negative series", cbor2.dumps({"type": "start", "series_id": -1})
    yield (
        "a start of counts that are text",
        cbor2.dumps({"type": "start", "series_id": 1, "image_dtype": "str"}),
    )
    yield "a start in no time", cbor2.dumps({"type": "start", "series_id": 1, "frame_time": float("nan")})
    yield "a start in negative time", cbor2.dumps({"type": "start", "series_id": 1, "count_time": -1.0})
    yield "an end of truth", cbor2.dumps({"type": "end", "series_id": True})
    yield "an image of no number", _image(image_id=None)
    yield "an image of a negative number", _image(image_id=-1)
    yield "an image of too large a number", _image(image_id=2**63)


def array1_images() -> Iterator[tuple[str, list[bytes]]]:
    """Messages of array-1.0 that are no good, but say that they are image INDEX."""
    yield "short counts", _array1(counts=COUNTS.tobytes()[:-1])
    yield "long counts", _array1(counts=COUNTS.tobytes() + b"\0")
    yield "no counts", _array1(counts=b"")
    for name, value in {"shape": [24], "type": "object", "encoding": "jpeg", "endianness": "middle"}.items():
        yield f"bad {name}", _array1(**{name: value})
    yield "no shape", _array1(shape=None)
    yield "a huge shape", _array1(shape=[10**400, 1])
    yield "an early time", _array1(timeStamp=-(10.0**300))


def array1_foreign() -> Iterator[tuple[str, list[bytes]]]:
    """Messages that are not array-1.0, or do not say of which image they are."""
    yield "no part", []
    yield "one part", [b"{}"]
    yield "three parts", [b"{}", b"", b""]
    yield "no JSON", [b"\xff\xfe", b""]
    yield "deep JSON", [b"[" * 100_000, b""]
    yield "long JSON", [b" " * (2 << 20) + b"{}", b""]
    yield "a JSON list", [b"[]", b""]
    yield "another htype", [b'{"htype":"dimage-1.0","frame":1}', b""]
    yield "no frame", _array1(frame=None)
    yield "a negative frame", _array1(frame=-1)
    yield "a fraction of a frame", _array1(frame=0.5)
    yield "a series that is text", _array1(series="seven")


def _typed(payload: bytes | str = PAYLOAD, algorithm: str = "bslz4", size: int = 2) -> cbor2.CBORTag:
    return cbor2.CBORTag(69, cbor2.CBORTag(56500, [algorithm, size, payload]))


def _compressed(algorithm: str, size: int, payload: bytes | str) -> bytes:
    return _image(array=cbor2.CBORTag(40, [[24, 40], _typed(payload, algorithm, size)]))


def _image(array: object = None, **fields: object) -> bytes:
    message = {
        "type": "image",
        "series_id": SERIES,
        "image_id": INDEX,
        "data": {"threshold_1": array if array is not None else None},
        **fields,
    }
    return cbor2.dumps(cbor2.CBORTag(55799, message))


def _array1(counts: bytes = COUNTS.tobytes(), **fields: object) -> list[bytes]:
    head, _ = array1.encode_image(INDEX, None, Encoding(COUNTS.shape, COUNTS.dtype), b"")
    return [json.dumps({**json.loads(head), **fields}).encode(), counts]
