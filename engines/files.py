"""An engine's files: the manifest, the network it speaks of, and what the network must give for a golden input."""

from __future__ import annotations

import hashlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from engines.manifest import EngineMismatch, Manifest

MODELS = Path(__file__).parent / "models"


def list_engines() -> list[str]:
    """Names of the engines that come with hopscope, sorted."""
    return sorted(path.stem for path in MODELS.glob("*.toml"))


def read_engine(name_or_path: str | Path) -> tuple[Manifest, bytes, Path]:
    """An engine's manifest, its ONNX file after the checksum, and where the manifest lies.

    Raises
    ------
    EngineMismatch
        If there is no such engine, or its files do not belong together.
    """
    path = _manifest_path(name_or_path)
    manifest = Manifest.load(path)
    return manifest, _network(path.with_name(manifest.onnx), manifest), path


def read_golden(engine: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """The golden input (b, c, ny, nx) f4 and output of an engine, whose manifest lies at `engine`.

    Raises
    ------
    EngineMismatch
        If they are missing or damaged.
    """
    path = engine.with_name(manifest.golden)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["input"], arrays["output"]
    except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
        raise EngineMismatch(
            f"engine {manifest.name} cannot be checked: expected arrays `input` and `output` in {path}, got: {error}; "
            "restore the file, or export the engine again"
        ) from error


def _manifest_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".onnx", ".toml"):
        path = path.with_suffix(".toml")
    elif path.name == str(name_or_path):
        path = MODELS / f"{name_or_path}.toml"
    if path.suffix != ".toml" or not path.is_file():
        raise EngineMismatch(
            f"no such engine: expected one of {', '.join(list_engines()) or '(none is installed)'}, or the path of "
            f"an .onnx file with its manifest (.toml) beside it, got {name_or_path}; "
            f"{path} is not there"
        )
    return path


def _network(path: Path, manifest: Manifest) -> bytes:
    """The ONNX file, after its checksum."""
    if not path.is_file():
        raise EngineMismatch(
            f"engine {manifest.name} is incomplete: its manifest names {path}, which is not there; "
            "restore the file, or install hopscope again"
        )
    network = path.read_bytes()
    got = hashlib.sha256(network).hexdigest()
    if got != manifest.sha256:
        raise EngineMismatch(
            f"engine {manifest.name} is not the one its manifest describes: expected SHA-256 {manifest.sha256} of "
            f"{path}, got {got}; restore the file, or export the engine again"
        )
    return network
