"""What a file says of its pixels, in the units used here; None where it does not say."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stream.frame import CalibrationError

log = logging.getLogger(__name__)

NAMES = ("pixel_size_nm", "frame_period_s", "exposure_s", "dose_rate_e_nm2_s", "beam_energy_ev")

_NM_PER = {
    "pm": 1e-3,
    "å": 0.1,
    "a": 0.1,
    "angstrom": 0.1,
    "ang": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "um": 1e3,
    "μm": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "mm": 1e6,
    "m": 1e9,
}
_S_PER = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "μs": 1e-6, "ns": 1e-9, "min": 60.0}


def own_names(attributes: Mapping[str, Any], where: str) -> dict[str, float]:
    """The calibrations that `attributes` gives under the names of SeriesHeader's fields.

    Raises
    ------
    CalibrationError
        If one is not a positive, finite number.
    """
    found = {}
    for name in NAMES:
        if (value := attributes.get(name)) is None:
            continue
        try:
            number = float(np.asarray(value).item())
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise CalibrationError(
                f"{where}: {name} must be a positive number, got {value!r}; correct it in the file or remove it"
            )
        found[name] = number
    return found


def in_nm(value: float, unit: str) -> float | None:
    """A length in nm; None where the unit is none of length (reciprocal, pixels, empty)."""
    per = _NM_PER.get(_spelt(unit))
    return None if per is None else value * per


def in_s(value: float, unit: str) -> float | None:
    """A time in seconds; None where the unit is none of time."""
    per = _S_PER.get(_spelt(unit))
    return None if per is None else value * per


def _spelt(unit: str) -> str:
    """A unit in one spelling: the micro sign and the Greek mu look the same, and ImageJ writes it as an escape."""
    return unit.strip().replace("\\u00B5", "\u03bc").replace("\u00b5", "\u03bc").lower()


def square_pixel_nm(y_nm: float | None, x_nm: float | None, path: Path) -> float | None:
    """The side of a pixel in nm, or None with a warning where it is not square or not positive."""
    if y_nm is None or x_nm is None:
        return None
    if not (0 < y_nm < math.inf and 0 < x_nm < math.inf and abs(y_nm - x_nm) <= 1e-3 * x_nm):
        log.warning(
            "%s: pixels of %g x %g nm (y, x) are not taken; square ones are expected: give the pixel size yourself",
            path,
            y_nm,
            x_nm,
        )
        return None
    return x_nm if y_nm == x_nm else (y_nm + x_nm) / 2
