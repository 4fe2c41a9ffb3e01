"""What `warm_up` promises: no frame of a session waits for a compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from stream.config import EngineSettings

ROOT = Path(__file__).parents[2]


def test_no_kernel_is_compiled_after_the_warm_up() -> None:
    """As the camera sends them, with bad pixels and without, at the engine's sampling and at another."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.compiled_later", EngineSettings().name],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
