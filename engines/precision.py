"""One trained network in the arithmetic that TensorRT shall use: it takes the precision from the ONNX file.

fp16 and bf16 come from an fp32 file: weights and everything between them in half precision, the softmax in single,
so that near certain columns stay apart (and with bf16 the transposed convolutions too, which TensorRT-RTX 1.7 does
not build in it). fp8 (E4M3) comes from it as well: the inputs and weights of all convolutions but the first and the
last are quantized, each to its own largest value, which is read off the golden input; being floats they lose nothing
by the room that is left above it. The rest is fp16.

int8 comes from a quantized file: TensorRT knows signed integers around zero alone, and reads 0..255 as -128..127
without a word, cutting off the upper half; so unsigned activations get signed scales, which costs them one bit. What
lies between quantized layers becomes fp16 too.

Needs the onnx package (the gpu extra brings it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from engines.manifest import EngineMismatch, Manifest

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp32", "fp16", "bf16", "fp8", "int8"]
POSSIBLE: dict[str, tuple[Precision, ...]] = {  # from a file in which; the last is the usual
    "fp32": ("fp32", "fp8", "bf16", "fp16"),
    "fp16": ("fp16",),
    "int8": ("int8",),
}
TOLERANCE = {  # of a probability, through twenty layers of eleven bits, eight, and four
    "fp16": 0.02,
    "bf16": 0.05,
    "fp8": 0.1,
}
FP8_MOST = 448.0  # the largest number of E4M3
FP8_ROOM = 4.0  # above what the golden input reaches: other images may be brighter
_OPSET = 19  # the first whose quantize nodes take fp16
_OPSET_BF16 = 22  # the first whose convolutions take bf16
_IR_VERSION = 10


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
    return max(manifest.golden_tolerance, TOLERANCE[precision])


def in_precision(
    network: bytes, manifest: Manifest, precision: Precision, example: np.ndarray | None = None
) -> bytes:
    """The ONNX file of an engine, rewritten for TensorRT.

    Parameters
    ----------
    network : the file the manifest speaks of.
    precision : one of `possible_precision`; fp32 is the file as it is.
    example : (b, c, ny, nx) f4, the golden input; fp8 needs it.

    Returns
    -------
    An ONNX file with the same input and output, both f4.

    Raises
    ------
    EngineMismatch
        If it is not ONNX, weights do not fit into half precision, or its quantization is not around zero.
    ValueError
        If fp8 is asked for without an example.
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
    elif precision == "fp8":
        if example is None:
            raise ValueError("fp8 takes its scales from an example: expected the golden input, got none")
        _quantize_fp8(model, example)
    if not any(node.op_type == "Cast" and node.input[0] == "input" for node in model.graph.node):
        kind = onnx.TensorProto.BFLOAT16 if precision == "bf16" else onnx.TensorProto.FLOAT16
        _make_half(model.graph, manifest.name, kind)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, _OPSET_BF16 if precision == "bf16" else _OPSET)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


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


def _quantize_fp8(model: onnx.ModelProto, example: np.ndarray) -> None:
    """Quantize and dequantize nodes before the inputs and weights of all convolutions but the first and the last."""
    import onnx
    from onnx import TensorProto, helper

    graph = model.graph
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    convolutions = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose") and n.input[1] in weights]
    inner = convolutions[1:-1]
    largest = _largest(model, sorted({node.input[0] for node in inner}), example)
    largest |= {node.input[1]: float(np.abs(weights[node.input[1]]).max()) for node in inner}
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        if any(node is one for one in inner):
            for i, name in enumerate(node.input[:2]):
                if name not in done:
                    done.add(name)
                    room = 1.0 if name in weights else FP8_ROOM
                    scale = np.array(max(room * largest[name] / FP8_MOST, 1e-4), np.float32)  # fp16 holds it
                    graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
                    graph.initializer.append(
                        helper.make_tensor(f"{name}_zero", TensorProto.FLOAT8E4M3FN, (), [0.0])
                    )
                    for kind, before, after in (
                        ("QuantizeLinear", name, f"{name}_fp8"),
                        ("DequantizeLinear", f"{name}_fp8", f"{name}_from_fp8"),
                    ):
                        asked = [before, f"{name}_scale", f"{name}_zero"]
                        nodes.append(helper.make_node(kind, asked, [after], f"{kind} {name}"))
                node.input[i] = f"{name}_from_fp8"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _largest(model: onnx.ModelProto, names: list[str], example: np.ndarray) -> dict[str, float]:
    """The largest magnitude of each of these values for an example, by the onnx package's own arithmetic."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    values: list[np.ndarray] = ReferenceEvaluator(shown).run(None, {"input": example})  # type: ignore[assignment]
    return {name: float(np.abs(value).max()) for name, value in zip(names, values, strict=True)}


def _as_half(values: np.ndarray, name: str, kind: int, where: str) -> onnx.TensorProto:
    """Values as fp16 or bf16 (rounded to the nearest, ties to even)."""
    import onnx

    if kind == onnx.TensorProto.BFLOAT16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        return onnx.helper.make_tensor(name, kind, values.shape, rounded.tobytes(), raw=True)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    # a scale that rounds to 0, or a weight beyond 65504, would be another network
    if not np.isfinite(half).all() or ((half == 0) & (np.abs(values) > 1e-6)).any():
        raise EngineMismatch(
            f"engine {where}: weights {name} do not fit into half precision "
            f"(up to {np.abs(values).max():.3g}); use fp32 or bf16"
        )
    return onnx.numpy_helper.from_array(half, name)


def _make_half(graph: onnx.GraphProto, name: str, kind: int) -> None:
    """Everything between the input and a softmax at the output in fp16 or bf16."""
    import onnx
    from onnx import TensorProto, helper

    wide_nodes = [n for n in graph.node if n.op_type == "ConvTranspose" and kind == TensorProto.BFLOAT16]
    wide_weights = {i for node in wide_nodes for i in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in wide_weights:
            tensor.CopyFrom(_as_half(onnx.numpy_helper.to_array(tensor), tensor.name, kind, name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(attribute.t)
                attribute.t.CopyFrom(_as_half(values, attribute.t.name, kind, name))
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    nodes = []
    for value in graph.input:
        nodes.append(
            helper.make_node("Cast", [value.name], [f"{value.name}_half"], f"{value.name} in half", to=kind)
        )
    for node in graph.node:
        node.input[:] = [f"{i}_half" if i in inputs else i for i in node.input]
        ends = set(node.output) & outputs
        if any(node is one for one in wide_nodes):
            name_in, name_out = f"{node.output[0]}_in_fp32", f"{node.output[0]}_fp32"
            to_fp32 = helper.make_node("Cast", [node.input[0]], [name_in], f"into {node.name}", to=1)
            back = helper.make_node("Cast", [name_out], [node.output[0]], f"out of {node.name}", to=kind)
            node.input[0], node.output[0] = name_in, name_out
            nodes += [to_fp32, node, back]
            continue
        if ends and node.op_type == "Softmax":
            wide = f"{node.input[0]}_fp32"
            nodes.append(helper.make_node("Cast", [node.input[0]], [wide], f"{node.name} in fp32", to=1))
            node.input[0] = wide
        nodes.append(node)
        if ends and node.op_type != "Softmax":
            for i, output in enumerate(node.output):
                if output in ends:
                    node.output[i] = f"{output}_half"
                    nodes.append(
                        helper.make_node("Cast", [node.output[i]], [output], f"{output} in fp32", to=1)
                    )
    del graph.node[:]
    graph.node.extend(nodes)
