"""An ONNX network run by torch, where TensorRT cannot be installed: channels last, fp16 or bf16, one CUDA graph.

Knows the operations of our own networks and no others. torch has no int8 convolutions on a GPU: quantized
engines are refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engines.compile import Profile
from engines.gpu import Bound, Shape, import_cupy
from engines.manifest import EngineMismatch
from engines.precision import Precision

Values = dict[str, Any]


class TorchNetwork:
    """Our networks by torch.

    Parameters
    ----------
    network : fp32 ONNX file.
    precision : fp32, fp16 or bf16; input, softmax and output are f4 in all.
    device : number of the card, or None for the CPU (which is for tests: arrays are numpy's then).
    """

    profiles: Sequence[Profile] = ()

    def __init__(self, network: bytes, precision: Precision, device: int | None) -> None:
        if precision in ("int8", "fp8"):
            raise EngineMismatch(
                "torch cannot compute quantized engines on a GPU; choose the fp32 engine (its name ends in -fp32), "
                "which runs in fp16 or bf16, or backend tensorrt"
            )
        try:
            self._torch: Any = importlib.import_module("torch")
        except ImportError as error:
            raise EngineMismatch(f"torch does not import: {error}; pip install torch") from error
        try:
            onnx: Any = importlib.import_module("onnx")
        except ImportError as error:
            raise EngineMismatch(f"onnx does not import: {error}; pip install onnx") from error
        self._cupy = None if device is None else import_cupy(device)
        if device is not None and not self._torch.cuda.is_available():
            raise EngineMismatch("this torch has no CUDA; install one that has, or choose backend tensorrt")
        self._device = "cpu" if device is None else f"cuda:{device}"
        self._kind = {"fp32": None, "fp16": self._torch.float16, "bf16": self._torch.bfloat16}[precision]
        self._graph = onnx.load_model_from_string(network).graph
        unknown = sorted({node.op_type for node in self._graph.node} - set(_OPERATIONS))
        if unknown:
            raise EngineMismatch(f"torch_graph does not know {', '.join(unknown)}; choose another backend")
        self._weights: Values = {}
        for tensor in self._graph.initializer:
            self._weights[tensor.name] = self._tensor(onnx.numpy_helper.to_array(tensor))
        out = self._graph.output[0].name
        last = {name: i for i, node in enumerate(self._graph.node) for name in node.input}
        self._done_with = [  # of each node, what nobody reads after it
            [name for name in set(node.input) if last[name] == i and name not in {*self._weights, out}]
            for i, node in enumerate(self._graph.node)
        ]
        self._attributes = [
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in self._graph.node
        ]
        for node, attributes in zip(self._graph.node, self._attributes, strict=True):
            if node.op_type == "Constant":
                self._weights[node.output[0]] = onnx.numpy_helper.to_array(attributes["value"])

    def _tensor(self, values: np.ndarray) -> Any:
        torch = self._torch
        tensor = torch.from_numpy(values.copy()).to(self._device)
        if tensor.is_floating_point() and self._kind is not None:
            tensor = tensor.to(self._kind)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    def forward(self, images: Any) -> Any:
        """(b, c, ny, nx) f4 tensor -> (b, k, my, mx) f4 tensor."""
        torch = self._torch
        values = dict(self._weights)
        values[self._graph.input[0].name] = images if self._kind is None else images.to(self._kind)
        for node, attributes, done in zip(self._graph.node, self._attributes, self._done_with, strict=True):
            if node.op_type != "Constant":
                inputs = [values[name] for name in node.input]
                values[node.output[0]] = _OPERATIONS[node.op_type](torch, attributes, *inputs)
                del inputs
            for name in done:  # its memory goes to the next, also in a recorded graph
                values.pop(name, None)
        return values[self._graph.output[0].name].float().contiguous()

    def bind(self, shape: Shape) -> Bound:
        torch = self._torch
        with torch.inference_mode():
            inputs = torch.zeros(shape, device=self._device)
            if self._cupy is None:
                outputs = self.forward(inputs)

                def on_cpu() -> None:
                    with torch.inference_mode():
                        outputs.copy_(self.forward(inputs))

                return Bound(inputs.numpy(), outputs.numpy(), on_cpu)
            return self._bind_cuda(inputs, self._cupy)

    def _bind_cuda(self, inputs: Any, cupy: Any) -> Bound:
        torch = self._torch
        # TF32 has ten bits: not what fp32 promises. The fastest kernels are looked for once per shape.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            side = torch.cuda.Stream(self._device)
            side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.forward(inputs)
            side.synchronize()
            graph = torch.cuda.CUDAGraph()
            # other cards' threads may allocate meanwhile, which would spoil a "global" recording
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                outputs = self.forward(inputs)
        torch.cuda.synchronize(self._device)

        def enqueue() -> None:
            current = torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr, device=self._device)
            with torch.cuda.stream(current):
                graph.replay()

        # views of torch's memory, which both closures keep alive
        return Bound(cupy.asarray(inputs), cupy.asarray(outputs), enqueue)


def _pads(attributes: dict[str, Any]) -> list[int]:
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if pads[:2] != pads[2:]:
        raise EngineMismatch(f"torch_graph knows even padding only, got {pads}; choose another backend")
    return pads[:2]


def _conv(torch: Any, at: dict[str, Any], x: Any, weight: Any, bias: Any = None) -> Any:
    return torch.nn.functional.conv2d(
        x, weight, bias, at.get("strides", [1, 1]), _pads(at), at.get("dilations", [1, 1]), at.get("group", 1)
    )


def _conv_transpose(torch: Any, at: dict[str, Any], x: Any, weight: Any, bias: Any = None) -> Any:
    return torch.nn.functional.conv_transpose2d(
        x, weight, bias, at.get("strides", [1, 1]), _pads(at), at.get("output_padding", [0, 0]),
        at.get("group", 1), at.get("dilations", [1, 1]),
    )  # fmt: skip


def _pool(name: str) -> Callable[..., Any]:
    def pool(torch: Any, at: dict[str, Any], x: Any) -> Any:
        if at.get("ceil_mode", 0):
            raise EngineMismatch("torch_graph knows pooling without ceil_mode only; choose another backend")
        function = getattr(torch.nn.functional, name)
        return function(x, at["kernel_shape"], at.get("strides", [1, 1]), _pads(at))

    return pool


def _reshape(torch: Any, at: dict[str, Any], x: Any, shape: np.ndarray) -> Any:
    return x.reshape([x.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)])


def _unsqueeze(torch: Any, at: dict[str, Any], x: Any, axes: np.ndarray) -> Any:
    for axis in sorted(int(a) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(torch: Any, at: dict[str, Any], x: Any, axes: np.ndarray) -> Any:
    return x.squeeze(tuple(int(a) for a in axes))


def _slice(torch: Any, at: dict[str, Any], x: Any, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
    last_to_first = (np.all(starts == -1), np.all(ends < -(2**31)), np.all(steps == -1))
    if not all(last_to_first):
        raise EngineMismatch(
            f"torch_graph knows whole axes from last to first only, got a slice from {starts} to {ends} by {steps}; "
            "choose another backend"
        )
    return x.flip([int(a) for a in axes])


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Constant": lambda torch, at: None,
    "Identity": lambda torch, at, x: x,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool("max_pool2d"),
    "AveragePool": _pool("avg_pool2d"),
    "Relu": lambda torch, at, x: torch.relu(x),
    "Add": lambda torch, at, a, b: a + b,
    "Div": lambda torch, at, a, b: a / float(b),
    "Slice": _slice,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": lambda torch, at, x: x.permute(at["perm"]),
    "Softmax": lambda torch, at, x: torch.softmax(x.float(), at.get("axis", -1)),
}
