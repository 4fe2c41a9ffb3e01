"""Maps of the specimen: a value per site drawn as a soft disc, as arrays in nm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

_SIGMA = 0.22  # of the spacing: neighbouring discs stay apart
_LARGEST = 4096  # map pixels along one side


@dataclass(frozen=True, slots=True)
class SpecimenMap:
    """A picture in the specimen's frame.

    Attributes
    ----------
    array : (ny, nx) f4.
    yx_origin_nm : (2,) f8, where the centre of pixel (0, 0) lies.
    nm_per_px : of the map.
    """

    array: np.ndarray
    yx_origin_nm: np.ndarray
    nm_per_px: float


@njit(cache=True, nogil=True)
def _draw(yx_px, value, sigma_px, out):
    reach = int(np.ceil(3.5 * sigma_px))
    for k in range(len(yx_px)):
        if not value[k] > 0:
            continue
        y, x = yx_px[k, 0], yx_px[k, 1]
        for i in range(max(int(y) - reach, 0), min(int(y) + reach + 2, out.shape[0])):
            for j in range(max(int(x) - reach, 0), min(int(x) + reach + 2, out.shape[1])):
                d2 = (i - y) ** 2 + (j - x) ** 2
                out[i, j] = max(out[i, j], value[k] * np.exp(-0.5 * d2 / sigma_px**2))


def draw(
    yx_nm: np.ndarray, value: np.ndarray, *, spacing_nm: float, nm_per_px: float | None = None
) -> SpecimenMap:
    """Each site as a Gaussian disc as high as its value; where discs meet, the higher one shows.

    Parameters
    ----------
    yx_nm : (m, 2), positions.
    value : (m,), at least 0; NaN is drawn as 0.
    spacing_nm : between neighbours; gives the discs' size and the map's rim.
    nm_per_px : by default an eighth of the spacing.

    Raises
    ------
    ValueError
        If the map would have more than 4096 pixels along a side, or no positive scale.
    """
    nm_per_px = spacing_nm / 8 if nm_per_px is None else nm_per_px
    if not 0 < nm_per_px < np.inf or not 0 < spacing_nm < np.inf:
        raise ValueError(f"a map needs a scale and a spacing above 0 nm, got {nm_per_px} and {spacing_nm}")
    if not len(yx_nm):
        return SpecimenMap(np.zeros((1, 1), np.float32), np.zeros(2), nm_per_px)
    low = yx_nm.min(axis=0) - spacing_nm
    shape = np.ceil((yx_nm.max(axis=0) + spacing_nm - low) / nm_per_px).astype(int) + 1
    if shape.max() > _LARGEST:
        raise ValueError(
            f"a map of {shape[0]} × {shape[1]} px at {nm_per_px} nm/px is too large: "
            f"expected at most {_LARGEST} px along a side; choose a coarser nm_per_px"
        )
    out = np.zeros(shape, np.float32)
    _draw((yx_nm - low) / nm_per_px, np.asarray(value, np.float64), _SIGMA * spacing_nm / nm_per_px, out)
    return SpecimenMap(out, low, nm_per_px)


def site_maps(
    rows: np.ndarray, spacing_nm: float, nm_per_px: float | None = None
) -> dict[str, tuple[SpecimenMap, str]]:
    """What is known of the sites, as maps, each with its meaning and unit.

    Parameters
    ----------
    rows : of the table of sites, `stream.site_rows.SITES`.
    spacing_nm, nm_per_px : as in `draw`.
    """
    yx_nm = np.stack([rows["y_nm"], rows["x_nm"]], axis=1)
    values = {
        "occurrence": (occurrence(rows), "fraction of the time observed in which the site was occupied"),
        "raw_events": (
            rows["raw_flips"],
            "detected in one frame and not in the next, or the reverse; counts",
        ),
        "events": (events(rows), "the site filled or emptied; counts"),
        "rate": (rows["event_rate_hz"], "events per second observed"),
        "residence": (residence_s(rows), "mean time a column stayed, s; 0 where none was seen to leave"),
    }
    return {
        name: (draw(yx_nm, value, spacing_nm=spacing_nm, nm_per_px=nm_per_px), meaning)
        for name, (value, meaning) in values.items()
    }


def occurrence(rows: np.ndarray) -> np.ndarray:
    """(m,) f8, fraction of the time observed in which each site was occupied; 0 where it never was in view."""
    seen = rows["observed_s"] > 0
    return np.divide(rows["occupied_s"], rows["observed_s"], out=np.zeros(len(rows)), where=seen)


def events(rows: np.ndarray) -> np.ndarray:
    """(m,) i8, how often each site was filled or emptied."""
    return rows["appeared"] + rows["disappeared"] + rows["hopped_away"] + rows["hopped_here"]


def residence_s(rows: np.ndarray) -> np.ndarray:
    """(m,) f8, time occupied over the expected number of departures; NaN where none was told as an event.

    Where few left this is uncertain: with n of them, by about 1 / sqrt(n) of itself.
    """
    some = rows["disappeared"] + rows["hopped_away"] > 0
    some &= rows["departures"] > 0
    return np.divide(rows["occupied_s"], rows["departures"], out=np.full(len(rows), np.nan), where=some)
