"""What a network has to do at least, counted off its ONNX file: for saying how near a card comes to what it can."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.precision import Precision

ITEM_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution of one batch.

    Attributes
    ----------
    flop : multiplications and additions.
    values : numbers read (input and weights) and written, each once.
    """

    flop: int
    values: int


def layers(network: bytes, shape: tuple[int, int, int, int]) -> list[Layer]:
    """The convolutions for one batch (b, c, ny, nx). What lies between them is left out: it can be done on the way."""
    import onnx

    model = onnx.load_model_from_string(network)
    for dimension, n in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dimension.ClearField("dim_param")
        dimension.dim_value = n
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    sizes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type in (
            "Conv",
            "ConvTranspose",
        ):  # each output (or input) pixel meets one kernel per channel
            read, weights, written = (sizes[name] for name in (*node.input[:2], node.output[0]))
            b, _, ny, nx = written if node.op_type == "Conv" else read
            flop = 2 * b * ny * nx * int(np.prod(weights))
            found.append(Layer(flop, sum(int(np.prod(size)) for size in (read, weights, written))))
    return found


def operations(network: bytes, shape: tuple[int, int, int, int]) -> int:
    """Multiplications and additions of all convolutions for one batch: the FLOP of a run."""
    return sum(layer.flop for layer in layers(network, shape))


def least_ms(work: list[Layer], precision: Precision, tflop_per_s: float, gb_per_s: float) -> float:
    """The roofline's time: each layer computes, or moves its numbers, whichever takes longer."""
    each = ITEM_BYTES[precision]
    return sum(max(w.flop / tflop_per_s / 1e9, w.values * each / gb_per_s / 1e6) for w in work)
