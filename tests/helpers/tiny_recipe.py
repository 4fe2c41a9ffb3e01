"""A recipe that trains in a second, for tests."""

from __future__ import annotations

from pathlib import Path

RECIPE = """
name = "tiny"
[engine]
description = "for tests"
[specimen]
side_px = 96
diameter_angstrom = [13.0, 14.0]
empty_fraction = 0.0
sampling_angstrom_px = [0.2, 0.2]
support_fraction = 0.0
[validation_specimen]
side_px = 96
diameter_angstrom = [12.0, 13.0]
empty_fraction = 0.0
sampling_angstrom_px = [0.2, 0.2]
support_fraction = 0.0
[data]
training = 3
validation = 2
crop_px = 64
batch = 2
[train]
steps = {steps}
validate_every = {validate_every}
checkpoint_every = 2
bf16 = false
peak_rate = {rate}
{more}"""


def write_recipe(
    folder: Path, steps: int = 4, rate: str = "2e-3", validate_every: int = 100, more: str = ""
) -> Path:
    """`more`: further lines of [train], and sections."""
    path = folder / "recipe.toml"
    filled = RECIPE.format(steps=steps, rate=rate, validate_every=validate_every, more=more)
    path.write_text(filled, encoding="utf-8")
    return path
