"""A small CBOR reader (RFC 8949) that copies no byte string: they come back as views of the message.

A general decoder copies the counts out of the message, which for large plain frames costs as much as
receiving them; it also turns tags into objects of its own making, differently from version to version. A
camera's message holds some fifty small items and one large string: this reads the former and points at the
latter. Nothing is allocated by what a message says of its sizes, only by what it holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from stream.frame import WireError

SELF_DESCRIBED = 55799  # the tag that says "this is CBOR"; senders may leave it out
MAX_DEPTH = 16
MAX_ITEMS = 65_536  # of one message; a camera sends some fifty

_ARGUMENTS = tuple(struct.Struct(code) for code in (">B", ">H", ">I", ">Q"))
_FLOATS = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}
_SIMPLE = {20: False, 21: True, 22: None, 23: None}
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE_OR_FLOAT = range(8)
_INDEFINITE, _BREAK = 31, 0xFF


class Tag(NamedTuple):
    """A tagged item; what the number means is the reader's business."""

    number: int
    value: Any


def loads(data: bytes | memoryview) -> Any:
    """The one item of a message.

    Returns
    -------
    int, float, bool, None, str, list, dict (keys are texts or integers), Tag, or for a byte string a
    read-only memoryview into `data`.

    Raises
    ------
    WireError
        If `data` is not exactly one well-formed item, nests deeper than 16, or holds over 65,536 items.
    """
    reader = _Reader(data)
    try:
        item = reader.item(0)
    except (IndexError, struct.error) as error:
        raise _truncated(reader) from error
    reader.finish()
    return item


def pairs(data: bytes | memoryview) -> Iterator[tuple[str | int, Any]]:
    """Key and value, one after the other, of a message that is a map, self-described or not.

    Of a broken message the pairs before the break are had first; then it raises as `loads` does.
    """
    reader = _Reader(data)
    try:
        major, _, count = reader.head()
        if (major, count) == (_TAG, SELF_DESCRIBED):
            major, _, count = reader.head()
        if major != _MAP:
            raise WireError("a message that is no CBOR map; expected one map of fields")
        yield from reader.pairs(count, 1)
    except (IndexError, struct.error) as error:
        raise _truncated(reader) from error
    reader.finish()


class _Reader:
    """A place in a message. Reading past its end raises IndexError or struct.error."""

    __slots__ = ("at", "data", "items")

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data).cast("B").toreadonly()
        self.at = 0
        self.items = 0

    def finish(self) -> None:
        if self.at != len(self.data):
            raise WireError(f"{len(self.data) - self.at} bytes after the end of the message; expected none")

    def head(self) -> tuple[int, int, int | None]:
        """Major type, additional information, and the argument: None if indefinite."""
        self.items += 1
        if self.items > MAX_ITEMS:
            raise WireError(f"more than {MAX_ITEMS} items in one message")
        first = self.data[self.at]
        self.at += 1
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        if info < 28:
            argument = _ARGUMENTS[info - 24]
            (value,) = argument.unpack_from(self.data, self.at)
            self.at += argument.size
            return major, info, value
        if info == _INDEFINITE and _BYTES <= major <= _MAP:
            return major, info, None
        raise WireError(f"byte {first:#04x} at {self.at - 1} begins no CBOR item")

    def item(self, depth: int) -> Any:
        major, info, argument = self.head()
        if depth > MAX_DEPTH:
            raise WireError(f"items nested deeper than {MAX_DEPTH}")
        if major == _UNSIGNED:
            return argument
        if major in (_TEXT, _BYTES):
            return self.string(major, argument)
        if major == _MAP:
            return dict(self.pairs(argument, depth + 1))
        if major == _ARRAY:
            return [self.item(depth + 1) for _ in self.times(argument)]
        assert argument is not None  # only strings, arrays and maps may be indefinite
        if major == _TAG:
            return Tag(argument, self.item(depth + 1))
        if major == _NEGATIVE:
            return -1 - argument
        if info in _FLOATS:
            (value,) = _FLOATS[info].unpack_from(self.data, self.at - _FLOATS[info].size)
            return value
        if info in _SIMPLE:
            return _SIMPLE[info]
        raise WireError(f"the simple value {argument}, which means nothing here")

    def string(self, major: int, length: int | None) -> str | memoryview:
        if length is None:
            whole = b"".join(self._pieces(major))
            return _text(whole) if major == _TEXT else memoryview(whole)
        piece = self.data[self.at : self.at + length]
        if len(piece) != length:
            raise IndexError
        self.at += length
        return _text(piece) if major == _TEXT else piece

    def _pieces(self, major: int) -> Iterator[bytes | memoryview]:
        for _ in self.times(None):
            kind, _, length = self.head()
            if kind != major or length is None:
                raise WireError("a string in pieces of another kind")
            piece = self.string(kind, length)
            yield piece.encode() if isinstance(piece, str) else piece

    def pairs(self, count: int | None, depth: int) -> Iterator[tuple[str | int, Any]]:
        seen = set()
        for _ in self.times(count):
            key = self.item(depth)
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise WireError(f"a key of type {type(key).__name__}; expected a text or an integer")
            if key in seen:
                raise WireError(f"the key {str(key)[:40]!r} twice in one map")
            seen.add(key)
            yield key, self.item(depth)

    def times(self, count: int | None) -> Iterator[None]:
        """As often as announced, or until the break."""
        if count is None:
            while self.data[self.at] != _BREAK:
                yield
            self.at += 1
        else:
            if count > len(self.data) - self.at:  # every item takes a byte at least
                raise IndexError
            for _ in range(count):
                yield


def _text(data: bytes | memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"a text that is no UTF-8: {error.reason}") from error


def _truncated(reader: _Reader) -> WireError:
    return WireError(f"a message of {len(reader.data)} bytes that ends in the middle of an item")
