"""How a recording without a calibration is brought to an engine's scale: by the lattice in its first frames.

Engines for a material are scaled by the pixel size, which the material's known spacings give (stream.scale). Engines
for any material are scaled by how far apart nearest columns lie, in pixels (stream.spacing); nanometres then stay
unknown, unless somebody says them.
"""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

from engines.manifest import Manifest
from stream.files import open_recording
from stream.frame import CalibrationError, Frame
from stream.scale import Scale, estimate_scale
from stream.spacing import Spacing, estimate_spacing

SCALE_FRAMES = 8  # of a recording, that its scale is estimated from
log = logging.getLogger("hopscope.calibrate")


def measure_scale(recording_path: Path, manifest: Manifest) -> Scale | Spacing:
    """What an engine must know of a recording, from its first frames; the log says what it is and how sure.

    Returns
    -------
    Spacing for an engine that is scaled by the spacing of columns, else Scale.

    Raises
    ------
    CalibrationError
        If it cannot be estimated.
    """
    with open_recording(recording_path) as recording:
        header = recording.header
        frames = []
        for item in islice((item for item in recording if isinstance(item, Frame)), SCALE_FRAMES):
            frames.append(item.counts.copy())
            item.release()
    if not frames:
        raise CalibrationError(f"{recording_path}: expected frames to estimate a scale from, found none")
    by_spacing = manifest.nominal_spacing_px is not None
    try:
        found = (
            estimate_spacing(frames, header.bad_pixels)
            if by_spacing
            else estimate_scale(frames, manifest, header.bad_pixels)
        )
    except CalibrationError as error:
        raise CalibrationError(f"{recording_path}: {error}") from None
    file_nm = None if by_spacing else header.pixel_size_nm
    says = "" if file_nm is None else f" (the file says {file_nm:.4g})"
    log.info("%s: estimated %s%s", recording_path, found, says)
    return found
