"""A result file as CSV tables and figures that other programs open."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np

from stream.frame import RecordingError
from stream.rigid import turned
from stream.tables import TABLES, read_table
from stream.tracks import Points, certain_radius_px, link, write_tracks

ROWS_AT_ONCE = 100_000
TRACKPY_NAMES = {"y_px": "y", "x_px": "x", "site": "particle", "sigma_px": "size"}


def export_result(
    result: Path,
    csv_dir: Path | None,
    png_dir: Path | None,
    tracks_csv: Path | None = None,
    radius_px: float | None = None,
) -> list[Path]:
    """Write each table as CSV into `csv_dir` and each figure as PNG into `png_dir`; None leaves them out.

    columns.csv has trackpy's names (y, x in pixels; frame; particle is the site; size) where they fit.
    `tracks_csv` is the same columns linked from frame to frame, whatever their sites, in trackpy's names;
    `radius_px` is the longest step between frames, drift apart; None: `tracks.certain_radius_px`.

    Raises
    ------
    RecordingError
        If `result` is no result file, or `tracks_csv` is taken.
    """
    if not result.is_file():
        raise FileNotFoundError(2, "no such file", str(result))
    written: list[Path] = []
    try:
        with h5py.File(result, "r") as file:
            if csv_dir is not None:
                written += [_write_csv(file, name, csv_dir) for name in TABLES]
        if tracks_csv is not None:
            points, shape_yx = _read_points(result)
            radius_px = radius_px or certain_radius_px(points, shape_yx)
            write_tracks(tracks_csv, points, link(points, radius_px))
            written.append(tracks_csv)
    except (OSError, KeyError) as error:
        raise RecordingError(
            f"{result} is no result file: expected what hopscope replay writes, got {error}"
        ) from error
    if png_dir is not None:
        from stream.figures import write_figures

        written += write_figures(result, png_dir)
    return written


def _write_csv(file: h5py.File, name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    table = file[name]
    if not isinstance(table, h5py.Dataset):
        raise KeyError(name)
    fields = table.dtype.names or ()
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow([TRACKPY_NAMES.get(f, f) if name == "columns" else f for f in fields])
        for start in range(0, table.shape[0], ROWS_AT_ONCE):
            for row in table[start : start + ROWS_AT_ONCE].tolist():
                writer.writerow([value.decode() if isinstance(value, bytes) else value for value in row])
    return path


def _read_points(result: Path) -> tuple[Points, tuple[int, int]]:
    """All columns, with the drift of their frames, and the frames' shape."""
    columns, ledger = read_table(result, "columns"), read_table(result, "ledger")
    seen = ledger[ledger["state"] == b"analysed"]
    with h5py.File(result, "r") as file:
        ny, nx = json.loads(str(file.attrs["header"]))["shape_yx"]
    row = np.searchsorted(seen["frame"], columns["frame"])
    yx_px = np.column_stack([columns["y_px"], columns["x_px"]]).astype(np.float64)
    upright = turned(yx_px, -seen["turn_rad"][row], np.array([ny - 1, nx - 1]) / 2)
    at_rest = upright - np.column_stack([seen["drift_y_px"], seen["drift_x_px"]])[row]
    points = Points(columns["frame"], yx_px, mass=columns["score"], drift_yx_px=yx_px - at_rest)
    return points, (ny, nx)
