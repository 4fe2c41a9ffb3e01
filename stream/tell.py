"""What the page is told: the pipeline's results as messages of stream.wire.results."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream.hopping import Hop
from stream.maps import SpecimenMap
from stream.pipeline import Analysis, Seen

PICTURE_SIDE_PX = 1024  # a larger frame is shown coarser: no screen shows more of it
BLACK, WHITE = -2.5, 3.5  # local standard deviations from the local mean


def series_message(analysis: Analysis) -> dict[str, Any]:
    """What is true of the whole series."""
    header = analysis.header
    if header is None:
        raise ValueError("no series has begun: expected Analysis.begin before")
    dose_rate, period_s = header.dose_rate_e_nm2_s, header.frame_period_s
    return {
        "type": "series",
        "series": header.series_id,
        "shape_yx": header.shape_yx,
        "pixel_size_nm": header.pixel_size_nm,
        "frame_period_s": period_s,
        "engine": f"{analysis.where.manifest.name} ({analysis.where.runs_on})",
        "dose_e_nm2": dose_rate * (header.exposure_s or period_s or 0.0) or None if dose_rate else None,
    }


def frame_message(analysis: Analysis, seen: Seen, *, with_picture: bool) -> dict[str, Any]:
    """One frame's columns, sites and events; the picture only when it is due."""
    header, tracked = analysis.header, seen.tracked
    if header is None:
        raise ValueError("no series has begun: expected Analysis.begin before")
    site_p = tracked.occupancy.p_occupied
    has_site = tracked.column_site >= 0
    p_occupied = np.full(len(seen.columns), np.nan, np.float32)
    p_occupied[has_site] = site_p[tracked.column_site[has_site]]
    message: dict[str, Any] = {
        "type": "frame",
        "series": header.series_id,
        "index": seen.frame,
        "t_ns": seen.t_ns,
        "recv_ns": seen.recv_ns,
        "shape_yx": header.shape_yx,
        "yx_px": seen.columns.yx_px,
        "score": seen.columns.score,
        "p_occupied": p_occupied,
        "site_yx_px": tracked.site_yx_px[tracked.followed].astype(np.float32),
        "site_p": site_p[tracked.followed],
        "site_proposed": tracked.proposed[tracked.followed].astype(np.uint8),
        "drift_yx_px": tracked.shift.yx_px,
        "lost_frames": tracked.shift.lost_frames,
        "events": [event_fields(event, tracked.site_yx_px) for event in tracked.events],
        "stage_ms": seen.stage_ms,
    }
    if with_picture:
        picture, stride = grey_picture(seen.image, header.shape_yx)
        message |= {"picture": picture, "picture_stride": stride}
    return message


def map_message(name: str, drawn: SpecimenMap) -> dict[str, Any]:
    """A map of the specimen."""
    return {
        "type": "map",
        "name": name,
        "array": drawn.array,
        "yx_origin_nm": drawn.yx_origin_nm,
        "nm_per_px": drawn.nm_per_px,
    }


def event_fields(event: Hop, site_yx_px: np.ndarray) -> dict[str, Any]:
    """An event with where it happened, in the pixels of the frame it is told with."""
    first = event.from_site if event.from_site >= 0 else event.to_site
    return {
        "frame": event.frame,
        "kind": event.kind,
        "from_site": event.from_site,
        "to_site": event.to_site,
        "yx_px": site_yx_px[first],
        "to_yx_px": site_yx_px[event.to_site] if event.kind == "hop" else None,
        "probability": event.probability,
    }


def grey_picture(image: np.ndarray, shape_yx: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The normalized image as grey levels, and frame pixels per picture pixel (it may be sampled otherwise)."""
    coarse = -(-max(image.shape) // PICTURE_SIDE_PX)
    small = image[::coarse, ::coarse]
    grey = np.clip((small - BLACK) * (255 / (WHITE - BLACK)), 0, 255).astype(np.uint8)
    return grey, shape_yx[0] / grey.shape[0]
