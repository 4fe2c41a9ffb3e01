"""How long engines take for a frame, beside the reference FusionNet of the papers, in one run."""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training.export import Probabilities, onnxruntime_maps, to_onnx
from training.measure import Reader
from training.networks import build_network

SIDE_PX = 512
_REPEATS = 9


def time_per_frame(
    readers: Mapping[str, Reader], pixel_size_nm: Mapping[str, float], channels: int = 1
) -> dict[str, Any]:
    """Median times in ms for a frame of SIDE_PX², or a stack of such, all engines and the reference taking turns.

    The reference is FusionNet with 32 features in ONNX Runtime, fp32, untrained: its time does not depend on its
    weights.

    Parameters
    ----------
    pixel_size_nm : per engine, one that it reads without resampling.
    channels : images in a stack.
    """
    counts = np.random.default_rng(0).poisson(20, (channels, SIDE_PX, SIDE_PX)).astype(np.uint16)
    finders = {
        name: reader.finder(counts.shape[1:], pixel_size_nm[name], reader.threshold)
        for name, reader in readers.items()
    }
    with tempfile.TemporaryDirectory(prefix="hopscope-reference-") as folder:
        network = build_network("fusionnet32", channels)
        to_onnx(Probabilities(network), Path(folder) / "reference.onnx", network.multiple_of, channels)
        reference = onnxruntime_maps(Path(folder) / "reference.onnx")
        batch = counts[None].astype(np.float32)
        whole: dict[str, list[float]] = {name: [] for name in finders}
        inside: dict[str, list[float]] = {name: [] for name in finders}
        yardstick = []
        for turn in range(_REPEATS + 1):
            for name, finder in finders.items():
                ms = _ms(lambda finder=finder: finder.find(counts))
                if turn:  # the first does not count
                    whole[name].append(ms)
                    inside[name].append(finder.stage_ns["network"] / 1e6)
            ms = _ms(lambda: reference(batch))
            if turn:
                yardstick.append(ms)
    reference_ms = statistics.median(yardstick)
    return {
        "side_px": SIDE_PX,
        "processor": processor(),
        "reference": "FusionNet, 32 features, ONNX Runtime fp32, network alone",
        "reference_ms": reference_ms,
        "engines": {
            name: {
                "whole_ms": statistics.median(whole[name]),
                "network_ms": statistics.median(inside[name]),
                "reference_per_network": reference_ms / statistics.median(inside[name]),
            }
            for name in finders
        },
    }


def processor() -> str:
    """The name of this machine's processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began) / 1e6
