"""DECTRIS SIMPLON Stream V2: one CBOR map per ZeroMQ message, `type` start, image or end.

Counts are a multi-dimensional array (tag 40; 1040 if column-major) of a typed array (RFC 8746), whose byte
string may be compressed (tag 56500: algorithm, element size, bytes). Every known field is checked; what is
unknown passes into the metadata. What senders do differently from each other and from the documentation is
understood: no self-describing tag, no `image_dtype`, channels that are called otherwise in the images.

Source: DECTRIS, Stream V2 and the description of CBOR tag 56500, github.com/dectris/documentation.
"""

from __future__ import annotations

from typing import Any

import cbor2
import numpy as np

from stream.codecs import decode as decode_counts
from stream.frame import Encoding, SeriesHeader, WireError
from stream.wire import cbor, fields, messages
from stream.wire.messages import BadImage, Channel, EndMessage, ImageMessage, Message, Series, StartMessage

ROW_MAJOR, COLUMN_MAJOR, COMPRESSED = 40, 1040, 56500
_TYPED = {64: "|u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "|u1", 69: "<u2", 70: "<u4", 71: "<u8"}
_TYPED |= {72: "|i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8"}
_TYPED |= {80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8"}
_TAG_OF = {text: tag for tag, text in _TYPED.items() if tag != 68}  # 68 is u1 that saturates: the same bytes


def decode(parts: list[memoryview]) -> list[Message]:
    """The message in the parts of one ZeroMQ message; raises as `decode_message`."""
    if len(parts) != 1:
        raise WireError(f"a message of {len(parts)} parts; expected one CBOR map")
    return [decode_message(parts[0])]


def decode_message(data: bytes | memoryview) -> Message:
    """Read one message; payloads are views of `data`.

    Raises
    ------
    BadImage
        If it is an image that is no good, cut off for instance, but says which one it is.
    WireError
        If it is not a message of this protocol.
    """
    message: dict[str | int, Any] = {}
    try:
        for key, value in cbor.pairs(data):
            message[key] = value
        kind = messages.get(message, "type", fields.text)
        if kind == "start":
            return _start(message)
        if kind == "image":
            return _image(message)
        if kind == "end":
            return EndMessage(_series(message))
        raise WireError(f"type: expected start, image or end, got {kind[:40]!r}")
    except WireError as error:
        if message.get("type") != "image":
            raise
        try:
            which = _series(message), messages.get(message, "image_id", fields.count)
        except WireError:
            raise error from None
        raise BadImage(*which, str(error)) from error


def _series(message: dict[str | int, Any]) -> Series:
    number = messages.get(message, "series_id", fields.count)
    return number, messages.get_or(message, "series_unique_id", fields.text, "") or ""


def _start(message: dict[str | int, Any]) -> StartMessage:
    series = _series(message)
    ny = messages.get_or(message, "image_size_y", fields.count, None)
    nx = messages.get_or(message, "image_size_x", fields.count, None)
    shape_yx = (ny, nx) if ny and nx else None
    kind = messages.get_or(message, "image_dtype", fields.text, None)
    channels = message.get("channels") or []
    if not isinstance(channels, list) or not all(isinstance(name, str) for name in channels):
        raise WireError(f"channels: expected a list of texts, got {str(channels)[:80]}")
    facts = messages.facts_of(message)
    facts["frame_period_s"] = facts["frame_period_s"] or _number(message, "frame_time")
    facts["exposure_s"] = _number(message, "count_time")
    facts["beam_energy_ev"] = _number(message, "incident_energy")
    facts["frames_expected"] = messages.get_or(message, "number_of_images", fields.count, None)
    facts["bad_pixels"] = _bad_pixels(message.get("pixel_mask"), channels, shape_yx)
    return StartMessage(series, shape_yx, messages.dtype(kind) if kind else None, tuple(channels), facts)


def _number(message: dict[str | int, Any], name: str) -> float | None:
    return messages.get_or(message, name, messages.number_above_zero, None)


def _bad_pixels(masks: Any, channels: list[str], shape_yx: tuple[int, int] | None) -> np.ndarray | None:
    """The first channel's mask, (ny, nx) bool: any bit set says that something is wrong with a pixel."""
    if not isinstance(masks, dict):
        return None
    mask = masks.get(channels[0]) if channels else None
    mask = next(iter(masks.values()), None) if mask is None else mask
    if not isinstance(mask, cbor.Tag):  # some senders put a few bytes there, which say nothing
        return None
    channel = _array(mask)
    if shape_yx is not None and channel.encoding.shape_yx != shape_yx:
        raise WireError(f"pixel_mask: expected {shape_yx} pixels, got {channel.encoding.shape_yx}")
    return decode_counts(channel.payload, channel.encoding) != 0


def _image(message: dict[str | int, Any]) -> ImageMessage:
    series = _series(message)
    index = messages.get(message, "image_id", fields.count)
    arrays = messages.get(message, "data", fields.table)
    if not arrays:
        raise WireError("data: expected at least one channel, got none")
    channels = {str(name): _array(array) for name, array in arrays.items()}
    about = {str(key): value for key, value in message.items() if key != "data"}
    return ImageMessage(series, index, _time_ns(message.get("start_time")), channels, about)


def _time_ns(rational: Any) -> int | None:
    """Since the start of the series, in ns, from [numerator, denominator] in s; None if not said."""
    if rational is None:
        return None
    try:
        numerator, denominator = map(fields.count, rational)
        return fields.count(numerator * 1_000_000_000 // denominator)
    except (fields.Bad, TypeError, ValueError, ZeroDivisionError):
        got = _outline(rational)
        raise WireError(f"start_time: expected [numerator, denominator] in s, got {got}") from None


def _array(item: Any) -> Channel:
    """The counts in a multi-dimensional array."""
    match item:
        case cbor.Tag(number, [[rows, columns], cbor.Tag(kind, content)]) if (
            number in (ROW_MAJOR, COLUMN_MAJOR) and kind in _TYPED
        ):
            dtype = np.dtype(_TYPED[kind])
        case _:
            raise WireError(f"data: expected a two-dimensional typed array, got {_outline(item)}")
    match content:
        case memoryview():
            payload, algorithm = content, "none"
        case cbor.Tag(number, [("bslz4" | "lz4") as algorithm, size, memoryview() as payload]) if (
            number == COMPRESSED
        ):
            if algorithm == "bslz4" and size != dtype.itemsize:
                raise WireError(f"elements of {size} bytes, shuffled, in an array of {dtype.str}")
        case _:
            raise WireError(f"data: expected bytes, plain, lz4 or bslz4, got {_outline(content)}")
    if item.number == ROW_MAJOR:
        return messages.channel(payload, [rows, columns], dtype, algorithm)
    # Frames are rows everywhere else, so this rare kind is turned at once.
    turned = messages.channel(payload, [columns, rows], dtype, algorithm)
    counts = np.ascontiguousarray(decode_counts(turned.payload, turned.encoding).T)
    return Channel(counts.reshape(-1).view("u1").data, Encoding(counts.shape, dtype))


def _outline(item: Any) -> str:
    """A few words on an item of whatever size."""
    match item:
        case cbor.Tag(number, value):
            return f"tag {number} of {_outline(value)}"
        case list():
            return f"[{', '.join(_outline(part) for part in item[:3])}{', ...' if len(item) > 3 else ''}]"
        case memoryview():
            return f"{len(item)} bytes"
    return str(item)[:40] if isinstance(item, int | float | str) else type(item).__name__


def encode_start(
    header: SeriesHeader, *, series_unique_id: str = "", channel: str = "threshold_1", **others: Any
) -> bytes:
    """The message that begins a series; `others` are further fields, such as detector_description."""
    said = {name: getattr(header, name) for name in ("pixel_size_nm", "dose_rate_e_nm2_s")}
    known = {
        "count_time": header.exposure_s,
        "frame_time": header.frame_period_s,
        "incident_energy": header.beam_energy_ev,
        "number_of_images": header.frames_expected,
        "user_data": {name: value for name, value in said.items() if value is not None} or None,
    }
    if header.bad_pixels is not None:
        mask = cbor2.CBORTag(_TAG_OF["<u4"], header.bad_pixels.astype("<u4").tobytes())
        known["pixel_mask"] = {channel: cbor2.CBORTag(ROW_MAJOR, [list(header.bad_pixels.shape), mask])}
    return _dumps(
        {
            "type": "start",
            "series_id": header.series_id,
            "series_unique_id": series_unique_id,
            "channels": [channel],
            "image_size_x": header.shape_yx[1],
            "image_size_y": header.shape_yx[0],
            "image_dtype": header.dtype.name,
            **{name: value for name, value in known.items() if value is not None},
            **others,
        }
    )


def encode_image(
    series_id: int,
    index: int,
    t_ns: int | None,
    encoding: Encoding,
    payload: bytes | memoryview,
    *,
    exposure_ns: int | None = None,
    series_unique_id: str = "",
    channel: str = "threshold_1",
    **others: Any,
) -> bytes:
    """The message of one exposure, with `payload` in it as it is; `others` are further fields."""
    times: dict[str, list[int]] = {}
    if t_ns is not None:
        times["start_time"] = [t_ns, 1_000_000_000]
        if exposure_ns is not None:
            times["stop_time"] = [t_ns + exposure_ns, 1_000_000_000]
    if exposure_ns is not None:
        times["real_time"] = [exposure_ns, 1_000_000_000]
    content: Any = b""
    if encoding.algorithm != "none":
        content = cbor2.CBORTag(COMPRESSED, [encoding.algorithm, encoding.dtype.itemsize, b""])
    typed = cbor2.CBORTag(_TAG_OF[encoding.dtype.str], content)
    head = _dumps(
        {
            "type": "image",
            "series_id": series_id,
            "series_unique_id": series_unique_id,
            "image_id": index,
            **times,
            **others,
            "data": {channel: cbor2.CBORTag(ROW_MAJOR, [list(encoding.shape_yx), typed])},
        }
    )
    # The last byte is the empty string in the payload's place: the counts are copied once, into the message.
    length = bytearray(cbor2.dumps(len(payload)))
    length[0] |= 0x40  # from an unsigned integer to a byte string of that length
    return b"".join((head[:-1], length, payload))


def encode_end(series_id: int, *, series_unique_id: str = "") -> bytes:
    """The message that ends a series."""
    return _dumps({"type": "end", "series_id": series_id, "series_unique_id": series_unique_id})


def _dumps(message: dict[str, Any]) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(cbor.SELF_DESCRIBED, message))
