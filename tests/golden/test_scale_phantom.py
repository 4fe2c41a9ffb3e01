"""The pixel size from the picture alone, on phantoms whose pixel size is known.

`python -m tests.golden.test_scale_phantom` prints errors and refusals.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from engines.files import MODELS
from engines.manifest import Manifest
from stream.config import EngineSettings
from stream.frame import CalibrationError
from stream.phantom import Phantom
from stream.scale import Scale, estimate_scale

SIZES_NM = (0.01, 0.015, 0.02, 0.03, 0.04)
DOSES_E_NM2 = (31_000.0, 10_000.0, 3_000.0)
MANIFEST = Manifest.load(MODELS / f"{EngineSettings().name}.toml")


def scales(
    pixel_size_nm: float, dose_e_nm2: float, seeds: Iterable[int], frames: int = 1
) -> list[Scale | CalibrationError]:
    """One estimate for each seed, dark and bright contrast in turn, or why there is none."""
    found: list[Scale | CalibrationError] = []
    for seed in seeds:
        contrast = "dark" if seed % 2 == 0 else "bright"
        phantom = Phantom(
            seed=seed, frames=frames, pixel_size_nm=pixel_size_nm, dose_e_nm2=dose_e_nm2, contrast=contrast
        )
        try:
            found.append(estimate_scale([phantom.render(i) for i in range(frames)], MANIFEST))
        except CalibrationError as refusal:
            found.append(refusal)
    return found


@pytest.mark.parametrize("pixel_size_nm", SIZES_NM)
@pytest.mark.parametrize("dose_e_nm2", DOSES_E_NM2)
def test_the_pixel_size_of_a_phantom_is_within_two_percent(pixel_size_nm: float, dose_e_nm2: float) -> None:
    found = [one for one in scales(pixel_size_nm, dose_e_nm2, range(40, 42)) if isinstance(one, Scale)]
    assert found  # of two
    for scale in found:
        assert scale.pixel_size_nm == pytest.approx(pixel_size_nm, rel=0.02)
        assert abs(scale.pixel_size_nm / pixel_size_nm - 1) < 4 * scale.relative_error
        assert "Au <110>" in scale.zone_axes


def main() -> None:
    for size_nm in SIZES_NM:
        for dose in DOSES_E_NM2:
            found = scales(size_nm, dose, range(40, 60))
            right = [one for one in found if isinstance(one, Scale)]
            error = np.array([one.pixel_size_nm / size_nm - 1 for one in right])
            told = np.array([one.relative_error for one in right])
            print(
                f"{size_nm:g} nm/px, {dose:g} e/nm²: {len(found) - len(right)} of {len(found)} refused, |error| median "
                f"{100 * np.median(np.abs(error)):.2f} %, largest {100 * np.abs(error).max():.2f} %; over the error "
                f"told: rms {np.sqrt(np.mean((error / told) ** 2)):.2f}"
            )


if __name__ == "__main__":
    main()
