"""The tag tree of a DigitalMicrograph file (DM3, DM4), without its arrays.

After the version, the size and the byte order, all big-endian, comes one group of tags. A group has two flag
bytes, a number of tags, and the tags; a tag is a kind (20 group, 21 value), a name (two bytes of length, then
characters) and its content. A value is ``%%%%``, the words that describe its type, and the bytes, these
in the byte order of the header. DM4 has 8-byte words where DM3 has 4, and the length of each tag before its
content. Gatan published no description; this one is put together from those who looked (C. Boothroyd and
others, https://personal.ntu.edu.sg/cbb/info/dmformat), and every length is checked against the file's end.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from stream.frame import RecordingError

_DEEPEST = 64  # real files nest 10 groups
_SMALL_BYTES = 1 << 16  # arrays up to here are read, larger ones and pixels only located

# numbers of the simple types in the words that describe a value
_TYPES = {
    2: "i2", 3: "i4", 4: "u2", 5: "u4", 6: "f4", 7: "f8", 8: "?", 9: "i1", 10: "u1", 11: "i8", 12: "u8",
}  # fmt: skip
_STRUCT, _STRING, _ARRAY = 15, 18, 20


@dataclass(frozen=True, slots=True)
class Located:
    """An array that stays in the file: `count` elements of `dtype` from byte `offset` on."""

    offset: int
    dtype: np.dtype[Any]
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


Tree = dict[str, Any]
"""Names to trees, numbers, tuples (structs), strings, small arrays, or `Located`.

Unnamed tags, which are the elements of a list, have their position as name: "0", "1", ...
"""


def read_tags(path: Path) -> Tree:
    """The tags of the file at `path`.

    Raises
    ------
    RecordingError
        If it is no DM3 or DM4 file, or contradicts itself; the message says at which byte.
    """
    with path.open("rb") as file:
        return _Reader(file, path).tree()


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._end = path.stat().st_size
        self._at = 0
        version = int.from_bytes(self._take(4), "big")
        if version not in (3, 4):
            raise self._broken(f"version 3 or 4 was expected, got {version}")
        self._long = version == 4
        self._word_bytes = 8 if self._long else 4
        self._word()  # the size, which writers get wrong
        self._order: Literal["<", ">"] = "<" if int.from_bytes(self._take(4), "big") else ">"

    def tree(self) -> Tree:
        return self._group(0)

    def _group(self, depth: int) -> Tree:
        if depth > _DEEPEST:
            raise self._broken(f"groups nest deeper than {_DEEPEST}")
        self._take(2)
        tags = self._word()
        # a tag has at least 3 bytes: a wrong number ends here, not after 2**63 turns
        if tags > (self._end - self._at) // 3:
            raise self._broken(f"{tags} tags are announced, more than the rest of the file could hold")
        group: Tree = {}
        for position in range(tags):
            kind, length = struct.unpack(">BH", self._take(3))
            name = self._take(length).decode("latin-1") or str(position)
            if self._long:
                self._word()
            if kind == 20:
                group[name] = self._group(depth + 1)
            elif kind == 21:
                group[name] = self._value(stays=name == "Data")
            else:
                raise self._broken(f"a tag of kind 20 or 21 was expected, got {kind}")
        return group

    def _value(self, stays: bool) -> Any:
        if (mark := self._take(4)) != b"%%%%":
            raise self._broken(f"%%%% was expected before a value, got {mark!r}")
        count = self._word()
        if count * self._word_bytes > self._end - self._at:
            raise self._broken(f"{count} words of type are announced, more than the rest of the file")
        if count > 4096:
            raise self._broken(f"a type of {count} words; real ones have a few dozen")
        words = struct.unpack(f">{count}{'q' if self._long else 'i'}", self._take(count * self._word_bytes))
        dtype, length, used = self._type(words, 0)
        if used != count:
            raise self._broken(f"a type of {count} words was expected, it has {used}")
        if length is None:
            return self._array(dtype, 1)[0].item()
        if stays or dtype.itemsize * length > _SMALL_BYTES:
            located = Located(self._at, dtype, length)
            self._skip(located.nbytes)
            return located
        values = self._array(dtype, length)
        return values.tobytes().decode("latin-1") if words[0] == _STRING else values

    def _type(self, words: tuple[int, ...], at: int) -> tuple[np.dtype[Any], int | None, int]:
        """The dtype described from word `at` on, its length (None: a single one), and where it ends."""
        kind = self._pick(words, at)
        if kind in _TYPES:
            return np.dtype(_TYPES[kind]).newbyteorder(self._order), None, at + 1
        if kind == _STRING:
            return np.dtype("u1"), self._pick(words, at + 1), at + 2
        if kind == _STRUCT:
            fields, at = self._pick(words, at + 2), at + 3
            if not 0 < fields <= 1024:
                raise self._broken(f"a record of {fields} fields; 1 to 1024 were expected")
            parts = []
            for _ in range(fields):
                part, length, at = self._type(words, at + 1)
                parts.append((f"f{len(parts)}", part) if length is None else (f"f{len(parts)}", part, length))
            return np.dtype(parts), None, at
        if kind == _ARRAY:
            element, inner, at = self._type(words, at + 1)
            if inner is not None:
                element = self._fixed(element, inner)
            return element, self._pick(words, at), at + 1
        raise self._broken(f"a value of unknown type {kind}")

    def _fixed(self, element: np.dtype[Any], length: int) -> np.dtype[Any]:
        if element.itemsize * length > self._end:
            raise self._broken(f"an element of {length} x {element.itemsize} bytes, more than the file has")
        return np.dtype((element, (length,)))

    def _pick(self, words: tuple[int, ...], at: int) -> int:
        if at >= len(words) or words[at] < 0:
            raise self._broken("the description of a value is cut short or negative")
        return words[at]

    def _array(self, dtype: np.dtype[Any], count: int) -> np.ndarray:
        return np.frombuffer(self._take(dtype.itemsize * count), dtype, count)

    def _word(self) -> int:
        value = int.from_bytes(self._take(self._word_bytes), "big", signed=True)
        if value < 0:
            raise self._broken(f"a length of {value}")
        return value

    def _take(self, count: int) -> bytes:
        if count > self._end - self._at or len(data := self._file.read(count)) != count:
            raise self._broken(f"{count} more bytes were expected, the file has {self._end}; it is cut short")
        self._at += count
        return data

    def _skip(self, count: int) -> None:
        if count > self._end - self._at:
            raise self._broken(
                f"an array of {count} bytes was expected, {self._end - self._at} are left; the file is cut short"
            )
        self._file.seek(count, 1)
        self._at += count

    def _broken(self, what: str) -> RecordingError:
        return RecordingError(f"{self._path} cannot be read as DM3 or DM4: at byte {self._at}, {what}")


def find(tree: Any, *names: str) -> Any:
    """What lies in `tree` under these names, one in the other; None where it does not."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def number(value: Any) -> float | None:
    """A finite number, or None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def text(value: Any) -> str:
    """DigitalMicrograph keeps text as an array of two-byte characters."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind == "u" and value.dtype.itemsize == 2:
        return value.astype("<u2").tobytes().decode("utf-16-le", errors="replace").rstrip("\0")
    return ""
