"""The result of a replay: documented HDF5 tables.

Layout of a result file (plain h5py reads it)::

    /            @creator, @version, @complete (False where the replay was stopped early), @header (JSON),
                 @settings (site.toml), @engine (its manifest)
    /columns     COLUMNS: a row per column found and frame
    /sites       SITES: a row per site, at the end of the replay
    /occupancy   every site in every frame: `stream.histories`
    /events      EVENTS: appearances, disappearances and hops
    /hops        HOPS: the hops among them, from where to where, with every pairing that is likely enough
    /maps        occurrence, raw_events, events, rate, residence: (ny, nx) f4 with @meaning, @yx_origin_nm,
                 @nm_per_px; none without a site
    /ledger      LEDGER: a row per frame analysed and per gap; together they hold every index once

Every table has @description and, per field, @<field> with its meaning and unit. It is written under
another name and renamed when it is done: a replay that fails leaves no file that looks whole.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from stream.frame import Gap, RecordingError, SeriesHeader
from stream.hindsight import look_again
from stream.histories import Histories
from stream.hopping import Hop
from stream.maps import site_maps
from stream.pipeline import Seen
from stream.segment import header_to_bytes
from stream.site_rows import SITES, Fields, site_rows, table_type
from stream.tracking import Tracker

ROWS_AT_ONCE = 50_000

COLUMNS: Fields = {
    "frame": ("<i8", "index of the frame, the detector's number"),
    "y_px": ("<f4", "position, pixels of the frame, from the centre of the first pixel"),
    "x_px": ("<f4", "position, pixels of the frame, from the centre of the first pixel"),
    "sigma_px": ("<f4", "width of the peak in the probability map, pixels of the frame"),
    "score": ("<f4", "probability of a column at its maximum"),
    "kind": ("u1", "class: index into the engine's classes"),
    "site": ("<i8", "number of its site, -1 where it has none"),
}
EVENTS: Fields = {
    "frame": ("<i8", "index of the first frame that shows it"),
    "t_ns": ("<i8", "time of that frame by the detector's clock, ns"),
    "kind": ("S9", "appear, disappear or hop"),
    "from_site": ("<i8", "the site that emptied, -1 for an appearance"),
    "to_site": ("<i8", "the site that filled, -1 for a disappearance"),
    "probability": ("<f4", "that it happened, and for a hop that the two sites belong together"),
    "y_nm": ("<f8", "where (a hop: from where), specimen's frame, nm"),
    "x_nm": ("<f8", "where (a hop: from where), specimen's frame, nm"),
}
HOPS: Fields = {
    "event": ("<i8", "row of the table of events; rows that share it are readings of one hop"),
    "best": ("?", "the likeliest reading, which is the one among the events; once per event"),
    **{k: v for k, v in EVENTS.items() if k not in ("kind", "probability")},
    "probability": (
        "<f4",
        "that both happened and belong together; over all rows they add up to the hops expected",
    ),
    "share": ("<f4", "that the two belong together, given that both happened"),
    "to_y_nm": ("<f8", "to where, specimen's frame, nm"),
    "to_x_nm": ("<f8", "to where, specimen's frame, nm"),
}
LEDGER: Fields = {
    "frame": ("<i8", "index of the frame, or of the first of the gap"),
    "count": ("<i8", "1, or the frames of the gap"),
    "state": ("S12", "analysed, or the reason of the gap"),
    "t_ns": ("<i8", "time by the detector's clock, ns; -1 in a gap"),
    "columns": ("<i8", "columns found"),
    "drift_y_px": ("<f8", "how far the specimen has moved since the first frame, along its own axes, pixels"),
    "drift_x_px": ("<f8", "how far the specimen has moved since the first frame, along its own axes, pixels"),
    "turn_rad": ("<f8", "how far it has turned after that, about the frame's middle, clockwise as shown"),
    "residual_px": ("<f8", "rms distance of columns from their sites after that, pixels"),
    "residual_pm": ("<f8", "the same in pm"),
    "lost": ("?", "the specimen could not be recognized: the frame says nothing of the sites"),
}
TABLES: dict[str, tuple[str, Fields]] = {
    "columns": ("Every column found in every frame", COLUMNS),
    "events": ("What happened, in order of time", EVENTS),
    "hops": ("The hops among the events, and what else their departures and arrivals may have been", HOPS),
    "sites": ("Every site, at the end", SITES),
    "ledger": ("What became of every frame", LEDGER),
}


class ResultFile:
    """Writes one result file; a context manager.

    Parameters
    ----------
    path : must not exist.
    header : of the series, calibrated.
    settings_toml, engine_toml : in force, copied into the file.

    Raises
    ------
    RecordingError
        If the path is taken or cannot be written.
    """

    def __init__(self, path: Path, *, header: SeriesHeader, settings_toml: str, engine_toml: str) -> None:
        if path.exists():
            raise RecordingError(f"{path} is there already: results are never overwritten; give another name")
        self.path = path
        self._pixel_size_nm = header.pixel_size_nm or np.nan
        self._partial = path.with_name(path.name + ".partial")
        try:
            self._file = h5py.File(self._partial, "w")
        except OSError as error:
            raise RecordingError(f"cannot write {self._partial}: {error}; give another place") from error
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in TABLES}
        self._file.attrs.update(
            {
                "creator": "hopscope",
                "version": importlib.metadata.version("hopscope"),
                "complete": False,
                "header": header_to_bytes(header)[0].decode(),
                "settings": settings_toml,
                "engine": engine_toml,
            }
        )
        for name, (description, fields) in TABLES.items():
            self._make_table(name, description, fields)
        self.histories = Histories(self._file)

    def add_frame(self, seen: Seen) -> None:
        """What was made of one frame."""
        columns, tracked = seen.columns, seen.tracked
        rows = np.empty(len(columns), table_type(COLUMNS))
        rows["frame"] = seen.frame
        rows["y_px"], rows["x_px"] = columns.yx_px.T
        rows["sigma_px"], rows["score"], rows["kind"] = columns.sigma_px, columns.score, columns.kind
        rows["site"] = tracked.column_site
        self._add("columns", rows)
        shift = tracked.shift
        residual_pm = 1e3 * self._pixel_size_nm * shift.residual_px
        moved = (*shift.yx_px, shift.turn_rad, shift.residual_px, residual_pm, shift.lost)
        line = (seen.frame, 1, b"analysed", seen.t_ns, len(columns), *moved)
        self._add("ledger", np.array([line], table_type(LEDGER)))
        self.histories.add(seen.frame, seen.t_ns, tracked)

    def add_gap(self, gap: Gap) -> None:
        """Frames that were not seen."""
        line = (gap.first, gap.count, gap.reason.encode(), -1, 0, *[np.nan] * 5, False)
        self._add("ledger", np.array([line], table_type(LEDGER)))

    def finish(self, tracker: Tracker, *, complete: bool = True) -> list[Hop]:
        """Look at the series again, and write its sites, events and maps; the events."""
        hindsight, events = None, []
        if len(tracker.sites):
            period_s = tracker.occupancy.frame_period_s
            hindsight = look_again(self.histories, tracker.sites.neighbours, period_s)
            events = hindsight.events
            self.histories.put_past()
        sites = np.zeros(0, table_type(SITES))
        if hindsight is not None:
            hopping, raw_flips = hindsight.hopping, tracker.hopping.raw_flips
            sites = site_rows(tracker.sites, hindsight.occupancy, hopping, raw_flips)
        self._add("sites", sites)
        self._add("events", _event_rows(events, tracker.sites.yx_nm))
        self._add("hops", _hop_rows(events, tracker.sites.yx_nm))
        maps = site_maps(sites, tracker.sites.spacing_nm) if len(sites) else {}
        for name, (drawn, meaning) in maps.items():
            dataset = self._file.create_dataset(f"maps/{name}", data=drawn.array, compression="gzip")
            dataset.attrs.update({"yx_origin_nm": drawn.yx_origin_nm, "nm_per_px": drawn.nm_per_px})
            dataset.attrs["meaning"] = meaning
        self._file.attrs["complete"] = complete
        return events

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for name in TABLES:
                self._write(name)
            self.histories.write()
        self._file.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink()

    def _make_table(self, name: str, description: str, fields: Fields) -> None:
        table = self._file.create_dataset(
            name, (0,), table_type(fields), maxshape=(None,), chunks=(4096,), compression="gzip", shuffle=True
        )
        table.attrs["description"] = description
        table.attrs.update({field: meaning for field, (_, meaning) in fields.items()})

    def _add(self, name: str, rows: np.ndarray) -> None:
        self._rows[name].append(rows)
        if sum(len(part) for part in self._rows[name]) >= ROWS_AT_ONCE:
            self._write(name)

    def _write(self, name: str) -> None:
        if self._rows[name]:
            _append(self._file, name, np.concatenate(self._rows[name]))
            self._rows[name].clear()


def read_table(path: Path, name: str) -> np.ndarray:
    """One table of a result file, as a structured array."""
    with h5py.File(path, "r") as file:
        table = file[name]
        if not isinstance(table, h5py.Dataset):
            raise RecordingError(f"{path} has no table {name!r}: expected one of {', '.join(TABLES)}")
        return table[()]


def _append(file: h5py.File, name: str, rows: np.ndarray) -> None:
    table = file[name]
    if not isinstance(table, h5py.Dataset):
        raise TypeError(f"{name} is no dataset")
    before = table.shape[0]
    table.resize(before + len(rows), axis=0)
    table[before:] = rows


def _event_rows(events: list[Hop], site_yx_nm: np.ndarray) -> np.ndarray:
    lines = [
        (e.frame, e.t_ns, e.kind.encode(), e.from_site, e.to_site, e.probability,
         *site_yx_nm[e.from_site if e.from_site >= 0 else e.to_site])
        for e in events
    ]  # fmt: skip
    return np.array(lines, table_type(EVENTS))


def _hop_rows(events: list[Hop], site_yx_nm: np.ndarray) -> np.ndarray:
    lines = [
        (row, k == 0, e.frame, e.t_ns, a, b, *site_yx_nm[a], probability, share, *site_yx_nm[b])
        for row, e in enumerate(events) if e.kind == "hop"
        for k, ((a, b, probability), share) in enumerate(
            zip([(e.from_site, e.to_site, e.probability), *e.others], e.shares, strict=True)
        )
    ]  # fmt: skip
    return np.array(lines, table_type(HOPS))
