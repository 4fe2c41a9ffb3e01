"""Engines that have learnt nothing: every size of network, for measuring how fast it runs. Their threshold is such
that they find about as many columns as there are.

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
from stream.columns import find_columns
from stream.normalize import normalize_exact
from stream.phantom import Phantom
from training.export import Probabilities, onnxruntime_maps, to_onnx
from training.networks import NetworkName, build_network

NM_PX, SIGMA_PX, NEAR_PX = 0.02, 50.0, 5.0
SIDE_PX, COLUMNS = 256, 100  # about 400 in 512 x 512 pixels, as gold has


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
        nominal_nm_px=NM_PX,
        sampling_nm_px=(0.018, 0.022),
        normalize_sigma_nm=SIGMA_PX * NM_PX,
        stride=network.stride,
        multiple_of=network.multiple_of,
        threshold=_threshold(path, network.stride),
        min_distance_nm=NEAR_PX * NM_PX,
        precision="fp32",
        recipe="training/untrained.py",
        commit="untrained",
        licence="Apache-2.0",
    )
    manifest.save(path.with_suffix(".toml"))
    return path.with_suffix(".toml")


def _threshold(path: Path, stride: int) -> float:
    """The score of the last of as many columns as a frame of a particle has."""
    image = normalize_exact(Phantom(seed=5, shape_px=SIDE_PX, frames=1).render(0), SIGMA_PX)
    columns = find_columns(onnxruntime_maps(path)(image[None, None])[0], stride, 0.01, NEAR_PX)
    scores = np.sort(columns.score)[::-1]
    return round(float(np.clip(scores[min(COLUMNS, len(scores)) - 1], 0.01, 0.99)), 6)


def main() -> None:
    """`python -m training.untrained`."""
    names = get_args(NetworkName)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*names, []], help="without any, all of them")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for network in arguments.networks or names:
        print(write_untrained(network, arguments.out))


if __name__ == "__main__":
    main()
