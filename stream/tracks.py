"""Tracks as a table: points with their drift, linked, and written the way trackpy reads them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from stream.frame import RecordingError
from stream.linking import Linker

FIELDS = ("y", "x", "frame", "particle", "mass", "drift_y", "drift_x")
GAP_FRAMES = 3  # bridges two frames in which a point was not seen
_CLOSE = 0.01
_LOOKED_AT = 200  # frames, at least, where there are as many


@dataclass(frozen=True, slots=True)
class Points:
    """What was found in the frames of a series.

    Attributes
    ----------
    frame : (n,) i8, the detector's number.
    yx_px : (n, 2) f8, pixels of the frame.
    mass : (n,) f8, how strong: score or contrast.
    drift_yx_px : (n, 2) f8, how far the specimen had moved by that frame.
    """

    frame: np.ndarray
    yx_px: np.ndarray
    mass: np.ndarray
    drift_yx_px: np.ndarray


def certain_radius_px(points: Points, shape_yx: tuple[int, int]) -> float:
    """Half of the distance of close neighbours (the closest 1 %): further, which is which is a guess.

    Points that are alone in their frames have no rival: half of the frame's shorter side.
    """
    order = np.argsort(points.frame, kind="stable")
    _, first = np.unique(points.frame[order], return_index=True)
    frames = np.split(points.yx_px[order], first[1:])
    apart = [KDTree(yx).query(yx, 2)[0][:, 1] for yx in frames[:: 1 + len(frames) // _LOOKED_AT] if len(yx)]
    close = np.quantile(np.concatenate(apart), _CLOSE, method="lower") if apart else np.inf
    return float(min(close, *shape_yx)) / 2


def link(points: Points, radius_px: float, gap_frames: int = GAP_FRAMES) -> np.ndarray:
    """The track of each point, (n,) i8: frame after frame by a `Linker`, drift taken away."""
    linker = Linker(radius_px, gap_frames=gap_frames)
    yx = points.yx_px - points.drift_yx_px
    order = np.argsort(points.frame, kind="stable")
    numbers, first = np.unique(points.frame[order], return_index=True)
    track = np.empty(len(order), np.int64)
    for number, rows in zip(numbers.tolist(), np.split(order, first[1:]), strict=False):
        track[rows] = linker.update(number, yx[rows])
    return track


def check_free(path: Path) -> None:
    """Raise RecordingError if something is there already."""
    if path.exists():
        raise RecordingError(f"{path} is there already: tables are never overwritten; give another name")


def write_tracks(path: Path, points: Points, track: np.ndarray) -> None:
    """One row per point, by frame: FIELDS, positions in pixels of the frame; y - drift_y is the specimen's.

    Raises
    ------
    RecordingError
        If the path is taken.
    """
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    order = np.lexsort((track, points.frame))
    columns = (*points.yx_px.T, points.frame, track, points.mass, *points.drift_yx_px.T)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(FIELDS)
            table.writerows(zip(*(column[order].tolist() for column in columns), strict=True))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
