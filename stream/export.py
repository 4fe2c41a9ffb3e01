"""A result file as CSV tables and figures that other programs open."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py

from stream.frame import RecordingError
from stream.tables import TABLES

ROWS_AT_ONCE = 100_000
TRACKPY_NAMES = {"y_px": "y", "x_px": "x", "site": "particle", "sigma_px": "size"}


def export_result(result: Path, csv_dir: Path | None, png_dir: Path | None) -> list[Path]:
    """Write each table as CSV into `csv_dir` and each figure as PNG into `png_dir`; None leaves them out.

    columns.csv has trackpy's names (y, x in pixels; frame; particle is the site; size) where they fit.

    Raises
    ------
    RecordingError
        If `result` is no result file.
    """
    if not result.is_file():
        raise FileNotFoundError(2, "no such file", str(result))
    written: list[Path] = []
    try:
        with h5py.File(result, "r") as file:
            if csv_dir is not None:
                written += [_write_csv(file, name, csv_dir) for name in TABLES]
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
