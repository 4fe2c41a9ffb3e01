"""What a result file says of the kinetics: its sites, its events, and when anyone looked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from stream.frame import RecordingError, SeriesHeader
from stream.histories import KeptHistories
from stream.likelihood import Histories
from stream.matching import neighbours, spacing
from stream.segment import header_from_bytes

_NEIGHBOUR, _MOST_NEIGHBOURS = 1.5, 8  # as in the site map
_LOOKED_AGAIN = {"arrivals", "departures", "worth"}  # of the table of sites, from the second look


class Evidence(Histories, Protocol):
    """What every frame says of every site, and what all say of every frame: `stream.histories.KeptHistories`."""

    def smoothed(self, rows: slice, sites: slice) -> np.ndarray:
        """(rows, sites) f8, P(occupied | all frames)."""
        ...


@dataclass(frozen=True, slots=True)
class Session:
    """What a result file says of the kinetics.

    Attributes
    ----------
    header : of the series.
    sites, events : the tables, `stream.site_rows.SITES` and `stream.tables.EVENTS`.
    frame, t_ns : (n,) i8, when the specimen was seen: frames analysed, and not lost.
    drift_yx_px, turn_rad : (n, 2) and (n,) f8, where it was, and how it was turned.
    period_s : from frame to frame.
    spacing_nm : median distance between neighbouring sites.
    neighbours : (m, 8) i8, sites within 1.5 spacings, nearest first, then -1.
    evidence : None where the file is older than what was kept of it, or the series was not looked at again.
    hops : every pairing that hops may be, `stream.tables.HOPS`; None where the file is older than their shares.
    """

    header: SeriesHeader
    sites: np.ndarray
    events: np.ndarray
    frame: np.ndarray
    t_ns: np.ndarray
    drift_yx_px: np.ndarray
    turn_rad: np.ndarray
    period_s: float
    spacing_nm: float
    neighbours: np.ndarray
    evidence: Evidence | None = None
    hops: np.ndarray | None = None

    @property
    def yx_nm(self) -> np.ndarray:
        """(m, 2) f8, the sites in the specimen's frame."""
        return np.stack([self.sites["y_nm"], self.sites["x_nm"]], axis=1).astype(np.float64)

    @property
    def retired_frame(self) -> np.ndarray:
        """(m,) i8, the frame from which on nobody looked at a site, or -1."""
        return _told(self.sites, "retired_frame")

    def proposed(self, frame: int) -> np.ndarray:
        """(m,) bool, sites that are there because the lattice goes on: up to a frame no column was seen there."""
        never = _told(self.sites, "proposed") > 0
        return never | (self.sites["born_frame"] > frame)

    @property
    def merged_into(self) -> np.ndarray:
        """(m,) i8, the site that a site turned out to be, or -1; events are told of that one."""
        return _told(self.sites, "merged_into")


def read_session(path: Path) -> Session:
    """Read what kinetics need from a result file.

    Raises
    ------
    FileNotFoundError
    RecordingError
        If it is no result file, or one without a site or with fewer than two frames.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        with h5py.File(path, "r") as file:
            header = header_from_bytes(str(file.attrs["header"]).encode(), b"")
            sites, events, ledger = (_table(file, name) for name in ("sites", "events", "ledger"))
            hops = _table(file, "hops") if "hops" in file else None
            evidence = KeptHistories.of(path, file)
    except (OSError, KeyError, ValueError) as error:
        raise RecordingError(
            f"{path} is no result file: expected what hopscope replay writes, got {error}"
        ) from error
    try:
        return session(header, sites, events, ledger[ledger["state"] == b"analysed"], evidence, hops)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from None


def session(
    header: SeriesHeader,
    sites: np.ndarray,
    events: np.ndarray,
    analysed: np.ndarray,
    evidence: Evidence | None = None,
    hops: np.ndarray | None = None,
) -> Session:
    """A session of tables; `analysed` are the ledger's rows of the frames analysed.

    Raises
    ------
    RecordingError
        Without a site, or with fewer than two frames seen.
    """
    seen = analysed[~analysed["lost"]]  # a lost frame says nothing of the sites
    if not len(sites) or len(seen) < 2:
        raise RecordingError(
            f"there are {len(sites)} sites in {len(seen)} frames that were seen: expected at least one site and "
            "two frames; no rate can be told without"
        )
    period_s = header.frame_period_s or float(np.median(np.diff(analysed["t_ns"]))) * 1e-9
    yx_nm = np.stack([sites["y_nm"], sites["x_nm"]], axis=1).astype(np.float64)
    events = _of_one_site(events, _told(sites, "merged_into"))
    own = np.flatnonzero(_told(sites, "merged_into") < 0)
    apart_nm = spacing(yx_nm[own])
    beside = np.full((len(sites), _MOST_NEIGHBOURS), -1, np.int64)
    if np.isfinite(apart_nm):
        near = neighbours(yx_nm[own], _NEIGHBOUR * apart_nm, _MOST_NEIGHBOURS)
        beside[own] = np.append(own, -1)[near]
    drift = np.stack([seen["drift_y_px"], seen["drift_x_px"]], axis=1).astype(np.float64)
    frame, t_ns = (seen[name].astype(np.int64) for name in ("frame", "t_ns"))
    turn = seen["turn_rad"].astype(np.float64)
    known = (
        evidence is not None
        and set(sites.dtype.names or ()) >= _LOOKED_AGAIN
        and evidence.sites == len(sites)
    )
    kept = evidence if known else None
    if hops is not None:
        weighed = "share" in (hops.dtype.names or ())
        hops = _of_one_site(hops, _told(sites, "merged_into")) if weighed else None
    return Session(header, sites, events, frame, t_ns, drift, turn, period_s, apart_nm, beside, kept, hops)


def _told(sites: np.ndarray, name: str) -> np.ndarray:
    """A column of the table of sites; -1 where the file is older than the column."""
    known = name in (sites.dtype.names or ())
    return sites[name].astype(np.int64) if known else np.full(len(sites), -1, np.int64)


def _of_one_site(events: np.ndarray, merged_into: np.ndarray) -> np.ndarray:
    """Events of sites that turned out to be one, told of that one; hops between them were none."""
    if not (merged_into >= 0).any():
        return events
    name = np.append(np.where(merged_into >= 0, merged_into, np.arange(len(merged_into))), -1)
    events = events.copy()
    for end in ("from_site", "to_site"):
        events[end] = name[events[end]]
    return events[events["from_site"] != events["to_site"]]


def _table(file: h5py.File, name: str) -> np.ndarray:
    table = file[name]
    if not isinstance(table, h5py.Dataset):
        raise KeyError(name)
    return table[()]
