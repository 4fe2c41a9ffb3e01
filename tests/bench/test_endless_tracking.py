"""The tracker over hundreds of thousands of frames: constant memory, and how long a frame takes.

`python -m tests.bench.test_endless_tracking` prints the figures; --help tells how many frames and sites.
Times are of the processor, in this thread: others that want it do not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from stream.child import rss_mib
from stream.occupancy import OccupancyFilter
from stream.tracking import Tracker
from tests.helpers.endless_session import PERIOD_NS, EndlessSession

Row = dict[str, Any]


def follow(session: EndlessSession, frames: int, every: int, seconds: float = np.inf) -> Iterator[Row]:
    """Track the session; a row per `every` frames, until it has taken so many seconds."""
    tracker = Tracker(session.shape_yx, 0.02, PERIOD_NS * 1e-9)
    began_s, spent_s, events, lost, last = time.monotonic(), 0.0, 0, 0, 0
    for index, t_ns, yx_px, picture in session.frames(frames):
        start_s = time.thread_time()
        tracked = tracker.update(index, t_ns, yx_px, None, picture)
        spent_s += time.thread_time() - start_s
        events += len(tracked.events)
        lost += tracked.shift.lost
        done = index + 1
        if done % every == 0 or time.monotonic() - began_s > seconds:
            yield {
                "frames": done,
                "rss_mib": round(rss_mib() or 0.0, 1),
                "state_mib": round(sum(array.nbytes for array in tracker.state().values()) / 2**20, 2),
                "ms_per_frame": round(1e3 * spent_s / (done - last), 3),
                "sites": len(tracker.sites),
                "awake": len(tracker.sites.awake),
                "candidates": len(tracker.sites.candidates_yx_nm),
                "events": events,
                "moves": session.moves,
                "lost": lost,
            }
            spent_s, last = 0.0, done
            if time.monotonic() - began_s > seconds:
                return


def occupancy_ms(sites: int, frames: int = 300) -> float:
    """Median time of one update of the occupancy filter and its smoother, ms."""
    rng, occupancy = np.random.default_rng(1), OccupancyFilter(0.01)
    occupancy.add(np.empty((0, sites)), np.empty((0, sites), bool))
    neighbours = (np.arange(sites)[:, None] + [1, -1, 2, -2, 3, -3]) % sites
    observed, state, times = np.ones(sites, bool), rng.random(sites) < 0.9, []
    for frame in range(frames):
        state ^= rng.random(sites) < 0.002
        evidence = np.where(state, 3.0, -3.0) + rng.normal(0, 1.5, sites)
        start_s = time.thread_time()
        occupancy.update(frame, frame * 10**7, evidence, observed, neighbours)
        times.append(time.thread_time() - start_s)
    return 1e3 * float(np.median(times[50:]))


@pytest.mark.soak
@pytest.mark.parametrize(("frames", "pictures"), [(12_000, False), (6_000, True)])
def test_memory_stays_as_it_is(frames: int, pictures: bool) -> None:
    session = EndlessSession(np.random.default_rng(1), 800, pictures=pictures)
    rows = list(follow(session, frames, frames // 6))
    print(*rows, sep="\n")
    settled, last = rows[2], rows[-1]
    assert last["rss_mib"] < 1.03 * settled["rss_mib"]
    assert last["state_mib"] < 1.05 * settled["state_mib"]
    assert last["sites"] < 1.05 * settled["sites"]
    assert last["candidates"] < 60
    assert last["events"] > 0.9 * last["moves"] > 100


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of the tracker over very many frames.")
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--sites", type=int, default=2000)
    parser.add_argument("--every", type=int, default=5000)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--seconds", type=float, default=np.inf, help="stop after so long")
    asked = parser.parse_args()
    print(f"occupancy filter and smoother, 5,000 sites: {occupancy_ms(5000):.2f} ms per frame", flush=True)
    session = EndlessSession(np.random.default_rng(1), asked.sites, pictures=asked.pictures)
    for row in follow(session, asked.frames, asked.every, asked.seconds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
