"""One trained network in the arithmetic that TensorRT shall use: it takes the precision from the ONNX file.

fp16 comes from an fp32 file: weights and everything between them in half precision, the softmax in single, so
that near certain columns stay apart. int8 comes from a quantized file: TensorRT knows signed integers around
zero alone, and reads 0..255 as -128..127 without a word, cutting off the upper half; so unsigned activations
get signed scales, which costs them one bit. What lies between quantized layers becomes fp16 too.

Needs the onnx package (the gpu extra brings it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from engines.manifest import EngineMismatch, Manifest

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
POSSIBLE: dict[str, tuple[Precision, ...]] = {"fp32": ("fp32", "fp16"), "fp16": ("fp16",), "int8": ("int8",)}
FP16_TOLERANCE = 0.02  # of a probability; eleven bits through twenty layers
_OPSET = 19  # the first whose quantize nodes take fp16
_IR_VERSION = 9


def possible_precision(manifest: Manifest, precision: Precision | None) -> Precision:
    """The precision asked for, or else the fastest that this engine can have.

    Raises
    ------
    EngineMismatch
        If the engine's file does not lead there.
    """
    possible = POSSIBLE[manifest.precision]
    if precision is None:
        return possible[-1]
    if precision not in possible:
        raise EngineMismatch(
            f"engine {manifest.name} cannot be made {precision}: expected {' or '.join(possible)} from its "
            f"{manifest.precision} file, got {precision}; choose one of these, or another engine (fp32 engines "
            "end in -fp32)"
        )
    return precision


def tolerance(manifest: Manifest, precision: Precision) -> float:
    """Largest difference of a probability from the golden output that is still the same network."""
    if precision == manifest.precision:
        return manifest.golden_tolerance
    return max(manifest.golden_tolerance, FP16_TOLERANCE)


def in_precision(network: bytes, manifest: Manifest, precision: Precision) -> bytes:
    """The ONNX file of an engine, rewritten for TensorRT.

    Parameters
    ----------
    network : the file the manifest speaks of.
    precision : one of `possible_precision`; fp32 is the file as it is.

    Returns
    -------
    An ONNX file with the same input and output, both f4.

    Raises
    ------
    EngineMismatch
        If it is not ONNX, weights do not fit into half precision, or its quantization is not around zero.
    """
    if precision == "fp32":
        return network
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(network)
    except DecodeError as error:
        raise EngineMismatch(f"engine {manifest.name}: its network is not ONNX: {error}") from error
    if precision == "int8":
        _make_symmetric(model.graph, manifest.name)
    if not any(node.op_type == "Cast" and node.input[0] == "input" for node in model.graph.node):
        _make_half(model.graph, manifest.name)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, _OPSET)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def operations(network: bytes, shape: tuple[int, int, int, int]) -> int:
    """Multiplications and additions of all convolutions for one batch (b, c, ny, nx): the FLOP of a run."""
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
    total = 0
    for node in graph.node:
        if node.op_type in (
            "Conv",
            "ConvTranspose",
        ):  # each output (or input) pixel meets one kernel per channel
            b, _, ny, nx = sizes[node.output[0] if node.op_type == "Conv" else node.input[0]]
            total += 2 * b * ny * nx * int(np.prod(sizes[node.input[1]]))
    return total


def _make_symmetric(graph: onnx.GraphProto, name: str) -> None:
    """Unsigned zero points become signed ones; 255 steps of the scale become 127 wider ones."""
    import onnx

    stored = {tensor.name: tensor for tensor in graph.initializer}
    wider: set[str] = set()
    signed: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if len(node.input) < 3 or node.input[2] not in stored or node.input[1] not in stored:
            raise EngineMismatch(
                f"engine {name}: layer {node.name} is not quantized as expected: no stored scale and zero point; "
                "quantize it again"
            )
        zero = stored[node.input[2]]
        if onnx.numpy_helper.to_array(zero).any():
            raise EngineMismatch(
                f"engine {name}: layer {node.name} is not quantized around zero, which TensorRT cannot compute; "
                "quantize it again with a symmetric preset"
            )
        if zero.data_type == onnx.TensorProto.UINT8:
            if node.input[0] in stored:
                raise EngineMismatch(
                    f"engine {name}: layer {node.name} has unsigned weights; quantize it again"
                )
            wider.add(node.input[1])
            signed.add(node.input[2])
    for scale in wider:
        values = onnx.numpy_helper.to_array(stored[scale]) * np.float32(255 / 127)
        stored[scale].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), scale))
    for zero in signed:
        values = onnx.numpy_helper.to_array(stored[zero]).astype(np.int8)
        stored[zero].CopyFrom(onnx.numpy_helper.from_array(values, zero))


def _make_half(graph: onnx.GraphProto, name: str) -> None:
    """Everything between the input and a softmax at the output in fp16."""
    import onnx
    from onnx import TensorProto, helper

    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            # a scale that rounds to 0, or a weight beyond 65504, would be another network
            if not np.isfinite(half).all() or ((half == 0) & (np.abs(values) > 1e-6)).any():
                raise EngineMismatch(
                    f"engine {name}: weights {tensor.name} do not fit into half precision "
                    f"(up to {np.abs(values).max():.3g}); use fp32"
                )
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(values, attribute.t.name))
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    nodes = []
    for value in graph.input:
        nodes.append(
            helper.make_node("Cast", [value.name], [f"{value.name}_fp16"], f"{value.name} to fp16", to=10)
        )
    for node in graph.node:
        node.input[:] = [f"{i}_fp16" if i in inputs else i for i in node.input]
        ends = set(node.output) & outputs
        if ends and node.op_type == "Softmax":
            wide = f"{node.input[0]}_fp32"
            nodes.append(helper.make_node("Cast", [node.input[0]], [wide], f"{node.name} in fp32", to=1))
            node.input[0] = wide
        nodes.append(node)
        if ends and node.op_type != "Softmax":
            for i, output in enumerate(node.output):
                if output in ends:
                    node.output[i] = f"{output}_fp16"
                    nodes.append(
                        helper.make_node("Cast", [node.output[i]], [output], f"{output} in fp32", to=1)
                    )
    del graph.node[:]
    graph.node.extend(nodes)
