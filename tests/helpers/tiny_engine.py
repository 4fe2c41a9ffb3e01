"""A real engine of 300 bytes: 2x2 mean, then softmax of (0, 1.5 mean - 3). Bright blobs are its columns.

The one for stacks of two images does so with the first less the second: blobs that are bright in the first alone.

`tiny.onnx` and `tiny-stack.onnx` beside this file were written by running it: `python -m tests.helpers.tiny_engine`
(needs onnx, from the training extra).
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from engines.manifest import Manifest

ONNX = {1: Path(__file__).with_name("tiny.onnx"), 2: Path(__file__).with_name("tiny-stack.onnx")}
WEIGHTS = {1: [1.0], 2: [1.0, -1.0]}  # of the images of a stack
GAIN, LEVEL = 1.5, 2.0


def tiny_maps(batch: np.ndarray) -> np.ndarray:
    """What the network computes, in numpy: (b, c, ny, nx) -> (b, 2, ny / 2, nx / 2) f4."""
    b, c, ny, nx = batch.shape
    means = batch.reshape(b, c, ny // 2, 2, nx // 2, 2).mean(axis=(3, 5), dtype=np.float64)
    mean = np.tensordot(WEIGHTS[c], means, (0, 1))
    column = 1 / (1 + np.exp(-GAIN * (mean - LEVEL)))
    return np.stack([1 - column, column], axis=1).astype("f4")


def make_tiny_engine(folder: Path, channels: int = 1, **changes: Any) -> Path:
    """Copy the network to `folder` with a manifest and a golden output; `changes` go into the manifest.

    `channels` are the images of a stack, 1 or 2.

    Returns
    -------
    The manifest.
    """
    onnx = ONNX[channels]
    golden = np.random.default_rng(7).normal(size=(1, channels, 32, 48)).astype("f4")
    np.savez(folder / "tiny.npz", input=golden, output=tiny_maps(golden))
    shutil.copy(onnx, folder / "tiny.onnx")
    facts: dict[str, Any] = {
        "name": "tiny",
        "description": "bright blobs, for tests",
        "onnx": "tiny.onnx",
        "golden": "tiny.npz",
        "golden_tolerance": 1e-4,
        "sha256": hashlib.sha256(onnx.read_bytes()).hexdigest(),
        "classes": ("background", "column"),
        "nominal_nm_px": 0.02,
        "sampling_nm_px": (0.018, 0.022),
        "normalize_sigma_nm": 1.0,
        "input_channels": channels,
        "stride": 2,
        "multiple_of": 8,
        "threshold": 0.5,
        "min_distance_nm": 0.1,
        "precision": "fp32",
        "recipe": "tests/helpers/tiny_engine.py",
        "commit": "0" * 40,
        "licence": "Apache-2.0",
    }
    path = folder / "tiny.toml"
    Manifest(**(facts | changes)).save(path)
    return path


def _write_onnx(channels: int) -> None:
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("AveragePool", ["input"], ["mean"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["mean", "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    weights = [0.0] * channels + [GAIN * weight for weight in WEIGHTS[channels]]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", channels, "ny", "nx"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["b", 2, "my", "mx"])],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, [2, channels, 1, 1], weights),
            helper.make_tensor("bias", TensorProto.FLOAT, [2], [0.0, -GAIN * LEVEL]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    ONNX[channels].write_bytes(model.SerializeToString())


if __name__ == "__main__":
    for channels in ONNX:
        _write_onnx(channels)
