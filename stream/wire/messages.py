"""What the cameras' dialects have in common once their bytes are understood."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np

from stream.codecs import check
from stream.frame import Algorithm, Encoding, WireError
from stream.wire import fields

MAX_FRAME_BYTES = 1 << 30
_CODES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
_KINDS = [np.dtype(order + code) for order in "<>" for code in _CODES]
_DTYPES = {**{kind.str: kind for kind in _KINDS}, **{kind.name: kind for kind in _KINDS if kind.isnative}}

T = TypeVar("T")


class BadImage(WireError):
    """An image that is no good, of which it is known which one it was."""

    def __init__(self, series: Series, index: int, reason: str) -> None:
        super().__init__(f"image {index} of series {series[0]}: {reason}")
        self.series = series
        self.index = index


Series: TypeAlias = tuple[int | None, str]
"""A series' number (None in a dialect that has none), and the name that makes it unique, or ""."""


@dataclass(frozen=True, slots=True)
class StartMessage:
    """A series begins.

    Attributes
    ----------
    series : its number and unique name.
    shape_yx, dtype : of the frames announced, or None; dtype without a byte order, which only images tell.
    channels : names of the channels announced, the first one first.
    facts : what else of a `SeriesHeader` was said: its fields by name.
    """

    series: Series
    shape_yx: tuple[int, int] | None = None
    dtype: np.dtype[Any] | None = None
    channels: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Channel:
    """The counts of one channel: a view of the message, and how to read it."""

    payload: memoryview
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """One exposure.

    Attributes
    ----------
    series : its number and unique name.
    index : the detector's own number of the image.
    t_ns : start of the exposure on the detector's clock, or None.
    channels : by name, at least one.
    about : what else was said; `facts_of` makes a series' facts of it, should its start be missing.
    """

    series: Series
    index: int
    t_ns: int | None
    channels: dict[str, Channel]
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndMessage:
    """A series is over."""

    series: Series


Message: TypeAlias = StartMessage | ImageMessage | EndMessage


def get(message: Mapping[Any, Any], name: str, check_field: Callable[[Any], T]) -> T:
    """A field that must be there.

    Raises
    ------
    WireError
        If it is not, or not what `check_field` (of `stream.wire.fields`) expects.
    """
    if name not in message:
        raise WireError(f"{name}: expected it to be there")
    try:
        return check_field(message[name])
    except (fields.Bad, OverflowError) as error:
        raise WireError(f"{name}: expected {error}, got {_short(message[name])}") from None


def get_or(
    message: Mapping[Any, Any], name: str, check_field: Callable[[Any], T], absent: T | None
) -> T | None:
    """As `get`, for a field that may be missing or null."""
    return absent if message.get(name) is None else get(message, name, check_field)


def number_above_zero(value: Any) -> float | None:
    """A positive number; None for the zero with which senders say that they do not know."""
    number = fields.number(value)
    if number < 0:
        raise fields.Bad("a number above 0")
    return number or None


def dtype(text: str) -> np.dtype[Any]:
    """The dtype of counts, from a name such as "uint16" or "<u2".

    Raises
    ------
    WireError
        If counts cannot be of that type.
    """
    kind = _DTYPES.get(text)
    if kind is None:
        raise WireError(f"counts of type {text[:40]!r}; expected integers or floats of 1 to 8 bytes")
    return kind


def channel(payload: memoryview, shape_yx: Any, kind: np.dtype[Any], algorithm: Algorithm) -> Channel:
    """Counts whose size, shape and payload agree as far as can be told without decoding them.

    Raises
    ------
    WireError
        If they do not.
    """
    ny, nx = get({"shape": shape_yx}, "shape", fields.shape)
    encoding = Encoding((ny, nx), kind, algorithm)
    if encoding.frame_bytes > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {ny} x {nx} {kind.str}; expected at most {MAX_FRAME_BYTES} bytes")
    check(payload, encoding)
    return Channel(payload, encoding)


def calibration_of(about: Mapping[Any, Any]) -> dict[str, float | None]:
    """What a sender may say beside the counts, in any dialect: pixel_size_nm (at the specimen), frame_period_s and
    dose_rate_e_nm2_s; None where it does not.

    Raises
    ------
    WireError
        If one of them cannot be.
    """
    said = about.get("user_data")
    if isinstance(said, str) and said.lstrip().startswith("{"):
        try:
            said = json.loads(said)
        except (ValueError, RecursionError):
            said = None
    source = {**about, **said} if isinstance(said, dict) else about
    names = ("pixel_size_nm", "frame_period_s", "dose_rate_e_nm2_s")
    return {name: get_or(source, name, number_above_zero, None) for name in names}


def facts_of(about: Mapping[Any, Any]) -> dict[str, Any]:
    """Fields of a `SeriesHeader` beside the counts: the calibration and, as metadata, all that is a plain value.

    Raises
    ------
    WireError
        As `calibration_of`.
    """
    metadata = {str(key): plain(value) for key, value in about.items() if _is_plain(value)}
    return {**calibration_of(about), "metadata": metadata}


def plain(value: Any) -> Any:
    """`value` as numbers, texts, lists and dicts, without what is binary; a tag gives its content."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if _is_plain(item)}
    if isinstance(value, list):
        return [plain(item) for item in value if _is_plain(item)]
    return plain(value[1]) if isinstance(value, tuple) else value


def _is_plain(value: Any) -> bool:
    content = value[1] if isinstance(value, tuple) else value
    if isinstance(content, list) and any(isinstance(item, tuple | memoryview) for item in content):
        return False
    return not isinstance(content, memoryview | tuple)


def _short(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, memoryview) else repr(value)[:80]
