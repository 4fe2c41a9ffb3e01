"""A small CBOR reader (RFC 8949) that copies no byte string: they come back as views of the message.

A general decoder copies the counts out of the message, which for large plain frames costs as much as
receiving them; it also turns tags into objects of its own making, differently from version to version. A
camera's message holds some fifty small items and one large string: this reads the former and points at the
latter. Nothing is allocated by what a message says of its sizes, only by what it holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
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
_ENDS = (IndexError, struct.error, UnicodeDecodeError)


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
    except _ENDS as error:
        raise reader.reason(error) from error
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
    except _ENDS as error:
        raise reader.reason(error) from error
    reader.finish()


class _Reader:
    """A place in a message. Reading past its end, or text that is none, raises one of _ENDS."""

    __slots__ = ("at", "data", "items_left")

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data).cast("B").toreadonly()
        self.at = 0
        self.items_left = MAX_ITEMS

    def finish(self) -> None:
        if self.at != len(self.data):
            raise WireError(f"{len(self.data) - self.at} bytes after the end of the message; expected none")

    def reason(self, error: Exception) -> WireError:
        if isinstance(error, UnicodeDecodeError):
            return WireError(f"a text that is no UTF-8: {error.reason}")
        return WireError(f"a message of {len(self.data)} bytes that ends in the middle of an item")

    def head(self) -> tuple[int, int, int | None]:
        """Major type, additional information, and the argument: None if indefinite."""
        self.items_left -= 1
        if self.items_left < 0:
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
        if major == _UNSIGNED:
            return argument
        if major == _TEXT:
            return str(self.string(major, argument), "utf-8")
        if major == _BYTES:
            return self.string(major, argument)
        if depth >= MAX_DEPTH:
            raise WireError(f"items nested deeper than {MAX_DEPTH}")
        if major == _MAP:
            return dict(self.pairs(argument, depth + 1))
        if major == _ARRAY:
            return [self.item(depth + 1) for _ in self.times(argument)]
        if major == _TAG:
            return Tag(argument or 0, self.item(depth + 1))
        if major == _NEGATIVE:
            return -1 - (argument or 0)
        if info in _FLOATS:
            (value,) = _FLOATS[info].unpack_from(self.data, self.at - _FLOATS[info].size)
            return value
        if info in _SIMPLE:
            return _SIMPLE[info]
        raise WireError(f"the simple value {argument}, which means nothing here")

    def string(self, major: int, length: int | None) -> memoryview:
        if length is None:
            return memoryview(b"".join(self.piece(major) for _ in self.times(None)))
        start = self.at
        self.at = start + length
        if self.at > len(self.data):
            raise IndexError
        return self.data[start : self.at]

    def piece(self, major: int) -> memoryview:
        """Of a string of indefinite length."""
        kind, _, length = self.head()
        if kind != major or length is None:
            raise WireError("a string in pieces of another kind")
        piece = self.string(major, length)
        if major == _TEXT:
            str(piece, "utf-8")  # each piece must be text by itself
        return piece

    def pairs(self, count: int | None, depth: int) -> Iterator[tuple[str | int, Any]]:
        seen = set()
        for _ in self.times(count):
            key = self.item(depth)
            if type(key) is not str and type(key) is not int:
                raise WireError(f"a key of type {type(key).__name__}; expected a text or an integer")
            if key in seen:
                raise WireError(f"the key {str(key)[:40]!r} twice in one map")
            seen.add(key)
            yield key, self.item(depth)

    def times(self, count: int | None) -> Iterable[Any]:
        """As often as announced, or until the break."""
        if count is None:
            return self.until_break()
        if count > len(self.data) - self.at:  # every item takes a byte at least
            raise IndexError
        return range(count)

    def until_break(self) -> Iterator[None]:
        while self.data[self.at] != _BREAK:
            yield
        self.at += 1
