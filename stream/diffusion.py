"""How fast columns move along the surface: from their hops, chained into paths.

Two estimates, told apart by name. "jump": D = Γ <l²> / 4 in two dimensions, with Γ the hops per column
and second and l the length of a hop; right if every hop forgets the one before. "msd": the mean squared
displacement of followed columns over a lag τ, divided by 4 τ; right whatever hops remember, for lags over
which they have forgotten it. Their ratio at a long lag is the correlation factor: below 1 where columns
hop back and forth. Both count columns that never move as well, and both are of what was seen: a hop
whose two ends were not paired ends a path and counts in neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stream.dwells import seconds
from stream.kinetics import LEAST_EVENTS, LEAST_SITES, bootstrap_rate
from stream.poisson import rate
from stream.session import Session

_LAGS = (1, 2, 5)  # frames, times powers of ten
_LEAST_WINDOWS = 100  # of one lag's length, in all that was followed


@dataclass(frozen=True, slots=True)
class Diffusion:
    """Surface diffusion of columns.

    Attributes
    ----------
    jump_nm2_s, low_nm2_s, high_nm2_s : Γ <l²> / 4, with its 95 % interval; NaN without time.
    interval : "bootstrap" (over sites) or "Garwood" (of the number of hops, their lengths taken as given).
    hops, columns : that were counted, and the paths they belong to.
    hop_nm : root mean square length of a hop.
    lag_s, msd_nm2, msd_low_nm2, msd_high_nm2 : (k,) f8, with 95 % intervals by bootstrap over columns
        (NaN for fewer than 20).
    """

    jump_nm2_s: float
    low_nm2_s: float
    high_nm2_s: float
    interval: str
    hops: int
    columns: int
    hop_nm: float
    lag_s: np.ndarray
    msd_nm2: np.ndarray
    msd_low_nm2: np.ndarray
    msd_high_nm2: np.ndarray

    @property
    def msd_nm2_s(self) -> np.ndarray:
        """(k,) f8, MSD / 4 τ of each lag."""
        return self.msd_nm2 / (4 * self.lag_s)

    @property
    def correlation(self) -> float:
        """MSD / 4 τ at the longest lag, over Γ <l²> / 4; NaN where there is no hop."""
        return float(self.msd_nm2_s[-1] / self.jump_nm2_s) if len(self.lag_s) and self.hops else np.nan


def diffusion(
    session: Session, dwells: np.ndarray, rng: np.random.Generator, chosen: np.ndarray | None = None
) -> Diffusion:
    """Both estimates from the dwells of `site_dwells`.

    Parameters
    ----------
    chosen : (m,) bool, the sites where columns are followed; all by default. One that leaves them is lost.
    """
    yx_nm = session.yx_nm
    m = len(yx_nm)
    chosen = np.ones(m, bool) if chosen is None else chosen
    stays = dwells[dwells["occupied"] & chosen[dwells["site"]]]
    path, link = _chain(stays, session.events)
    paths = int(path.max(initial=-1)) + 1
    time_s = np.bincount(stays["site"], seconds(stays), m)
    origin, target = stays["site"][link[:, 0]], stays["site"][link[:, 1]]
    square_nm2 = ((yx_nm[target] - yx_nm[origin]) ** 2).sum(axis=1)
    hops = len(link)
    mean_nm2 = float(square_nm2.mean()) if hops else np.nan
    total_s = float(time_s.sum())
    jump = float(square_nm2.sum() / (4 * total_s)) if total_s else np.nan
    followed = time_s > 0
    if hops >= LEAST_EVENTS and np.count_nonzero(followed) >= LEAST_SITES:
        per_site = np.bincount(origin, square_nm2, m)
        low, high = bootstrap_rate(per_site[followed], 4 * time_s[followed], rng)
        interval = "bootstrap"
    else:
        garwood = rate(hops, total_s)
        length2 = mean_nm2 if hops else session.spacing_nm**2  # none seen: as long as the lattice is wide
        low, high = (float(end) * length2 / 4 for end in (garwood.low_hz, garwood.high_hz))
        interval = "Garwood"
    lag_s, msd = _msd(yx_nm, stays, path, session.period_s, paths, rng)
    return Diffusion(jump, low, high, interval, hops, paths, float(np.sqrt(mean_nm2)), lag_s, *msd)


def _chain(stays: np.ndarray, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which path each stay belongs to, (n,), and the pairs of stays joined by a hop, (h, 2)."""
    hops = events[(events["from_site"] >= 0) & (events["to_site"] >= 0)]
    ends = {
        (int(s), int(t)): k
        for k, (s, t, e) in enumerate(zip(stays["site"], stays["end_ns"], stays["hopped"], strict=True))
        if e
    }
    begins = {
        (int(s), int(t)): k
        for k, (s, t, b) in enumerate(zip(stays["site"], stays["begin_ns"], stays["begun"], strict=True))
        if b
    }
    pairs = [
        (ends[int(a), int(t)], begins[int(b), int(t)])
        for a, b, t in zip(hops["from_site"], hops["to_site"], hops["t_ns"], strict=True)
        if (int(a), int(t)) in ends and (int(b), int(t)) in begins
    ]
    link = np.array(pairs, np.int64).reshape(-1, 2)
    n = len(stays)
    graph = coo_array((np.ones(len(link)), (link[:, 0], link[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1], link


def _msd(
    yx_nm: np.ndarray,
    stays: np.ndarray,
    path: np.ndarray,
    period_s: float,
    paths: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """MSD over rising lags as long as enough was followed, with intervals.

    Exact for paths that rest and jump: of two stays of one path, the time t is weighed for which t is in
    the one and t + τ in the other.
    """
    order = np.lexsort((stays["begin_ns"], path))
    stays, path = stays[order], path[order]
    place = yx_nm[stays["site"]]
    begin_s, end_s = (
        (stays[name] - stays["begin_ns"].min(initial=0)) * 1e-9 for name in ("begin_ns", "end_ns")
    )
    first = np.full(paths, np.inf)
    np.minimum.at(first, path, begin_s)
    last = np.zeros(paths)
    np.maximum.at(last, path, end_s)
    lags, rows = [], []
    for lag_s in _lags(period_s, float((last - first).max(initial=0.0))):
        weight = np.maximum(last - first - lag_s, 0.0)
        if weight.sum() < _LEAST_WINDOWS * lag_s:
            break
        moved = np.zeros(paths)
        for apart in range(1, len(stays)):
            same = path[apart:] == path[:-apart]
            here, there = np.flatnonzero(same), np.flatnonzero(same) + apart
            both_s = np.minimum(end_s[here], end_s[there] - lag_s) - np.maximum(
                begin_s[here], begin_s[there] - lag_s
            )
            if not (begin_s[there] - end_s[here] < lag_s).any():
                break
            square = ((place[there] - place[here]) ** 2).sum(axis=1)
            moved += np.bincount(path[here], np.maximum(both_s, 0.0) * square, paths)
        some = weight > 0
        ends = (np.nan, np.nan)
        if np.count_nonzero(moved) >= LEAST_SITES:
            ends = bootstrap_rate(moved[some], weight[some], rng)
        lags.append(lag_s)
        rows.append((moved.sum() / weight.sum(), *ends))
    table = np.array(rows, np.float64).reshape(-1, 3)
    return np.array(lags), (table[:, 0], table[:, 1], table[:, 2])


def _lags(period_s: float, longest_s: float) -> list[float]:
    lags = [period_s * step * 10**power for power in range(9) for step in _LAGS]
    return [lag_s for lag_s in lags if lag_s <= longest_s]
