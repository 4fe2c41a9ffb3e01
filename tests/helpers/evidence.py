"""Simulated evidence: what frames say of sites with known rates, as a replay keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stream.hindsight import look_again
from stream.matching import neighbours, spacing
from stream.session import Session
from stream.tables import _event_rows, _hop_rows
from tests.helpers.kinetics import lattice_nm, sites_of, tables_session


@dataclass
class Seen:
    """Histories in memory."""

    frame: np.ndarray
    ratio: np.ndarray
    period_s: float = 1.0
    kept: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def t_ns(self) -> np.ndarray:
        return np.round(self.frame * self.period_s * 1e9).astype(np.int64)

    @property
    def sites(self) -> int:
        return self.ratio.shape[1]

    def log_ratio(self, rows: slice, sites: slice) -> np.ndarray:
        return self.ratio[rows, sites]

    def smoothed(self, rows: slice, sites: slice) -> np.ndarray:
        return self.kept[rows, sites]

    def keep_smoothed(self, first_row: int, p_occupied: np.ndarray) -> None:
        if not self.kept.size:
            self.kept = np.full(self.ratio.shape, np.nan)
        self.kept[first_row : first_row + len(p_occupied)] = p_occupied


def evidence_of(truth: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """(frames, m) f8, evidence of who was there: a log-likelihood ratio of mean ± strength / 2 and variance `strength`,
    as of a matched filter: 100, 25 and 6.6 are what columns of a phantom give at 310, 100 and 30 e/Å² per frame."""
    noise = np.sqrt(strength) * rng.normal(size=truth.shape)
    return np.clip(np.where(truth, strength / 2, -strength / 2) + noise, -12, 12)


def simulated(
    rate: float, strength: float, sites: int, frames: int, seed: int, missing: float = 0.05
) -> tuple[Seen, np.ndarray]:
    """Sites that switch either way at `rate` per frame in continuous time, and who was there in the frames seen."""
    rng = np.random.default_rng(seed)
    occupied = rng.random(sites) < 0.5
    rows, frame, truth = [], [], []
    for k in range(frames):
        occupied = rng.random(sites) < 0.5 + (occupied - 0.5) * np.exp(-2 * rate)
        if rng.random() < missing:
            continue
        rows.append(evidence_of(occupied, strength, rng))
        frame.append(k)
        truth.append(occupied)
    return Seen(np.array(frame), np.array(rows)), np.array(truth)


def looked_session(seen: Seen, yx_nm: np.ndarray | None = None) -> Session:
    """A session as a result file tells it, looked at again; columns hop between neighbours if sites have places."""
    m = seen.sites
    beside = np.full((m, 1), -1)
    if yx_nm is not None:
        beside = neighbours(yx_nm, 1.5 * spacing(yx_nm), 8)
    found = look_again(seen, beside, seen.period_s)
    where = lattice_nm(m) if yx_nm is None else yx_nm
    sites, occupancy = sites_of(where), found.occupancy
    for name in ("observed_s", "occupied_s", "arrivals", "departures", "worth"):
        sites[name] = getattr(occupancy, name)
    for kind, rate in found.hopping.rates(occupancy).items():
        if kind != "hop":
            sites[f"{kind}_rate_hz"], sites[f"{kind}_rate_high_hz"] = rate.rate_hz, rate.high_hz
    events, hops = (rows(found.events, where) for rows in (_event_rows, _hop_rows))
    return tables_session(sites, events, seen.frame, seen.period_s, evidence=seen, hops=hops)
