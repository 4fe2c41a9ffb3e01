"""Where the real recordings lie; tests that need them are skipped, with the reason, where they do not."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from stream.files import open_recording

_ROOT = Path(__file__).resolve().parents[2]


def data_path(*parts: str) -> Path:
    """The path of a real recording, e.g. ``data_path("wse2_ti", "2.dm4")``; skips the test if absent.

    The folder is the environment's HOPSCOPE_DATA, else ``../shared/data`` beside the repository.
    """
    told = os.environ.get("HOPSCOPE_DATA")
    folder = Path(told) if told else _ROOT.parent / "shared" / "data"
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data at {path}; set HOPSCOPE_DATA to the folder that holds it")
    return path


def graphene_path() -> Path:
    """A picture of graphene, 0.01196 nm/px."""
    return data_path("graphene_hrtem", "graphene_731px_0.01196nm.tif")


def first_frame(path: Path) -> tuple[np.ndarray, float | None]:
    """The picture, and the pixel size that the file tells."""
    with open_recording(path) as recording:
        return recording.read(0), recording.header.pixel_size_nm


def atomid() -> tuple[Path, np.ndarray]:
    """A STEM picture, and its labels (n, 2) in pixels."""
    with data_path("atomid", "000.csv").open(encoding="utf-8-sig") as file:
        labels = np.array([(float(row["Y"]), float(row["X"])) for row in csv.DictReader(file)])
    return data_path("atomid", "000.bmp"), labels
