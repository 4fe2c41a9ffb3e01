"""A result file as CSV tables and pictures that other programs open."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stream.frame import RecordingError
from stream.tables import TABLES

ROWS_AT_ONCE = 100_000
TRACKPY_NAMES = {"y_px": "y", "x_px": "x", "site": "particle", "sigma_px": "size"}
MAP_TITLES = {
    "events": ("Events per site", "inferno"),
    "occurrence": ("Occurrence: fraction of the time observed", "viridis"),
}


def export_result(result: Path, csv_dir: Path | None, png_dir: Path | None) -> list[Path]:
    """Write each table as CSV into `csv_dir` and each map as PNG into `png_dir`; None leaves them out.

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
            if png_dir is not None:
                maps = file.get("maps")  # none without a site
                names = list(maps) if isinstance(maps, h5py.Group) else []
                written += [_write_png(file, name, png_dir) for name in names]
    except (OSError, KeyError) as error:
        raise RecordingError(
            f"{result} is no result file: expected what hopscope replay writes, got {error}"
        ) from error
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


def _write_png(file: h5py.File, name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    dataset = file["maps"][name]  # type: ignore[index]
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(f"maps/{name}")
    path = folder / f"{name}.png"
    title, colours = MAP_TITLES.get(name, (name, "viridis"))
    array = dataset[()]
    place = {key: np.asarray(value, np.float64) for key, value in dataset.attrs.items()}
    ny_nm, nx_nm = np.array(array.shape) * place["nm_per_px"]
    figure = Figure(figsize=(6.4, 0.9 + 5.4 * ny_nm / nx_nm), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    y_nm, x_nm = place["yx_origin_nm"]
    image = axes.imshow(array, cmap=colours, vmin=0, extent=(x_nm, x_nm + nx_nm, y_nm + ny_nm, y_nm))
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_axis_off()
    bar_nm = _round_length(nx_nm / 5)
    axes.add_patch(
        Rectangle((x_nm + 0.04 * nx_nm, y_nm + 0.95 * ny_nm), bar_nm, 0.012 * ny_nm, color="white")
    )
    axes.text(
        x_nm + 0.04 * nx_nm + bar_nm / 2, y_nm + 0.94 * ny_nm, f"{bar_nm:g} nm", color="white", ha="center"
    )
    figure.savefig(path, dpi=150)
    return path


def _round_length(nm: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `nm`."""
    power = 10.0 ** np.floor(np.log10(nm))
    return float(power * max(step for step in (1, 2, 5) if step * power <= nm))
