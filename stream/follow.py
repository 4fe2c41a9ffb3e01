"""hopscope track: blobs of a recording, found without a network, freed of drift and linked into tracks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stream.blobs import Blobs, find_blobs, outstanding, particles, strongest_period
from stream.files.source import FileSource
from stream.frame import CalibrationError, Frame
from stream.matching import spacing
from stream.motion import LEAST, common_shift
from stream.tracks import GAP_FRAMES, Points, certain_radius_px, link

Target = Literal["bright-atoms", "dark-atoms", "bright-particles", "dark-particles"]

_FIRST = 16  # frames whose mean spectrum tells the period
_REACH = 0.25  # of the frame's shorter side: the largest jump of the specimen between two frames
_GATE = 0.25  # of the spacing: how far a point moves by itself from frame to frame, at most, for the drift


@dataclass(frozen=True, slots=True)
class Followed:
    """Tracks of one recording, and what they were made with.

    Attributes
    ----------
    track : (n,) i8, of each of the points.
    frames : how many were looked at.
    drifts : in how many of them the drift could be measured; in the others the specimen is taken to rest.
    lost : frames that show too few of the particles of the frame before (blank, dim, foreign), by number;
        nothing in them is believed.
    """

    points: Points
    track: np.ndarray
    frames: int
    drifts: int
    lost: list[int]
    period_px: float
    radius_px: float

    def summary(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        return {
            "frames": self.frames,
            "lost": self.lost,
            "drift_measured": self.drifts,
            "points": len(self.track),
            "tracks": len(np.unique(self.track)),
            "period_px": round(self.period_px, 2),
            "radius_px": round(self.radius_px, 2),
        }


def follow(
    recording: FileSource,
    target: Target,
    *,
    period_px: float | None = None,
    radius_px: float | None = None,
    gap_frames: int = GAP_FRAMES,
    on_frame: Callable[[int, int], object] = lambda done, total: None,
) -> Followed:
    """Find what stands out in every frame, and follow it.

    Parameters
    ----------
    target : atoms are those that outshine their neighbours in a lattice; particles, all that is no noise.
    period_px : of the lattice, or of the particles' array; None: from the first frames' power spectrum.
    radius_px : longest step from frame to frame, drift apart; None: `certain_radius_px`.
    gap_frames : as in `linking.link_points`.

    Raises
    ------
    CalibrationError
        If no period is given and none stands out.
    """
    contrast = "bright" if target.startswith("bright") else "dark"
    if period_px is None:
        first = np.stack([recording.read(k) for k in range(min(_FIRST, len(recording)))])
        try:
            period_px = strongest_period(first)
        except ValueError as error:
            raise CalibrationError(f"{recording.path}: {error}, with --period-px") from error
    frames: list[int] = []
    found: list[Blobs] = []
    for item in recording:
        if not isinstance(item, Frame):
            continue
        blobs = find_blobs(item.counts, period_px, contrast)
        frames.append(item.index)
        found.append(outstanding(blobs, period_px) if target.endswith("atoms") else particles(blobs))
        item.release()
        on_frame(len(frames), len(recording))
    drift, measured, lost = _drift(found, recording.header.shape_yx)
    if target.endswith("atoms"):  # that atoms walk, each its own way, is no reason to doubt a frame
        lost[:] = False
    counts = [0 if gone else len(blobs) for blobs, gone in zip(found, lost, strict=True)]
    kept = [blobs for blobs, gone in zip(found, lost, strict=True) if not gone]
    points = Points(
        frame=np.repeat(np.array(frames, np.int64), counts),
        yx_px=np.concatenate([np.empty((0, 2)), *(blobs.yx_px for blobs in kept)]),
        mass=np.concatenate([np.empty(0), *(blobs.height for blobs in kept)]),
        drift_yx_px=np.repeat(drift, counts, axis=0),
    )
    if radius_px is None:
        radius_px = certain_radius_px(points, recording.header.shape_yx)
    return Followed(
        points=points,
        track=link(points, radius_px, gap_frames),
        frames=len(frames),
        drifts=int(measured.sum()),
        lost=[frame for frame, gone in zip(frames, lost, strict=True) if gone],
        period_px=period_px,
        radius_px=radius_px,
    )


def _drift(found: list[Blobs], shape_yx: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far the specimen moved since the first frame, (frames, 2), and where that was measured, and lost.

    Measured from frame to frame and summed, so that its error grows with the square root of the frames.
    Lost is a frame that does not fit the last one that was not, though that one had points enough; when
    two such frames fit each other, the specimen is another one, and the second is begun with anew.
    """
    drift = np.zeros((len(found), 2))
    measured, lost = np.zeros(len(found), bool), np.zeros(len(found), bool)
    last = 0
    for k in range(1, len(found)):
        shift = _shift(found[k], found[last], shape_yx)
        drift[k] = drift[last] + (0.0 if shift is None else shift)
        measured[k] = shift is not None
        strange = shift is None and len(found[last]) >= LEAST
        lost[k] = strange and (k - 1 == last or _shift(found[k], found[k - 1], shape_yx) is None)
        if not lost[k]:
            last = k
    return drift, measured, lost


def _shift(blobs: Blobs, before: Blobs, shape_yx: tuple[int, int]) -> np.ndarray | None:
    if len(before) < LEAST:
        return None
    gate_px = _GATE * spacing(before.yx_px)
    return common_shift(blobs.yx_px, before.yx_px, shape_yx, _REACH * min(shape_yx), gate_px)
