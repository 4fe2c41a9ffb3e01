"""Where the real recordings lie; tests that need them are skipped, with the reason, where they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
