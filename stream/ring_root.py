"""The root of a ring: the small segment that says which series' segment is newest, and how all of them are called."""

from __future__ import annotations

import tempfile
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from stream.frame import SeriesHeader
from stream.segment import PAGE, Segment, mapped, unlink


def newest_header(base: str) -> SeriesHeader | None:
    """The header of the series put last, by whoever put it; None if there was none yet."""
    root = SharedMemory(base)
    number = generation(root)
    root.close()
    if not number:
        return None
    segment = Segment(SharedMemory(segment_name(base, number)))
    header = segment.header()
    segment.close()
    return header


def create_root(base: str) -> SharedMemory:
    """The small segment that says which series segment is newest; its owner is the supervisor."""
    lock_path(base).touch()
    return SharedMemory(base, create=True, size=PAGE)


def remove(root: SharedMemory) -> None:
    """Take away the root and every segment that hangs on it."""
    number = generation(root)
    for n in range(number, max(number - 3, 0), -1):
        unlink(segment_name(root.name.lstrip("/"), n))
    lock_path(root.name.lstrip("/")).unlink(missing_ok=True)
    root.close()
    root.unlink()


def lock_path(base: str) -> Path:
    """Where the ring's lock lies."""
    return Path(tempfile.gettempdir()) / f"{base}.lock"


def segment_name(base: str, number: int) -> str:
    """Of the segment of a series, numbered from 1."""
    return f"{base}-{number}"


def generation(root: SharedMemory) -> int:
    """Number of the newest segment; 0 before the first."""
    return int.from_bytes(mapped(root)[:8], "little")


def set_generation(root: SharedMemory, number: int) -> None:
    """Say which segment is newest now; the ring's lock is held."""
    mapped(root)[:8] = number.to_bytes(8, "little")
