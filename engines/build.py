"""ONNX to a TensorRT plan, kept beside the engine and made again when anything it depends on has changed.

Two libraries with one API: `tensorrt` (10 and 11; plans for the one GPU they were built on) and `tensorrt-rtx`
(for RTX cards; plans for all of them, built without one). Precision is in the network (`engines.precision`), so
both are used strongly typed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engines.compile import Say, compile_plan
from engines.gpu import import_cupy, why_no_card
from engines.manifest import EngineMismatch, Manifest
from engines.precision import Precision, in_precision, possible_precision

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt-rtx")
_MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
SIDES_PX = (512, 1024, 2048, 4096)  # of the images that get a profile of their own, if none are named
MOST_FRAMES = 16  # in a batch: beyond it the launches no longer cost anything
MOST_BATCHED_PX = 4 * 1024**2  # per batch, as far as frames are batched at all
# for every other shape: the largest batch, and the largest side of its images (a K3 has 5,760)
OTHER_SHAPES = ((16, 768), (4, 1536), (1, 6144))
ANY_RTX = "any RTX card from Ampere on"
TURING = (7, 5)

CODE = ("build.py", "compile.py", "precision.py")

PLANS = "HOPSCOPE_PLANS"  # environment: a folder for all plans, where the engines' own is not writable

log = logging.getLogger("hopscope.engine")


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What a plan depends on; one that differs in any of these is built again."""

    engine: str
    sha256: str  # of the ONNX file the manifest speaks of
    library: str
    version: str
    gpu: str
    precision: str
    shapes_yx: tuple[tuple[int, int], ...]
    code: str  # SHA-256 of what makes plans here, which may ask TensorRT for something else one day


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card, as far as a plan depends on it."""

    name: str
    capability: tuple[int, int]


def load_library(flavour: Flavour | None = None) -> tuple[Flavour, Any]:
    """The TensorRT library asked for, or the first that is installed: its name and its module.

    Raises
    ------
    EngineMismatch
        If it does not import.
    """
    here: list[Flavour] = [f for f in FLAVOURS if importlib.util.find_spec(_MODULES[f]) is not None]
    chosen: Flavour = flavour or (here[0] if here else FLAVOURS[0])
    try:
        return chosen, importlib.import_module(_MODULES[chosen])
    except (ImportError, OSError) as error:
        raise EngineMismatch(
            f"{chosen} does not import: {error}; pip install 'hopscope[gpu]', or for an RTX card "
            "'hopscope[rtx]', or choose another backend"
        ) from error


def find_gpu(index: int = 0) -> Gpu | None:
    """The card with that number, or None if there is none (or no CuPy, or no driver)."""
    try:
        import cupy  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    if why_no_card(cupy, index) is not None:
        return None
    facts = cupy.cuda.runtime.getDeviceProperties(index)
    return Gpu(facts["name"].decode(), (facts["major"], facts["minor"]))


def check_card(trt: Any, gpu: Gpu | None) -> None:
    """Raise EngineMismatch if the library has no kernels for that card, as tensorrt-rtx has none for data centres."""
    if trt.__name__ != "tensorrt_rtx" or gpu is None:
        return
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if (mine := f"SM{gpu.capability[0]}{gpu.capability[1]}") not in known:
        raise EngineMismatch(
            f"tensorrt-rtx {trt.__version__} does not run on {gpu.name} ({mine.lower()}): expected one of "
            f"{', '.join(known).lower()}; pip install 'hopscope[gpu]', which brings tensorrt"
        )


def plans_folder(engine: Path) -> Path:
    """Where the plans of an engine lie: beside its ONNX file, or where HOPSCOPE_PLANS says."""
    told = os.environ.get(PLANS)
    return Path(told) if told else engine.parent / "plans"


def profiles(manifest: Manifest, shapes_yx: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, ...], ...]]:
    """Least, usual and largest input (b, c, ny, nx) of each optimization profile.

    Every camera shape gets one of its own, with batches as large as a session makes them (`most_batched`); the last
    are for all other shapes, small ones in batches.
    """
    step, channels = manifest.multiple_of, manifest.input_channels
    found: list[tuple[tuple[int, ...], ...]] = []
    for ny, nx in shapes_yx:
        if ny < 1 or nx < 1:
            raise EngineMismatch(f"impossible image: expected sides of 1 pixel or more, got {ny} x {nx}")
        ny, nx = (-(-n // step) * step for n in (ny, nx))
        batch = most_batched(channels * ny * nx)
        profile = ((1, channels, ny, nx), (batch, channels, ny, nx), (batch, channels, ny, nx))
        if profile not in found:
            found.append(profile)
    named = max((side for profile in found for side in profile[2][2:]), default=0)
    for batch, side in OTHER_SHAPES:
        usual, largest = (-(-n // step) * step for n in (side // 2, side if batch > 1 else max(side, named)))
        found.append(
            ((1, channels, step, step), (batch, channels, usual, usual), (batch, channels, largest, largest))
        )
    return found


def most_batched(pixels: int) -> int:
    """How many inputs of so many pixels, of all their channels, go in one batch: a power of two."""
    fit = min(MOST_FRAMES, max(1, MOST_BATCHED_PX // pixels))
    return 1 << (fit.bit_length() - 1)


def build_plan(
    manifest: Manifest,
    network: bytes,
    folder: Path,
    *,
    example: np.ndarray | None = None,
    precision: Precision | None = None,
    shapes_yx: Sequence[tuple[int, int]] | None = None,
    flavour: Flavour | None = None,
    device: int = 0,
    say: Say = log.info,
) -> tuple[Path, PlanFacts]:
    """The plan of an engine, from the folder if it is still right, and built into it if not.

    Parameters
    ----------
    manifest, network : the engine and its ONNX file.
    folder : of the plans; made if it is not there.
    example : the golden input, which fp8 takes its scales from.
    precision : None for the usual of those that the engine can have.
    shapes_yx : (ny, nx) of the images to be fast for, in pixels; None for those of the plan that is there, or
        squares of `SIDES_PX`.
    flavour : the library; None for the first installed of `FLAVOURS`.
    device : number of the card.
    say : told what is done, and why a plan is built again.

    Returns
    -------
    Its path, and what it depends on.

    Raises
    ------
    EngineMismatch
        If the library or the card is missing, or the network cannot be read or built: the layer is named.
    """
    precision = possible_precision(manifest, precision)
    flavour, trt = load_library(flavour)
    gpu = find_gpu(device)
    gpu_name = _gpu_of_plan(flavour, gpu)
    if flavour == "tensorrt":
        import_cupy(device)  # made current: it builds for the card that is; tensorrt-rtx for all of them
    card = hashlib.sha256(gpu_name.encode()).hexdigest()[:8]
    path = folder / f"{manifest.name}.{precision}.{flavour}.{card}.plan"
    before = _described(path)
    if shapes_yx is None:
        shapes_yx = [(ny, nx) for ny, nx in before.get("shapes_yx", ())] or [(n, n) for n in SIDES_PX]
    facts = PlanFacts(
        manifest.name,
        manifest.sha256,
        flavour,
        str(trt.__version__),
        gpu_name,
        precision,
        tuple((int(ny), int(nx)) for ny, nx in shapes_yx),
        _code(),
    )
    stale = _stale(before, facts)
    if stale is None:
        return path, facts
    say(f"building {path.name}: {stale}; this takes up to some minutes")
    cache = folder / f"timing.{flavour}.{facts.version}.{card}.cache"
    keep = flavour == "tensorrt"
    known = cache.read_bytes() if keep and cache.is_file() else b""
    plan, timings = compile_plan(
        trt,
        in_precision(network, manifest, precision, example),
        profiles(manifest, facts.shapes_yx),
        name=manifest.name,
        cache=known if keep else None,
        turing=not keep and gpu is not None and gpu.capability == TURING,
        say=say,
    )
    if keep:
        _write(cache, timings)
    _write(path, plan)
    described = {**asdict(facts), "plan_sha256": hashlib.sha256(plan).hexdigest()}
    _write(path.with_suffix(".json"), json.dumps(described, indent=1).encode())
    say(f"built {path.name}: {len(plan) / 1e6:.1f} MB")
    return path, facts


def read_plan(path: Path) -> bytes:
    """A plan as `build_plan` left it.

    Raises
    ------
    EngineMismatch
        If it was changed since.
    """
    plan = path.read_bytes()
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["plan_sha256"]
    if hashlib.sha256(plan).hexdigest() != expected:
        raise EngineMismatch(f"plan {path} was changed after it was built; delete it, and it is built again")
    return plan


def _code() -> str:
    whole = b"".join((Path(__file__).parent / name).read_bytes() for name in CODE)
    return hashlib.sha256(whole).hexdigest()


def _gpu_of_plan(flavour: Flavour, gpu: Gpu | None) -> str:
    """The cards a plan will run on."""
    if flavour == "tensorrt-rtx":
        return ANY_RTX if gpu is None or gpu.capability != TURING else "RTX card of the Turing generation"
    if gpu is None:
        raise EngineMismatch(
            "tensorrt builds on the GPU that the plan is for: expected an NVIDIA card, its driver and CuPy, got no "
            "card; check nvidia-smi and `hopscope doctor`, or build with --flavour tensorrt-rtx, which needs none"
        )
    return f"{gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]})"


def _described(path: Path) -> dict[str, Any]:
    """What is written beside a plan; empty if there is no plan that can be trusted."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # killed between the two files, or meddled with
        return {}


def _stale(before: dict[str, Any], facts: PlanFacts) -> str | None:
    """Why the plan must be built, or None."""
    if not before:
        return "there is none yet"
    now = json.loads(json.dumps(asdict(facts)))  # tuples as the file has them
    changed = [f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]]
    return "; ".join(changed) or None


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: another process may be reading."""
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(content)
        half.replace(path)
    except OSError as error:
        raise EngineMismatch(
            f"cannot keep {path}: {error.strerror}; make that folder writable, or set {PLANS} to one that is"
        ) from error
