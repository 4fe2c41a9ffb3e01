"""Sessions with known kinetics, as the tables of a result file would tell them."""

from __future__ import annotations

import numpy as np

from stream.frame import SeriesHeader
from stream.session import Evidence, Session, session
from stream.site_rows import SITES, table_type
from stream.tables import EVENTS, LEDGER

PIXEL_NM = 0.02


def two_states(
    rng: np.random.Generator,
    arrival: np.ndarray | float,
    departure: np.ndarray | float,
    frames: int,
    sites: int,
) -> np.ndarray:
    """(frames, sites) bool: sites that fill and empty at constant rates, per frame, seen at every frame.

    Starts in equilibrium; what happens between two frames and is undone again is not seen.
    """
    a, d = np.broadcast_to(arrival, sites), np.broadcast_to(departure, sites)
    change = (1 - np.exp(-(a + d))) / (a + d)
    state = np.empty((frames, sites), bool)
    state[0] = rng.random(sites) < a / (a + d)
    for frame in range(1, frames):
        now = state[frame - 1]
        state[frame] = now ^ (rng.random(sites) < np.where(now, d, a) * change)
    return state


def lattice_nm(sites: int, apart_nm: float = 0.3) -> np.ndarray:
    """(sites, 2) places of a square lattice."""
    side = int(np.ceil(np.sqrt(sites)))
    return 1.0 + apart_nm * np.argwhere(np.ones((side, side)))[:sites]


def session_of(
    state: np.ndarray,
    yx_nm: np.ndarray | None = None,
    *,
    seen: np.ndarray | None = None,
    period_s: float = 0.1,
    hops: list[tuple[int, int, int]] | None = None,
    dose_rate_e_nm2_s: float | None = None,
) -> Session:
    """A session in which `state` (frames, m) was seen in the frames `seen` (frames,) bool, without error.

    `hops` (frame, from, to) are written as hops; all other changes as appearances and disappearances.
    """
    frames, m = state.shape
    seen = np.ones(frames, bool) if seen is None else seen
    index = np.flatnonzero(seen)
    yx_nm = lattice_nm(m) if yx_nm is None else yx_nm
    row, site = np.nonzero(np.diff(state[index].astype(np.int8), axis=0))
    frame = index[row + 1]
    fills = state[frame, site]
    part_of_hop = np.zeros(len(site), bool)
    events = np.zeros(len(site), table_type(EVENTS))
    events["frame"], events["t_ns"] = frame, frame * round(period_s * 1e9)
    events["from_site"], events["to_site"] = np.where(fills, -1, site), np.where(fills, site, -1)
    events["kind"] = np.where(fills, b"appear", b"disappear")
    events["probability"] = 1.0
    for at, start, end in hops or []:
        leaves = (frame == at) & (site == start)
        events["to_site"][leaves], events["kind"][leaves] = end, b"hop"
        part_of_hop |= (frame == at) & (site == end) & fills
    events = events[~part_of_hop]
    sites = sites_of(yx_nm)
    sites["observed_s"] = len(index) * period_s
    sites["occupied_s"] = state[index].sum(axis=0) * period_s
    return tables_session(sites, events, index, period_s, dose_rate_e_nm2_s)


def sites_of(yx_nm: np.ndarray) -> np.ndarray:
    sites = np.zeros(len(yx_nm), table_type(SITES))
    sites["site"] = np.arange(len(yx_nm))
    sites["retired_frame"] = sites["merged_into"] = -1
    sites["y_nm"], sites["x_nm"] = yx_nm.T
    return sites


def tables_session(
    sites: np.ndarray,
    events: np.ndarray,
    index: np.ndarray,
    period_s: float = 0.1,
    dose_rate_e_nm2_s: float | None = None,
    evidence: Evidence | None = None,
    hops: np.ndarray | None = None,
) -> Session:
    """A session of tables, seen in the frames `index`, without drift, in a frame that holds all sites."""
    ledger = np.zeros(len(index), table_type(LEDGER))
    ledger["frame"], ledger["t_ns"] = index, index * round(period_s * 1e9)
    ledger["count"], ledger["state"] = 1, b"analysed"
    side = int(max(sites["y_nm"].max(), sites["x_nm"].max()) / PIXEL_NM) + 200
    header = SeriesHeader(
        1, (side, side), np.dtype("<u2"), frame_period_s=period_s, pixel_size_nm=PIXEL_NM,
        dose_rate_e_nm2_s=dose_rate_e_nm2_s,
    )  # fmt: skip
    return session(header, sites, events, ledger, evidence, hops)
