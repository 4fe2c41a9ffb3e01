"""One series' frame slots in shared memory, and the lock that guards them.

A segment is: its shape, the table of slots, the table of losses, the series header as JSON, the bad-pixel
mask, then the data (each slot a payload as received and room for its decoded counts).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from stream.frame import GapReason, SeriesHeader

FREE, WRITING, READY, LEASED = range(4)
REASONS: tuple[GapReason, ...] = ("wire", "ring-full", "decode", "skipped-live", "paused", "restart")
ALGORITHMS = ("none", "lz4", "bslz4")
MAX_LOST = 64  # distinct losses remembered for a reader that is away; more are merged, none forgotten
MIN_SLOTS, MAX_SLOTS = 4, 1024
PAGE = 4096

GAP_DTYPE = np.dtype([("first", "<i8"), ("count", "<i8"), ("reason", "u1")])
SLOT_DTYPE = np.dtype(
    [
        ("state", "u1"), ("is_gap", "u1"), ("has_time", "u1"), ("algorithm", "u1"),
        ("ny", "<i4"), ("nx", "<i4"), ("dtype", "S8"), ("order", "<i8"), ("gap", GAP_DTYPE),
        ("index", "<i8"), ("t_ns", "<i8"), ("recv_ns", "<i8"), ("payload_bytes", "<i8"),
    ]
)  # fmt: skip
SHAPE_DTYPE = np.dtype(
    [
        ("slots", "<i8"), ("payload_bytes", "<i8"), ("frame_bytes", "<i8"), ("header_bytes", "<i8"),
        ("mask_bytes", "<i8"), ("order", "<i8"), ("ended", "<i8"), ("lost", "<i8"),
        ("first", "<i8"), ("delivered", "<i8"),
    ]
)  # fmt: skip


class RingLock:
    """Mutual exclusion between processes that a killed holder cannot keep (the kernel drops it)."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def __enter__(self) -> None:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # LK_LOCK gives up after ten seconds: ask again
                    msvcrt.locking(self._file.fileno(), msvcrt.LK_LOCK, 1)
                    return
        import fcntl

        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *exc: object) -> None:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(self._file.fileno(), msvcrt.LK_UNLCK, 1)
            return
        import fcntl

        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._file.close()


def mapped(memory: SharedMemory) -> memoryview:
    """The bytes of an open segment."""
    if memory.buf is None:
        raise ValueError("this ring segment was closed: expected it open")
    return memory.buf


def _round_up(n: int) -> int:
    return -(-n // PAGE) * PAGE


class Segment:
    """One series' slots, as both sides see them (numpy views on the shared memory)."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory
        buf = mapped(memory)
        self.shape = np.frombuffer(buf, SHAPE_DTYPE, 1)
        slots = int(self.shape["slots"][0])
        at = SHAPE_DTYPE.itemsize
        self.table = np.frombuffer(buf, SLOT_DTYPE, slots, at)
        at += self.table.nbytes
        self.lost = np.frombuffer(buf, GAP_DTYPE, MAX_LOST, at)
        self._header_at = at + self.lost.nbytes
        fixed = self._header_at + int(self.shape["header_bytes"][0]) + int(self.shape["mask_bytes"][0])
        self._data_at = _round_up(fixed)
        self._payload_bytes = int(self.shape["payload_bytes"][0])
        self._slot_bytes = self._payload_bytes + _round_up(int(self.shape["frame_bytes"][0]))
        self.leased = 0

    @classmethod
    def create(cls, name: str, header: SeriesHeader, budget_bytes: int) -> Segment:
        """Lay out slots for `header`'s frames within `budget_bytes` (at least MIN_SLOTS of them)."""
        text, mask = header_to_bytes(header)
        # a compressed frame may be larger than the plain one by its framing, hardly more
        payload_bytes = _round_up(header.frame_bytes + header.frame_bytes // 64 + PAGE)
        slot_bytes = payload_bytes + _round_up(header.frame_bytes)
        slots = int(np.clip(budget_bytes // slot_bytes, MIN_SLOTS, MAX_SLOTS))
        fixed = SHAPE_DTYPE.itemsize + slots * SLOT_DTYPE.itemsize + MAX_LOST * GAP_DTYPE.itemsize
        size = _round_up(fixed + len(text) + len(mask)) + slots * slot_bytes
        _check_room(size)
        memory = SharedMemory(name, create=True, size=size)
        shape = np.frombuffer(mapped(memory), SHAPE_DTYPE, 1)
        for key, value in (
            ("slots", slots), ("payload_bytes", payload_bytes), ("frame_bytes", header.frame_bytes),
            ("header_bytes", len(text)), ("mask_bytes", len(mask)), ("first", -1), ("delivered", -1),
        ):  # fmt: skip
            shape[key] = value
        del shape
        segment = cls(memory)
        at = segment._header_at
        segment._buffer(at, len(text))[:] = text
        segment._buffer(at + len(text), len(mask))[:] = mask
        return segment

    def header(self) -> SeriesHeader:
        text = int(self.shape["header_bytes"][0])
        mask = int(self.shape["mask_bytes"][0])
        at = self._header_at
        return header_from_bytes(bytes(self._buffer(at, text)), bytes(self._buffer(at + text, mask)))

    def payload(self, slot: int, count: int | None = None) -> memoryview:
        size = self._payload_bytes if count is None else count
        return self._buffer(self._data_at + slot * self._slot_bytes, size)

    def counts(self, slot: int, count: int) -> memoryview:
        return self._buffer(self._data_at + slot * self._slot_bytes + self._payload_bytes, count)

    def _buffer(self, at: int, count: int) -> memoryview:
        return mapped(self.memory)[at : at + count]

    def ready(self) -> np.ndarray:
        """Slots that hold something to deliver, oldest first."""
        slots = np.flatnonzero(self.table["state"] == READY)
        return slots[np.argsort(self.table["order"][slots])]

    def add_lost(self, first: int, count: int, reason: int) -> None:
        """Remember a loss; losses are older than anything ready and follow on one another."""
        n = int(self.shape["lost"][0])
        if n:
            last = self.lost[n - 1]
            follows = last["first"] + last["count"] == first
            if (last["reason"] == reason and follows) or n == MAX_LOST:
                if last["reason"] != reason:
                    last["reason"] = REASONS.index("ring-full")
                last["count"] = first + count - last["first"]
                return
        self.lost[n] = (first, count, reason)
        self.shape["lost"][0] = n + 1

    def close(self) -> bool:
        """Unmap; False if someone still holds a view (try again later)."""
        self.__dict__.pop("table", None)
        self.__dict__.pop("lost", None)
        self.__dict__.pop("shape", None)
        try:
            self.memory.close()
        except BufferError:
            return False
        return True


def unlink(name: str) -> None:
    """Take a segment's name away, if it is there; whoever has it mapped keeps it."""
    try:
        memory = SharedMemory(name)
    except FileNotFoundError:
        return
    memory.close()
    memory.unlink()


def _check_room(size: int) -> None:
    """Refuse what the shared-memory file system cannot hold: touching it would kill the process."""
    shm = Path("/dev/shm")
    if os.name == "posix" and shm.is_dir() and shutil.disk_usage(shm).free < size:
        free_mib = shutil.disk_usage(shm).free >> 20
        raise MemoryError(
            f"no room for the frame ring: expected {size >> 20} MiB free in {shm}, got {free_mib} MiB; "
            "lower ring.size_mib in site.toml or give the container more shared memory (--shm-size)"
        )


def header_to_bytes(header: SeriesHeader) -> tuple[bytes, bytes]:
    """A header as JSON, and its bad-pixel mask as plain bytes."""
    fields: dict[str, Any] = {
        name: getattr(header, name)
        for name in SeriesHeader.__slots__
        if name not in ("dtype", "bad_pixels", "shape_yx")
    }
    fields["dtype"] = header.dtype.str
    fields["shape_yx"] = list(header.shape_yx)
    mask = b"" if header.bad_pixels is None else np.asarray(header.bad_pixels, bool).tobytes()
    return json.dumps(fields, default=str).encode(), mask


def header_from_bytes(text: bytes, mask: bytes) -> SeriesHeader:
    """The inverse of `header_to_bytes`."""
    fields = json.loads(text)
    fields["dtype"] = np.dtype(fields["dtype"])
    fields["shape_yx"] = tuple(fields["shape_yx"])
    fields["bad_pixels"] = np.frombuffer(mask, bool).reshape(fields["shape_yx"]) if mask else None
    return SeriesHeader(**fields)
