"""What a recording looks like inside: HDF5 by the NeXus convention, one file per series.

Layout of a recording, `<date>_series-<id>_part-<n>.nxs` (RosettaSciIO knows NeXus by that suffix:
`hyperspy.api.load(path, nxdata_only=True)` is the calibrated stack)::

    /                                @default "entry", @creator "hopscope", @layout 1
    /entry                           NXentry, @default "data"
      title, start_time, end_time    text; end_time stays "" where the writer was killed
      stopped                        text: the alarm that ended the recording early, else ""
      settings                       site.toml, the whole text
      header                         the SeriesHeader as JSON, metadata included, without bad_pixels
      data                           NXdata, @signal "frames", @axes ["time", "y", "x"]
        frames   (n, ny, nx)         the counts; a chunk (1, ny, nx) is a payload as received;
                                     filter 32008 (bitshuffle + LZ4), 32004 (LZ4), or none;
                                     a plain payload in a filtered dataset has filter mask 1
        time     (n,) f8             @units "s": (index - first index) * frame period, so that it is
                                     uniform where no frame is missing; by the detector's clock where
                                     the period is unknown; @units "frame", index - first index,
                                     where both are
        y, x     (ny,), (nx,) f8     centres of the pixels, @units "nm" ("px" where the size is unknown)
      ledger     (rows,) LEDGER      one row per frame received and per gap, in order, for ever
      instrument                     NXinstrument; each field only where it is known:
        beam     NXbeam              incident_energy @units "eV", flux @units "1/(nm^2 s)" (the dose rate)
        detector NXdetector          count_time and frame_time @units "s", pixel_size_at_specimen
                                     @units "nm", pixel_mask (ny, nx) u4 (1: not to be believed)

A ledger row: `index`, the detector's number (the first of a gap); `count`, 1 or the frames of the gap;
`t_ns` the detector's clock and `recv_ns` ours (monotonic), -1 where unknown; `row` in `frames`, or -1;
`bytes` and `algorithm` as received; `kind` frame | gap; `reason`, a GapReason, or "ok" for a frame in `frames`,
"decode" for one whose payload could not be a frame (row -1). `frames[row]` belongs to the ledger row that
names it; rows that no ledger row names were written in the moment before a crash, and are ignored.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import h5py
import hdf5plugin
import numpy as np

from stream.crashsafe import repair
from stream.frame import Algorithm, GapReason, RecordingError, SeriesHeader

KINDS: dict[str, int] = {"frame": 0, "gap": 1}
REASONS: dict[str, int] = {reason: code for code, reason in enumerate(("ok", *get_args(GapReason)))}
ALGORITHMS: dict[str, int] = {name: code for code, name in enumerate(get_args(Algorithm))}

LEDGER = np.dtype(
    [
        ("index", "<i8"),
        ("count", "<i8"),
        ("t_ns", "<i8"),
        ("recv_ns", "<i8"),
        ("row", "<i8"),
        ("bytes", "<i8"),
        ("algorithm", h5py.enum_dtype(ALGORITHMS, basetype="u1")),
        ("kind", h5py.enum_dtype(KINDS, basetype="u1")),
        ("reason", h5py.enum_dtype(REASONS, basetype="u1")),
    ]
)

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "lz4": dict(hdf5plugin.LZ4()),
    "bslz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
}
TEXT_BYTES = 1024
_LEDGER_CHUNK = 1024


def lay_out(
    file: h5py.File, header: SeriesHeader, algorithm: Algorithm, time_units: str, settings_toml: str
) -> None:
    """Make everything a recording has, with no frame in it yet."""
    ny, nx = header.shape_yx
    file.attrs["default"] = "entry"
    file.attrs["creator"] = "hopscope"
    file.attrs["layout"] = 1
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "data"
    entry["title"] = f"series {header.series_id}"
    entry["start_time"] = datetime.now().astimezone().isoformat()
    for name in ("end_time", "stopped"):
        entry.create_dataset(name, data="", dtype=h5py.string_dtype("utf-8", TEXT_BYTES))
    entry["settings"] = settings_toml
    entry["header"] = _header_json(header)

    data = _group(entry, "data", "NXdata")
    data.attrs["signal"] = "frames"
    data.attrs["axes"] = ["time", "y", "x"]
    data.attrs["interpretation"] = "image"
    data.create_dataset(
        "frames",
        (0, ny, nx),
        header.dtype,
        maxshape=(None, ny, nx),
        chunks=(1, ny, nx),
        **FILTERS[algorithm],
    )
    data["frames"].attrs["units"] = "counts"
    data.create_dataset("time", (0,), "<f8", maxshape=(None,), chunks=(_LEDGER_CHUNK,))
    data["time"].attrs["units"] = time_units
    for name, length in (("y", ny), ("x", nx)):
        data[name] = np.arange(length) * (header.pixel_size_nm or 1.0)
        data[name].attrs["units"] = "px" if header.pixel_size_nm is None else "nm"

    entry.create_dataset("ledger", (0,), LEDGER, maxshape=(None,), chunks=(_LEDGER_CHUNK,))

    instrument = _group(entry, "instrument", "NXinstrument")
    beam = _group(instrument, "beam", "NXbeam")
    _quantity(beam, "incident_energy", header.beam_energy_ev, "eV")
    _quantity(beam, "flux", header.dose_rate_e_nm2_s, "1/(nm^2 s)")
    detector = _group(instrument, "detector", "NXdetector")
    _quantity(detector, "count_time", header.exposure_s, "s")
    _quantity(detector, "frame_time", header.frame_period_s, "s")
    _quantity(detector, "pixel_size_at_specimen", header.pixel_size_nm, "nm")
    if header.bad_pixels is not None:
        detector.create_dataset("pixel_mask", data=header.bad_pixels.astype("<u4"), compression="gzip")


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _quantity(group: h5py.Group, name: str, value: float | None, units: str) -> None:
    if value is not None:
        group[name] = value
        group[name].attrs["units"] = units


def _header_json(header: SeriesHeader) -> str:
    fields = {name: getattr(header, name) for name in header.__slots__ if name != "bad_pixels"}
    return json.dumps(fields | {"dtype": header.dtype.str}, default=_plain)


def _plain(value: object) -> object:
    """What JSON lacks: numpy's numbers and arrays as plain ones, anything else as its text."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def read_ledger(path: Path) -> np.ndarray:
    """The ledger of a recording, repaired first if its writer was killed at a bad moment.

    Returns
    -------
    (rows,) LEDGER; names of kind, reason and algorithm are in KINDS, REASONS and ALGORITHMS. Rows whose
    frame was lost in a crash are left out.

    Raises
    ------
    RecordingError
        If the file needs repair and cannot be written, or is no recording of ours.
    """
    repair(path)
    with h5py.File(path, "r") as file:
        rows = _dataset(file, "entry/ledger")[()]
        return rows[rows["row"] < len(_dataset(file, "entry/data/frames"))]


def read_header(path: Path) -> SeriesHeader:
    """The header of a recording, bad pixels included; raises as `read_ledger` does."""
    repair(path)
    with h5py.File(path, "r") as file:
        fields: dict[str, Any] = json.loads(_dataset(file, "entry/header")[()])
        mask = file.get("entry/instrument/detector/pixel_mask")
        fields["bad_pixels"] = mask[()] != 0 if isinstance(mask, h5py.Dataset) else None
    fields["shape_yx"] = tuple(fields["shape_yx"])
    fields["dtype"] = np.dtype(fields["dtype"])
    return SeriesHeader(**fields)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise RecordingError(
            f"{file.filename} has no /{name}: expected a recording made by hopscope, got another HDF5 file; "
            "open it as a plain stack instead"
        )
    return found
