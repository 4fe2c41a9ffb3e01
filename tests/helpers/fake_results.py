"""A session's results as the analysis would publish them: a crystal whose surface atoms come and go."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from stream.publish import ResultsPublisher

PIXEL_SIZE_NM = 0.02
SPACING_YX_NM = (0.288, 0.408)  # the centred rectangle of gold seen along <110>


class FakeSession:
    """Deterministic messages of a seed; occupied sites are bright columns in the picture.

    Parameters
    ----------
    seed : of everything that is drawn.
    side_px : of the square frames.
    hops_per_frame : mean number of surface atoms that move from one frame to the next.
    """

    def __init__(self, seed: int, side_px: int = 512, hops_per_frame: float = 0.25) -> None:
        self._rng = np.random.default_rng(seed)
        self._hops_per_frame = hops_per_frame
        self.shape_yx = (side_px, side_px)
        self._sites_px, surface = _crystal(side_px)
        self._surface = np.flatnonzero(surface)
        self.occupied = np.ones(len(self._sites_px), bool)
        self.occupied[self._surface] = self._rng.random(len(self._surface)) < 0.6
        self._belief = self.occupied.astype(np.float32)
        self._occupied_frames = np.zeros(len(self._sites_px))
        self._flips = np.zeros(len(self._sites_px))
        self._noise = self._rng.standard_normal((side_px + 64, side_px + 64), np.float32)
        self.columns = self.lost_frames = 0
        self.history: list[dict[str, Any]] = []
        self.index = -1

    @property
    def events(self) -> int:
        """How many there were so far."""
        return len(self.history)

    def series(self, series: int = 7) -> dict[str, Any]:
        """What is said once at the start."""
        return {
            "type": "series",
            "series": series,
            "shape_yx": self.shape_yx,
            "pixel_size_nm": PIXEL_SIZE_NM,
            "frame_period_s": 0.02,
            "engine": "au-on-oxide-hrtem",
            "dose_e_nm2": 31_000.0,
        }

    def frame(self, series: int = 7) -> dict[str, Any]:
        """The next frame."""
        self.index += 1
        events = self._move()
        drift = 6.0 * np.array([np.sin(self.index / 90), np.cos(self.index / 130) - 1])
        self._belief += 0.5 * (self.occupied - self._belief)
        sites = (self._sites_px + drift).astype(np.float32)
        seen = self.occupied & (self._rng.random(len(sites)) > 0.02)
        columns = sites[seen] + self._rng.normal(0, 0.4, (int(seen.sum()), 2)).astype(np.float32)
        self.columns = len(columns)
        return {
            "type": "frame",
            "series": series,
            "index": self.index,
            "t_ns": self.index * 20_000_000,
            "recv_ns": time.monotonic_ns(),
            "shape_yx": self.shape_yx,
            "yx_px": columns,
            "score": np.full(len(columns), 0.9, np.float32),
            "p_occupied": self._belief[seen],
            "site_yx_px": sites,
            "site_p": self._belief.copy(),
            "site_proposed": (self._occupied_frames == 0).astype(np.uint8),
            "drift_yx_px": drift,
            "lost_frames": self.lost_frames,
            "events": [
                {
                    **e,
                    "yx_px": e["yx_px"] + drift,
                    "to_yx_px": None if e["to_yx_px"] is None else e["to_yx_px"] + drift,
                }
                for e in events
            ],
            "stage_ms": {"normalize": 0.8, "network": 3.2, "columns": 0.4},
            "picture": self._picture(sites[self.occupied]),
            "picture_stride": 1,
        }

    def maps(self) -> list[dict[str, Any]]:
        """What is known of each site: five maps."""
        stride, seconds = 2, 0.1 * max(1, self.index + 1)
        occupied = self._occupied_frames / max(1, self.index + 1)
        values = {
            "events": self._flips,
            "occurrence": occupied,
            "rate": self._flips / seconds,
            "residence": occupied * seconds / np.maximum(self._flips, 1) * (self._flips > 0),
            "raw_events": 2.0 * self._flips,
        }
        where = {"yx_origin_nm": [0.01, 0.01], "nm_per_px": PIXEL_SIZE_NM * stride}
        return [
            {"type": "map", "name": name, "array": self._map(value, stride), **where}
            for name, value in values.items()
        ]

    def _map(self, value: np.ndarray, stride: int) -> np.ndarray:
        side = self.shape_yx[0] // stride
        array = np.zeros((side, side), np.float32)
        for (y, x), one in zip(self._sites_px, value, strict=True):
            _add_spot(array, y / stride, x / stride, 2.2, one)
        return array

    def status(self, **changes: Any) -> dict[str, Any]:
        """What the supervisor says meanwhile."""
        frames = self.index + 1
        return {
            "type": "status",
            "state": "running",
            "processes": {
                name: {"pid": 4000 + n, "alive": True, "restarts": 0}
                for n, name in enumerate(("acquire", "analyse", "serve"))
            },
            "counters": {
                "received": frames + 3,
                "recorded": frames + 3,
                "analysed": frames,
                "skipped": 3,
                "gaps": {"skipped-live": 3, "wire": 1},
                "faults": {},
                "columns": self.columns,
                "sites": len(self._sites_px),
                "events": self.events,
            },
            "frames_per_s": 49.7,
            "latency_ms": {"p50": 11.2, "p99": 24.9},
            "alarms": [],
            "recording": {
                "path": "recordings/2025-03-14_series-7.h5",
                "bytes": frames * 262_144,
                "frames": frames + 3,
            },
            **changes,
        }

    def _move(self) -> list[dict[str, Any]]:
        """Surface atoms hop to a free neighbour, or come and go."""
        events = []
        for _ in range(self._rng.poisson(self._hops_per_frame)):
            site = int(self._rng.choice(self._surface))
            free = self._free_neighbour(site) if self.occupied[site] else -1
            if free >= 0:
                events.append(self._event("hop", site, free))
            elif self.occupied[site]:
                events.append(self._event("disappear", site, -1))
            else:
                events.append(self._event("appear", -1, site))
        self._occupied_frames += self.occupied
        return events

    def _event(self, kind: str, from_site: int, to_site: int) -> dict[str, Any]:
        for site in (from_site, to_site):
            if site >= 0:
                self.occupied[site] = site == to_site
                self._flips[site] += 1
        first = from_site if from_site >= 0 else to_site
        event = {
            "frame": self.index,
            "kind": kind,
            "from_site": from_site,
            "to_site": to_site,
            "yx_px": self._sites_px[first],
            "to_yx_px": self._sites_px[to_site] if kind == "hop" else None,
            "probability": float(self._rng.uniform(0.86, 0.999)),
        }
        self.history.append(event)
        return event

    def _free_neighbour(self, site: int) -> int:
        distance = np.hypot(*(self._sites_px[self._surface] - self._sites_px[site]).T)
        near = self._surface[(distance > 0) & (distance < 0.45 / PIXEL_SIZE_NM)]
        free = near[~self.occupied[near]]
        return int(self._rng.choice(free)) if len(free) else -1

    def _picture(self, atoms_px: np.ndarray) -> np.ndarray:
        """Bright columns on a grainy support, as 8-bit grey."""
        picture = np.zeros(self.shape_yx, np.float32)
        for y, x in atoms_px:
            _add_spot(picture, y, x, 3.4, 1.0)
        dy, dx = self._rng.integers(0, 64, 2)
        noise = self._noise[dy : dy + picture.shape[0], dx : dx + picture.shape[1]]
        return np.clip(62 + 120 * picture + 20 * noise * (1 + 0.5 * picture), 0, 255).astype(np.uint8)


class FakePublisher:
    """Publishes a session in the background, as fast as `fps`; a context manager."""

    def __init__(self, session: FakeSession, endpoint: str = "tcp://127.0.0.1:*", fps: float = 25.0) -> None:
        self.session = session
        self._publisher = ResultsPublisher(endpoint)
        self.endpoint = self._publisher.endpoint
        self._period_s = 1 / fps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-results")

    def __enter__(self) -> FakePublisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._publisher.close()

    def _run(self) -> None:
        self._publisher.send(self.session.series())
        while not self._stop.wait(self._period_s):
            self._publisher.send(self.session.frame())
            if self.session.index % 15 == 0:
                for message in self.session.maps():
                    self._publisher.send(message)


def _crystal(side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Sites (n, 2) of a rounded crystal in the middle, and which are at its surface."""
    dy, dx = (s / PIXEL_SIZE_NM for s in SPACING_YX_NM)
    n = int(side_px / min(dy, dx))
    rows, cols = np.mgrid[-n : n + 1, -n : n + 1]
    y = rows.ravel() * dy
    x = (cols.ravel() + 0.5 * (rows.ravel() % 2)) * dx
    angle = np.deg2rad(11)
    yx = np.stack([y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)], 1)
    theta = np.arctan2(yx[:, 0], yx[:, 1])
    edge = side_px * (0.36 + 0.022 * np.cos(6 * theta + 0.4))
    radius = np.hypot(*yx.T)
    inside = radius < edge
    return yx[inside] + side_px / 2, (radius > edge - 1.15 * max(dy, dx))[inside]


def _add_spot(image: np.ndarray, y: float, x: float, sigma: float, height: float) -> None:
    """A Gaussian spot, within three sigma."""
    reach = int(3 * sigma) + 1
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    patch = image[top : int(y) + reach + 1, left : int(x) + reach + 1]
    if height and patch.size:
        yy = np.arange(patch.shape[0])[:, None] + top - y
        xx = np.arange(patch.shape[1])[None, :] + left - x
        patch += height * np.exp(-(yy**2 + xx**2) / (2 * sigma**2))
