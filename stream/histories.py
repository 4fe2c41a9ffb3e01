"""What every site went through, frame by frame: the group /occupancy of a result file."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from pathlib import Path

import h5py
import numpy as np

from stream.drift import Shift
from stream.tracking import Tracked

_BLOCK = 256  # frames written at once
_EMPTY = (
    -1.0
)  # log ratio of a frame that had a place in view before it was a site: little, but there are many
_NUMBERS = "turn_rad", "residual_px", "matched", "measured", "lost_frames"  # of a shift
_SITES = {
    "p": "P(occupied | all frames so far); NaN before the site was known and while it is retired",
    "log_ratio": "log P(this frame | occupied) / P(this frame | empty); NaN where the site was not observed",
    "smoothed": "P(occupied | all frames of the series)",
}


class Histories:
    """Writes the group while frames come in, and gives it back for the look in hindsight.

    Attributes
    ----------
    frame, t_ns : (n,) i8, of the frames so far.
    sites : number of them so far.
    """

    def __init__(self, file: h5py.File) -> None:
        self._group = group = file.create_group("occupancy")
        group.attrs["description"] = "Every site in every frame; row: frame, column: site"
        for name, meaning in (("frame", "index of the frame"), ("t_ns", "detector's clock, ns")):
            group.create_dataset(name, (0,), "<i8", maxshape=(None,)).attrs["meaning"] = meaning
        for name, meaning in _SITES.items():
            table = group.create_dataset(
                name, (0, 0), "<f2", maxshape=(None, None), chunks=(4 * _BLOCK, 32),
                compression="gzip", compression_opts=1, shuffle=True, fillvalue=np.float16(np.nan),
            )  # fmt: skip
            table.attrs["meaning"] = meaning
        self._frames, self._times_ns = array("q"), array("q")
        self._p: list[np.ndarray] = []  # of the rows not written yet
        self._log_ratio: list[np.ndarray] = []
        places = group.create_dataset(
            "site_yx_px", (0, 0, 2), "<f4", maxshape=(None, None, 2), chunks=(1, 1024, 2), fillvalue=np.nan
        )
        places.attrs["meaning"] = (
            "where the sites were, now and then, in the first frame's pixels: they may creep"
        )
        self._placed = array("q")  # rows up to which each of these holds
        self._last: Tracked | None = None
        self._shifts = array("d")  # y, x and `_NUMBERS` of each: there may be 100,000s
        self._centre = np.zeros(2)
        self._begun: list[
            tuple[int, int, np.ndarray, int]
        ] = []  # row, site, evidence before it, frames empty before
        self._sites = 0

    @property
    def sites(self) -> int:
        return self._sites

    @property
    def frame(self) -> np.ndarray:
        return np.array(self._frames, np.int64)

    @property
    def t_ns(self) -> np.ndarray:
        return np.array(self._times_ns, np.int64)

    def add(self, frame: int, t_ns: int, tracked: Tracked) -> None:
        """Take what is known of the sites after a frame."""
        row = len(self._frames)
        for past in tracked.begun:
            for k, site in enumerate(past.site.tolist()):
                before = past.log_ratio[:, k].astype(np.float32)
                self._begun.append((row, site, before, int(past.empty_frames[k])))
        self._sites = len(tracked.evidence)
        self._frames.append(frame)
        self._times_ns.append(t_ns)
        shift, self._last = tracked.shift, tracked
        self._centre = shift.centre_yx_px
        self._shifts.extend((*shift.yx_px, *(float(getattr(shift, name)) for name in _NUMBERS)))
        p = np.where(tracked.followed, tracked.occupancy.p_occupied, np.nan)
        self._p.append(p.astype(np.float16))
        self._log_ratio.append(np.where(tracked.observed, tracked.evidence, np.nan).astype(np.float16))
        if len(self._p) == _BLOCK:
            self.write()

    def write(self) -> None:
        """Put what is held back into the file."""
        first = len(self._frames) - len(self._p)
        if not self._p or self._last is None:
            return
        last = self._last
        self._put(
            "site_yx_px", len(self._placed), (last.shift.upright(last.site_yx_px) - last.shift.yx_px)[None]
        )
        self._placed.append(len(self._frames))
        for name, values in (("frame", self._frames[first:]), ("t_ns", self._times_ns[first:])):
            table = self._table(name)
            table.resize(len(self._frames), axis=0)
            table[first:] = values
        for name, rows in (("p", self._p), ("log_ratio", self._log_ratio)):
            block = np.full((len(rows), self._sites), np.nan, np.float16)
            for row, values in zip(block, rows, strict=True):
                row[: len(values)] = values
            self._put(name, first, block)
            rows.clear()

    def log_ratio(self, rows: slice, sites: slice) -> np.ndarray:
        """(rows, sites) f8, also from before a site was known; NaN where it was not observed."""
        self.write()
        table = self._table("log_ratio")
        out = np.full((rows.stop - rows.start, sites.stop - sites.start), np.nan)
        stop = min(sites.stop, table.shape[1])
        out[:, : stop - sites.start] = table[rows, sites.start : stop]
        for row, site, history, empty in self._begun:
            if (
                sites.start <= site < sites.stop
                and row - len(history) - empty < rows.stop
                and row > rows.start
            ):
                before = np.concatenate([np.full(min(empty, row), _EMPTY), history])[-row:]
                begin = row - len(before)
                low, high = max(begin, rows.start), min(row, rows.stop)
                out[low - rows.start : high - rows.start, site - sites.start] = before[
                    low - begin : high - begin
                ]
        return out

    def shift(self, row: int) -> Shift:
        """Where the specimen was."""
        size = 2 + len(_NUMBERS)
        y, x, turn_rad, residual_px, matched, measured, lost_frames = self._shifts[
            row * size : (row + 1) * size
        ]
        told = residual_px, int(matched), bool(measured), int(lost_frames)
        return Shift(np.array([y, x]), turn_rad, self._centre, *told)

    def site_yx_px(self, row: int) -> np.ndarray:
        """(k, 2) f8, where the sites of that time were, at most 256 frames later, in the first frame's pixels."""
        self.write()
        return np.asarray(self._table("site_yx_px")[bisect_right(self._placed, row)], np.float64)

    def correct(self, first_row: int, log_ratio: np.ndarray) -> None:
        """Evidence found later, of rows from `first_row` on, (rows, m); what is inf stays as it was."""
        rows = slice(first_row, first_row + len(log_ratio))
        before = self.log_ratio(rows, slice(0, log_ratio.shape[1]))
        self._put("log_ratio", first_row, np.where(np.isinf(log_ratio), before, log_ratio).astype(np.float16))

    def corrected(self, rows: int) -> None:
        """The first rows, so many, were: what was told of sites before they were known is in the file now."""
        self._begun = [past for past in self._begun if past[0] > rows]

    def put_past(self) -> None:
        """What was told of sites before they were known, and is not in the file yet, goes there too."""
        last = max((row for row, *_ in self._begun), default=0)
        for first in range(0, last, _BLOCK):
            rows = slice(first, min(first + _BLOCK, last))
            self._put("log_ratio", first, self.log_ratio(rows, slice(0, self._sites)).astype(np.float16))
        self._begun.clear()

    def keep_smoothed(self, first_row: int, p_occupied: np.ndarray) -> None:
        """Write P(occupied | all frames) of rows from `first_row` on, (rows, m)."""
        self._put("smoothed", first_row, p_occupied.astype(np.float16))

    def _put(self, name: str, first: int, block: np.ndarray) -> None:
        table = self._table(name)
        rows, sites = max(table.shape[0], first + len(block)), max(table.shape[1], block.shape[1])
        table.resize((rows, sites, *table.shape[2:]))
        table[first : first + len(block), : block.shape[1]] = block

    def _table(self, name: str) -> h5py.Dataset:
        table = self._group[name]
        if not isinstance(table, h5py.Dataset):
            raise TypeError(f"occupancy/{name} is no dataset")
        return table


class KeptHistories:
    """The group in a result file; what is asked for is read then.

    Attributes
    ----------
    frame, t_ns : (n,) i8, of the frames analysed.
    sites : number of them.
    """

    def __init__(self, path: Path, frame: np.ndarray, t_ns: np.ndarray, sites: int) -> None:
        self._path = path
        self.frame, self.t_ns, self.sites = frame, t_ns, sites

    @classmethod
    def of(cls, path: Path, file: h5py.File) -> KeptHistories | None:
        """Of a result file that is open; None where it is older than that, or the series was not looked at again."""
        names = ("frame", "t_ns", "log_ratio", "smoothed")
        tables = [t for t in (file.get(f"occupancy/{name}") for name in names) if isinstance(t, h5py.Dataset)]
        lengths = {table.shape[0] for table in tables}
        if len(tables) < len(names) or len(lengths) > 1 or 0 in lengths:
            return None
        frame, t_ns = (np.asarray(table[()], np.int64) for table in tables[:2])
        return cls(path, frame, t_ns, tables[3].shape[1])

    def log_ratio(self, rows: slice, sites: slice) -> np.ndarray:
        """(rows, sites) f8; NaN where a site was not observed."""
        return self._read("log_ratio", rows, sites)

    def smoothed(self, rows: slice, sites: slice) -> np.ndarray:
        """(rows, sites) f8, P(occupied | all frames)."""
        return self._read("smoothed", rows, sites)

    def _read(self, name: str, rows: slice, sites: slice) -> np.ndarray:
        out = np.full((rows.stop - rows.start, sites.stop - sites.start), np.nan)
        with h5py.File(self._path, "r") as file:
            table = file[f"occupancy/{name}"]
            if not isinstance(table, h5py.Dataset):
                raise TypeError(f"occupancy/{name} is no dataset")
            stop = min(sites.stop, table.shape[1])
            if stop > sites.start:
                out[:, : stop - sites.start] = table[rows, sites.start : stop]
        return out
