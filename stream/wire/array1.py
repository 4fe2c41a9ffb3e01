"""array-1.0, the smallest thing a script inside a camera program can send: JSON, then the raw counts.

The JSON holds htype (some send a list of one), shape, type, frame, and perhaps encoding, endianness (also
misspelt), timeStamp and ndattr (areaDetector's). There is no start and no end. Beyond what others send we
understand `series` (a number), `t_ns`, and the facts of `stream.wire.messages.facts_of`; receivers of array-1.0
ignore what they do not know.

Source: PSI, github.com/paulscherrerinstitute/htypes and ADZMQ, whose NDPluginZMQ sent x before y until 1.4.
"""

from __future__ import annotations

import json
from typing import Any, Literal, cast

from stream.frame import Algorithm, Encoding, WireError
from stream.wire import fields, messages
from stream.wire.messages import BadImage, ImageMessage, Message, Series

_ORDERS: dict[Any, Literal["<", ">"]] = {"little": "<", "big": ">"}
_MAX_JSON_BYTES = 1 << 20


def decode(parts: list[memoryview]) -> list[Message]:
    """The message in the parts of one ZeroMQ message; its payload is a view of the second part.

    Raises
    ------
    BadImage
        If it is an image that is no good, but says which one it is.
    WireError
        If it is not a message of this protocol.
    """
    if len(parts) != 2:
        raise WireError(f"a message of {len(parts)} parts; expected JSON and counts")
    about = _json(parts[0])
    if about.get("htype") not in ("array-1.0", ["array-1.0"]):
        raise WireError(f"htype: expected 'array-1.0', got {str(about.get('htype'))[:40]!r}")
    index = messages.get(about, "frame", fields.count)
    number = messages.get_or(about, "series", fields.count, None)
    series: Series = number, messages.get_or(about, "series_unique_id", fields.text, "") or ""
    try:
        algorithm = about.get("encoding") or "none"
        if algorithm not in ("none", "lz4", "bslz4"):
            raise WireError(f"encoding: expected none, lz4 or bslz4, got {str(algorithm)[:40]!r}")
        order = about.get("endianness", about.get("endianess", "little"))
        kind = messages.dtype(messages.get(about, "type", fields.text))
        if order not in ("little", "big"):
            raise WireError(f"endianness: expected little or big, got {str(order)[:40]!r}")
        payload = parts[1].cast("B").toreadonly()
        shape_yx = messages.get(about, "shape", fields.shape)
        if isinstance(about["htype"], list) and "ndattr" in about:  # areaDetector before ADZMQ 1.4
            shape_yx = shape_yx[::-1]
        channel = messages.channel(
            payload, shape_yx, kind.newbyteorder(_ORDERS[order]), cast(Algorithm, algorithm)
        )
        return [ImageMessage(series, index, _time_ns(about), {"counts": channel}, about)]
    except WireError as error:
        raise BadImage(series, index, str(error)) from error


def _json(part: memoryview) -> dict[str, Any]:
    if len(part) > _MAX_JSON_BYTES:
        raise WireError(f"{len(part)} bytes before the counts; expected a little JSON")
    try:
        about = json.loads(bytes(part))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a first part that is no JSON: {str(error)[:80]}") from error
    if not isinstance(about, dict):
        raise WireError("a first part that is no JSON object")
    return about


def _time_ns(about: dict[str, Any]) -> int | None:
    """In ns on the sender's clock: as `t_ns`, or areaDetector's timeStamp in s; None if not said."""
    t_ns = messages.get_or(about, "t_ns", fields.integer, None)
    if t_ns is not None:
        return t_ns
    time_s = about.get("timeStamp")
    if isinstance(time_s, bool) or not isinstance(time_s, int | float):
        return None  # other forms exist, which say nothing to us
    return messages.get(about, "timeStamp", lambda value: fields.integer(round(fields.number(value) * 1e9)))


def encode_image(
    index: int,
    t_ns: int | None,
    encoding: Encoding,
    payload: bytes | memoryview,
    *,
    source: str = "hopscope",
    **others: Any,
) -> list[bytes | memoryview]:
    """The two parts of one exposure; `others` are further fields: series, series_unique_id, pixel_size_nm, ...."""
    about = {
        "htype": "array-1.0",
        "shape": list(encoding.shape_yx),
        "type": encoding.dtype.name,
        "frame": index,
        "source": source,
        "encoding": None if encoding.algorithm == "none" else encoding.algorithm,
        "endianness": "big" if encoding.dtype.str[0] == ">" else "little",
        "t_ns": t_ns,
        **others,
    }
    said = {name: value for name, value in about.items() if value is not None}
    return [json.dumps(said, separators=(",", ":")).encode(), payload]
