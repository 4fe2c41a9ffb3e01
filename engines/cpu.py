"""Running a network on the CPU: OpenVINO, or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from engines.manifest import EngineMismatch

if TYPE_CHECKING:
    import openvino

SHAPES_KEPT = 4  # compiled networks, one per input shape; an instrument uses one or two
Run = Callable[[np.ndarray], np.ndarray]


@cache
def openvino_core() -> openvino.Core:
    """OpenVINO, opened once and kept until the process ends.

    A core brings its own stack for signals (processors with AMX), and two that go in the order they came
    leave the process with a stack that is freed: the next signal, Ctrl-C as well, would end it.
    """
    import openvino

    return openvino.Core()


def _openvino(network: bytes, threads: int) -> Run:
    """One compiled network per input shape: static shapes run faster than dynamic ones."""
    try:
        import openvino

        core = openvino_core()
    except ImportError as error:
        raise _missing("openvino", error) from error
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bf16 wherever the processor has it
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # pinned, every process of this machine would want the same core
    }
    try:
        model = core.read_model(network, b"")
    except RuntimeError as error:
        raise _refused("openvino", error) from error
    requests: dict[tuple[int, ...], openvino.InferRequest] = {}

    def run(batch: np.ndarray) -> np.ndarray:
        request = requests.get(batch.shape)
        if request is None:
            try:
                model.reshape(list(batch.shape))
                request = core.compile_model(model, "CPU", settings).create_infer_request()
            except RuntimeError as error:
                raise _refused("openvino", error) from error
            if len(requests) == SHAPES_KEPT:
                del requests[next(iter(requests))]
            requests[batch.shape] = request
        request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
        request.infer()
        return request.get_output_tensor().data

    return run


def _onnxruntime(network: bytes, threads: int) -> Run:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors  # pyright: ignore
    except ImportError as error:
        raise _missing("onnxruntime", error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: its warnings are about the graph, for who exports it
    try:
        session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.NotImplemented) as error:
        raise _refused("onnxruntime", error) from error
    name = session.get_inputs()[0].name

    def run(batch: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: batch})[0])

    return run


OPENERS: dict[str, Callable[[bytes, int], Run]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}


def _missing(backend: str, error: ImportError) -> EngineMismatch:
    return EngineMismatch(
        f"backend {backend} does not import: {error}; install it (pip install {backend}), or choose "
        'backend = "auto"'
    )


def _refused(backend: str, error: Exception) -> EngineMismatch:
    return EngineMismatch(
        f"backend {backend} does not take the network: {error}; update {backend}, or choose another backend"
    )
