"""Cards that are the host, and small frames for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engines.runtime import open_engine
from stream.find import OnCards, OpenCard
from stream.frame import Encoding, Frame
from tests.helpers.host_device import HostDevice

SHAPE = (128, 128)


def on_host(name: str | Path, cards: int = 1, pictures: bool = True) -> OnCards:
    """Cards that are the host; the engine runs on the CPU."""
    openers = [lambda: OpenCard(HostDevice(), open_engine(name, threads=1))] * cards
    return OnCards(openers, "cuda:0", "a test", pictures)


def spots(index: int) -> np.ndarray:
    """Bright spots on a grid, each frame without one of them; u2."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    bright = (np.cos(2 * np.pi * y / 12.5) + np.cos(2 * np.pi * x / 12.5)) > 1.5
    bright[(index % 5) * 12 : (index % 5) * 12 + 12] = False
    return rng.poisson(10 + 300 * bright).astype(np.uint16)


def frame(index: int, counts: np.ndarray | None = None, released: list[int] | None = None) -> Frame:
    counts = spots(index) if counts is None else counts
    payload = memoryview(counts.tobytes())
    on_release = None if released is None else lambda: released.append(index)
    return Frame(
        1, index, index * 10**8, 0, payload, Encoding(counts.shape, counts.dtype), on_release=on_release
    )
