"""The wheel is whole: installed into an empty environment, away from the checkout, the demo runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, cwd=out, timeout=300)
    return next(out.glob("hopscope-*.whl"))


def test_the_wheel_carries_engines_page_and_example_settings(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "stream/overlay/static/index.html",
        "stream/site.toml",
        "engines/models/au-on-oxide-hrtem.onnx",
        "engines/models/au-on-oxide-hrtem.toml",
        "training/recipes/au-on-oxide.toml",
        "stream/gpu/common.cuh",
        "stream/gpu/decode.cu",
    ):
        assert needed in names
    assert not [n for n in names if n.startswith("tests/")]


@pytest.mark.slow  # a fresh environment, in which everything is compiled anew; CI runs it
def test_the_demo_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, cwd=tmp_path, timeout=900
    )
    installed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    names = {package["name"].lower() for package in json.loads(installed.stdout)}
    assert not names & {"torch", "cupy", "tensorrt"}

    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    demo = subprocess.run(
        [scripts / "hopscope", "demo", "--frames", "60", "--port", "0", "--headless", "--json"],
        cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert demo.returncode == 0, demo.stderr
    summary = json.loads(demo.stdout)
    assert summary["sent"] == summary["received"] == summary["recorded"] == 60
    assert summary["unaccounted"] == 0
    assert summary["analysed"] > 0
    assert summary["columns"] > 50
