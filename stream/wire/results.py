"""Messages analyse -> serve, as bytes and back: CBOR maps, one ZeroMQ part each.

An array travels as `{"t": dtype, "s": shape, "d": bytes}`. Both ends check every known field; keys not
named here pass through untouched, so that a newer sender may say more.
"""

from __future__ import annotations

import math
from typing import Any

import cbor2
import numpy as np

from stream.frame import WireError
from stream.wire import fields
from stream.wire.fields import Bad, Check

MAX_BYTES = 64 << 20
_DTYPES = frozenset({"|u1", "<u2", "<i4", "<i8", "<f4", "<f8"})
_KEYS_OF_AN_ARRAY = frozenset({"t", "s", "d"})


def pack(message: dict[str, Any]) -> bytes:
    """Bytes of a message.

    Parameters
    ----------
    message : a map with a "type" of "series", "frame", "map" or "status" and that type's fields; numpy
        arrays and scalars may stand anywhere.

    Raises
    ------
    ValueError
        If a field is missing or is not what its type promises.
    """
    data = cbor2.dumps(_checked(message, ValueError), default=_encode)
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"a {message['type']} message is too long: expected at most {MAX_BYTES} bytes, got {len(data)}; "
            "send a smaller picture (a larger picture_stride)"
        )
    return data


def unpack(data: bytes | memoryview) -> dict[str, Any]:
    """The message in `data`; its arrays are read-only views of the received bytes.

    Raises
    ------
    WireError
        If the bytes are no message, or a field is not what its type promises.
    """
    if len(data) > MAX_BYTES:
        raise WireError(f"a results message is too long: expected at most {MAX_BYTES} bytes, got {len(data)}")
    try:
        message = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(
            f"a results message is no CBOR: expected one map, got {len(data)} bytes: {error}"
        ) from error
    return _checked(_decode(message), WireError)


def _encode(encoder: cbor2.CBOREncoder, value: Any) -> None:
    """What CBOR has no word for."""
    if isinstance(value, np.generic):
        encoder.encode(value.item())
        return
    if not isinstance(value, np.ndarray):
        raise ValueError(
            f"a value cannot be sent: expected a plain value or an array, got {type(value).__name__}"
        )
    array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    if array.dtype.str not in _DTYPES:
        raise ValueError(f"an array cannot be sent: expected one of {sorted(_DTYPES)}, got {array.dtype.str}")
    encoder.encode({"t": array.dtype.str, "s": list(value.shape), "d": array.tobytes()})


def _decode(value: Any) -> Any:
    """The same value with its arrays made; nothing but plain values and arrays gets through."""
    if value is None or isinstance(value, bool | float | str | bytes):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, dict):
        if value.keys() == _KEYS_OF_AN_ARRAY:
            return _array(value["t"], value["s"], value["d"])
        if not all(isinstance(key, str) for key in value):
            raise WireError("a results message has a key that is no text: expected texts only")
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_decode(item) for item in value]
    raise WireError(f"a results message holds a {type(value).__name__}: expected plain values and arrays")


def _array(dtype: Any, shape: Any, data: Any) -> np.ndarray:
    if not isinstance(dtype, str) or dtype not in _DTYPES or not isinstance(data, bytes):
        raise WireError(f"an array's type is wrong: expected one of {sorted(_DTYPES)}, got {dtype!r}")
    sizes_are_right = isinstance(shape, list | tuple) and all(fields.is_integer(n) and n >= 0 for n in shape)
    if not sizes_are_right or len(shape) > 4:
        raise WireError(f"an array's shape is wrong: expected up to 4 sizes, got {repr(shape)[:80]}")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise WireError(f"an array is wrong: expected {expected} bytes for {dtype} {shape}, got {len(data)}")
    if not data:  # numpy reads nothing from nothing
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _events(value: Any) -> list[dict[str, Any]]:
    return [fields.checked(event, _EVENT) for event in fields.maps(value)]


def _alarms(value: Any) -> list[dict[str, Any]]:
    return [fields.checked(alarm, _ALARM) for alarm in fields.maps(value)]


_EVENT: dict[str, Check] = {
    "frame": fields.integer,
    "kind": fields.event_kind,
    "from_site": fields.integer,
    "to_site": fields.integer,
    "yx_px": fields.pair,
    "to_yx_px": fields.or_none(fields.pair),
    "probability": fields.number,
}
_ALARM: dict[str, Check] = {"since_s": fields.number, "severity": fields.text, "text": fields.text}
_PICTURE: dict[str, Check] = {"picture": fields.picture, "picture_stride": fields.positive}
_FIELDS: dict[str, dict[str, Check]] = {
    "series": {
        "series": fields.series_name,
        "shape_yx": fields.shape,
        "pixel_size_nm": fields.or_none(fields.positive),
        "frame_period_s": fields.or_none(fields.positive),
        "engine": fields.text,
        "dose_e_nm2": fields.or_none(fields.positive),
    },
    "frame": {
        "series": fields.series_name,
        "index": fields.count,
        "t_ns": fields.or_none(fields.integer),
        "recv_ns": fields.integer,
        "shape_yx": fields.shape,
        "yx_px": fields.points,
        "score": fields.vector,
        "p_occupied": fields.vector,
        "site_yx_px": fields.points,
        "site_p": fields.vector,
        "site_proposed": fields.flags,
        "drift_yx_px": fields.pair,
        "lost_frames": fields.count,
        "events": _events,
        "stage_ms": fields.table,
    },
    "map": {
        "name": fields.text,
        "array": fields.heatmap,
        "yx_origin_nm": fields.pair,
        "nm_per_px": fields.positive,
    },
    "status": {"state": fields.text, "counters": fields.table, "alarms": _alarms},
}


def _checked(message: Any, error: type[Exception]) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise error(f"a results message has no type: expected a map with one, got {type(message).__name__}")
    kind = message["type"]
    if kind not in _FIELDS:
        raise error(f"a results message is unknown: expected one of {sorted(_FIELDS)}, got {kind[:40]!r}")
    try:
        checked = fields.checked(message, _FIELDS[kind])
        return _consistent(checked) if kind == "frame" else checked
    except Bad as bad:
        raise error(f"a {kind} message is wrong at {bad}") from None


def _consistent(frame: dict[str, Any]) -> dict[str, Any]:
    """What the fields of one frame must say of each other."""
    columns, sites = len(frame["yx_px"]), len(frame["site_yx_px"])
    lengths = {"score": columns, "p_occupied": columns, "site_p": sites, "site_proposed": sites}
    for name, expected in lengths.items():
        if len(frame[name]) != expected:
            raise Bad(f"{name}: expected {expected} values, one for each position, got {len(frame[name])}")
    if frame.get("picture") is None:
        return {key: value for key, value in frame.items() if key not in _PICTURE}
    frame = fields.checked(frame, _PICTURE)
    stride = frame["picture_stride"]
    for size, side in zip(frame["picture"].shape, frame["shape_yx"], strict=True):
        if abs(size * stride - side) > stride:  # a resampled picture may end a pixel early or late
            raise Bad(f"picture: expected {side} px in strides of {stride:g}, got {size} pixels")
    return frame
