"""Checks of single fields: each returns the value in its one form, or raises Bad with what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Check: TypeAlias = Callable[[Any], Any]


class Bad(ValueError):
    """What a field should have been."""


def is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 10_000:
        raise Bad("a text")
    return value


def integer(value: Any) -> int:
    if not is_integer(value) or not -(2**63) <= value < 2**63:
        raise Bad("an integer")
    return int(value)


def count(value: Any) -> int:
    if integer(value) < 0:
        raise Bad("an integer from 0 on")
    return int(value)


def side(value: Any) -> int:
    if integer(value) < 1:
        raise Bad("an integer from 1 on")
    return int(value)


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise Bad("a number")
    if not math.isfinite(value):
        raise Bad("a finite number")
    return float(value)


def positive(value: Any) -> float:
    if not number(value) > 0:
        raise Bad("a number above 0")
    return float(value)


def series_name(value: Any) -> int | str:
    return value if isinstance(value, str) else integer(value)


def _has_two(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.shape == (2,)
    return isinstance(value, list | tuple) and len(value) == 2


def pair(value: Any) -> list[float]:
    """Of two numbers (y, x), as a list whatever they came in."""
    if not _has_two(value):
        raise Bad("two numbers (y, x)")
    return [number(item) for item in value]


def shape(value: Any) -> list[int]:
    if not _has_two(value):
        raise Bad("two sizes (ny, nx)")
    ny, nx = (side(size) for size in value)
    if max(ny, nx) > 65_536:
        raise Bad("two sizes of at most 65536")
    return [ny, nx]


def vector(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "f":
        raise Bad("an array (n,) of floats")
    return value


def points(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim != 2 or value.shape[1] != 2:
        raise Bad("an array (n, 2) of floats")
    if not np.isfinite(value).all():
        raise Bad("finite positions")
    return value


def flags(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.str != "|u1" or value.ndim != 1:
        raise Bad("an array (n,) of u1")
    return value


def picture(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.str != "|u1" or value.ndim != 2 or not value.size:
        raise Bad("an array (ny, nx) of u1")
    return value


def heatmap(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.str != "<f4" or value.ndim != 2 or not value.size:
        raise Bad("an array (ny, nx) of f4")
    return value


def event_kind(value: Any) -> str:
    if not isinstance(value, str) or value not in ("appear", "disappear", "hop"):
        raise Bad("appear, disappear or hop")
    return value


def table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Bad("a map")
    return value


def maps(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
        raise Bad("a list of maps")
    return list(value)


def or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def checked(message: dict[str, Any], checks: dict[str, Check]) -> dict[str, Any]:
    """A copy of `message` whose checked fields are in their one form."""
    result = dict(message)
    for name, check in checks.items():
        if name not in message:
            raise Bad(f"{name}: expected it to be there")
        try:
            result[name] = check(message[name])
        except Bad as error:
            got = message[name]
            kind = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else repr(got)[:80]
            raise Bad(f"{name}: expected {error}, got {kind}") from None
    return result
