"""A small result file, of columns that are known: one leaves and comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stream.columns import Columns
from stream.frame import Gap, SeriesHeader
from stream.pipeline import Seen
from stream.tables import ResultFile
from stream.tracking import Tracker

SHAPE = (160, 200)
PIXEL_NM = 0.02
HEADER = SeriesHeader(5, SHAPE, np.dtype("<u2"), frame_period_s=0.1, pixel_size_nm=PIXEL_NM)
LATTICE = np.stack(np.meshgrid(np.arange(20, 150, 14), np.arange(20, 190, 14), indexing="ij"), -1)
SITES = LATTICE.reshape(-1, 2).astype(np.float32)
WALKER = len(SITES) // 2 + 3
ABSENT = range(30, 60)  # frames in which one column is gone
GAP = Gap(5, 70, 5, "wire")
FRAMES = 100


def present(index: int) -> np.ndarray:
    return SITES[np.arange(len(SITES)) != WALKER] if index in ABSENT else SITES


def write_result(path: Path, vacancy: int | None = None) -> Tracker:
    """Write what a replay would; at the `vacancy`, one of the sites, there never is a column."""
    tracker = Tracker(SHAPE, PIXEL_NM, 0.1)
    with ResultFile(path, header=HEADER, settings_toml="[a]\nb = 1\n", engine_toml='name = "x"\n') as result:
        for index in range(FRAMES):
            if index == GAP.first:
                result.add_gap(GAP)
            if GAP.first <= index < GAP.first + GAP.count:
                continue
            yx_px = present(index)
            if vacancy is not None:
                yx_px = yx_px[(yx_px != SITES[vacancy]).any(axis=1)]
            n = len(yx_px)
            columns = Columns(
                yx_px, np.full(n, 2, np.float32), np.full(n, 0.9, np.float32), np.ones(n, np.uint8)
            )
            tracked = tracker.update(index, index * 10**8, yx_px, columns.score)
            result.add_frame(Seen(index, index * 10**8, 0, columns, np.zeros((1, 1)), tracked, {}))
        tracker.finish()
        result.finish(tracker)
    return tracker
