"""Engines that have learnt nothing: every size of network, for measuring how fast it runs.

`python -m training.untrained --out DIR [fusionnet32 fn16_s2 ...]`, then `hopscope bench --device cuda:0 --engines
DIR/fusionnet32-untrained.onnx`.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from engines.manifest import Manifest
from training.export import Probabilities, onnxruntime_maps, to_onnx
from training.networks import NetworkName, build_network


def write_untrained(name: NetworkName, out: Path, seed: int = 0) -> Path:
    """Write an fp32 engine with random weights.

    Returns
    -------
    Its manifest.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = build_network(name).eval()
    path = out / f"{name}-untrained.onnx"
    to_onnx(Probabilities(network), path, network.multiple_of)
    golden = np.random.default_rng(seed).normal(size=(1, 1, 64, 64)).astype("f4")
    np.savez_compressed(path.with_suffix(".npz"), input=golden, output=onnxruntime_maps(path)(golden))
    manifest = Manifest(
        name=path.stem,
        description=f"{name} with random weights: for measuring speed, good for nothing else",
        onnx=path.name,
        golden=path.with_suffix(".npz").name,
        golden_tolerance=1e-3,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        classes=("background", "column"),
        nominal_nm_px=0.02,
        sampling_nm_px=(0.018, 0.022),
        normalize_sigma_nm=1.0,
        stride=network.stride,
        multiple_of=network.multiple_of,
        threshold=0.5,
        min_distance_nm=0.1,
        precision="fp32",
        recipe="training/untrained.py",
        commit="untrained",
        licence="Apache-2.0",
    )
    manifest.save(path.with_suffix(".toml"))
    return path.with_suffix(".toml")


if __name__ == "__main__":
    names = get_args(NetworkName)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=names, choices=[*names, []])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for network in arguments.networks:
        print(write_untrained(network, arguments.out))
