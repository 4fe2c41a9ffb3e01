"""Points that walk, blink, come and go; for tests of linking."""

from __future__ import annotations

import numpy as np


def walkers(
    seed: int,
    count: int = 40,
    frames: int = 30,
    step: float = 1.0,
    side: float = 100.0,
    missed: float = 0.1,
    lost_frames: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Brownian walkers seen with misses: frame (n,), yx (n, 2) and who (n,), shuffled.

    Half of them begin late and end early. `missed` is the chance that a walker is not seen in a frame,
    `lost_frames` that a frame is not received.
    """
    rng = np.random.default_rng(seed)
    yx = rng.random((count, 2)) * side + rng.normal(0, step, (frames, count, 2)).cumsum(axis=0)
    begin = np.where(rng.random(count) < 0.5, 0, rng.integers(0, frames, count))
    end = np.where(rng.random(count) < 0.5, frames, rng.integers(0, frames, count) + 1)
    t = np.arange(frames)[:, None]
    seen = (t >= begin) & (t < end) & (rng.random((frames, count)) >= missed)
    seen &= rng.random((frames, 1)) >= lost_frames
    frame, who = np.nonzero(seen)
    order = rng.permutation(len(frame))
    frame, who = frame[order], who[order]
    return frame, yx[frame, who], who


def same_tracks(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two numberings (n,) of the same points mean the same tracks."""
    together = len(np.unique(np.column_stack([one, other]), axis=0))
    return together == len(np.unique(one)) == len(np.unique(other))
