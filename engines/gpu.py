"""Running a network on a GPU: a TensorRT plan, ONNX Runtime's CUDA provider, or torch.

Each takes an ONNX file in the precision it shall compute in, and is made ready (`Bound`) for one shape at a
time: input and output are device arrays that stay where they are, so that what comes before writes into the one,
what comes after reads the other, and the launches between are recorded once as a CUDA graph. Work is put on
CuPy's current stream; nothing here waits for it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engines.compile import INPUT, OUTPUT, Profile, started
from engines.manifest import EngineMismatch

SHAPES_KEPT = (
    8  # per engine: batches of 1, 2, 4, 8, 16 of one shape, and the golden one; each holds device memory
)

log = logging.getLogger("hopscope.engine")
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """An engine made ready for one shape.

    Attributes
    ----------
    input : (b, c, ny, nx) f4 in the engine's memory, to be written.
    output : (b, k, my, mx) f4 in the engine's memory, right once what `enqueue` started is done.
    enqueue : start one run, behind whatever the current stream still has to do.
    """

    input: Any
    output: Any
    enqueue: Callable[[], None]


class Network(Protocol):
    """What runs on a device; `profiles` are the shapes it was built for (least, usual, largest), empty for all."""

    @property
    def profiles(self) -> Sequence[Profile]: ...

    def bind(self, shape: Shape) -> Bound: ...


class Kept:
    """The few shapes that a network was made ready for and that were asked for last."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._bound: dict[Shape, Bound] = {}

    def bind(self, shape: Shape) -> Bound:
        bound = self._bound.pop(shape, None)
        if bound is not None:
            self._bound[shape] = bound  # the last that was asked for is the last to go
        else:
            if len(self._bound) == SHAPES_KEPT:
                del self._bound[next(iter(self._bound))]
            try:
                bound = self._bound[shape] = self._network.bind(shape)
            except (MemoryError, RuntimeError) as error:  # CUDA's, as CuPy and torch hand it on
                if not is_full(error):
                    raise
                raise EngineMismatch(
                    f"the engine cannot be made ready for batches of {shape} on this card: {error}; end other "
                    "programs that use it (nvidia-smi lists them), or choose device cpu"
                ) from error
        return bound

    def run(self, batch: np.ndarray) -> np.ndarray:
        """From host memory to host memory, waiting for it."""
        bound = self.bind(batch.shape)
        if isinstance(bound.input, np.ndarray):
            bound.input[...] = batch
            bound.enqueue()
            return np.asarray(bound.output)
        bound.input.set(batch)
        bound.enqueue()
        return bound.output.get()  # waits for the current stream


def import_cupy(device: int) -> Any:
    """CuPy with that card made current.

    Raises
    ------
    EngineMismatch
        If there is no CuPy, no driver, or no such card.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise EngineMismatch(
            f"CuPy does not import: {error}; pip install 'hopscope[gpu]', or choose device cpu"
        ) from error
    lacking = why_no_card(cupy, device)
    if lacking is not None:
        raise EngineMismatch(f"there is no GPU {device}: {lacking}; or choose device cpu")
    cupy.cuda.Device(device).use()
    return cupy


def is_full(error: Exception) -> bool:
    """Whether a card said that it has no memory left; what else it says, every later call says too."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def why_no_card(cupy: Any, device: int) -> str | None:
    """What keeps CuPy from that card, with the remedy; None if nothing does."""
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except RuntimeError as error:  # CUDA's own words: no driver, one that is too old, no card
        wanted = runtime.runtimeGetVersion()
        return (
            f"CUDA finds no card ({error}): expected an NVIDIA card and a driver for CUDA {wanted // 1000} or later; "
            "look at nvidia-smi: the CUDA it names is the newest its driver knows; if that is older, update the driver"
        )
    return None if device < count else f"there are {count} GPUs, numbered from 0: look at nvidia-smi"


class TensorRtNetwork:
    """A TensorRT plan; each shape runs in the narrowest profile that holds it, with memory of its own."""

    def __init__(self, trt: Any, plan: bytes, device: int) -> None:
        self._cupy = import_cupy(
            device
        )  # also because some TensorRT runtimes end the process without a driver
        self._trt = trt
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = started(trt, trt.Runtime, self._logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineMismatch(
                f"{trt.__name__} {trt.__version__} cannot load the plan on this card; delete it, and it is built again"
            )
        self.profiles: list[Profile] = [
            tuple(tuple(dims) for dims in self._engine.get_tensor_profile_shape(INPUT, i))
            for i in range(self._engine.num_optimization_profiles)
        ]

    def _new_context(self) -> Any:
        trt, engine = self._trt, self._engine
        strategy = (
            trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        )  # not for the largest of all profiles
        kernels = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is None:
            context = engine.create_execution_context(strategy)
        else:  # tensorrt-rtx compiles for a shape in the background; a graph would keep the slow kernels for ever
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
            context = engine.create_execution_context(config)
        if context is None:
            raise MemoryError("TensorRT makes no execution context, most likely for want of memory")
        return context

    def bind(self, shape: Shape) -> Bound:
        cupy = self._cupy
        cupy.cuda.get_current_stream().synchronize()  # what is set up below runs on another
        context = self._new_context()
        stream = cupy.cuda.Stream(non_blocking=True)
        profile = narrowest(self.profiles, shape)
        accepted = context.set_optimization_profile_async(profile, stream.ptr)
        stream.synchronize()
        if not accepted or not context.set_input_shape(INPUT, shape):
            raise EngineMismatch(f"the plan does not take input of shape {shape}; build it with --shapes")
        inputs = cupy.zeros(shape, "f4")
        outputs = cupy.empty(tuple(context.get_tensor_shape(OUTPUT)), "f4")
        if not (
            context.set_tensor_address(INPUT, inputs.data.ptr)
            and context.set_tensor_address(OUTPUT, outputs.data.ptr)
        ):
            raise EngineMismatch("TensorRT does not take our arrays; its own message is in the log above")

        def execute() -> None:
            if not context.execute_async_v3(cupy.cuda.get_current_stream().ptr):
                raise EngineMismatch("TensorRT refused to run; its own message is in the log above")

        if getattr(context, "is_stream_capturable", lambda _: True)(stream.ptr):
            return Bound(inputs, outputs, recorded(cupy, execute, stream))
        log.warning(
            "batches of %s cannot be recorded as a CUDA graph: each of their runs is launched anew", shape
        )
        return Bound(inputs, outputs, execute)


class OnnxRuntimeNetwork:
    """ONNX Runtime with its CUDA provider, on a stream of its own; every shape's run is a CUDA graph."""

    profiles: Sequence[Profile] = ()

    def __init__(self, network: bytes, device: int) -> None:
        try:
            self._onnxruntime: Any = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise EngineMismatch(
                f"onnxruntime does not import: {error}; pip install onnxruntime-gpu"
            ) from error
        if "CUDAExecutionProvider" not in self._onnxruntime.get_available_providers():
            raise EngineMismatch(
                "this onnxruntime has no CUDA provider; pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            )
        self._cupy = import_cupy(device)
        self._device = device
        self._stream = self._cupy.cuda.Stream(non_blocking=True)
        try:
            self._session = self._open(network)
        except Exception as error:  # its classes have none in common
            raise EngineMismatch(
                f"onnxruntime does not take the network on a GPU: {error}; choose backend tensorrt or torch"
            ) from error
        got = self._session.get_providers()
        if got[:1] != ["CUDAExecutionProvider"]:  # it would go on quietly on the CPU
            raise EngineMismatch(
                f"onnxruntime's CUDA provider does not start, it offers {got}; its CUDA and cuDNN must be installed"
            )
        self._graphs = 0

    def _open(self, network: bytes) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = 3
        settings = {
            "device_id": str(self._device),
            "user_compute_stream": str(self._stream.ptr),
            "prefer_nhwc": "1",
            "use_tf32": "0",
            "enable_cuda_graph": "1",
        }
        return self._onnxruntime.InferenceSession(
            network, options, providers=[("CUDAExecutionProvider", settings)]
        )

    def _options(self, graph: int, waits: bool = True) -> Any:
        """Of a run, which is recorded and replayed as the graph of that number; -1: is none. Whether the host waits."""
        options = self._onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        if not waits:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options

    def bind(self, shape: Shape) -> Bound:
        cupy, session, device = self._cupy, self._session, self._device
        inputs = cupy.zeros(shape, "f4")
        cupy.cuda.get_current_stream().synchronize()  # what is set up below runs on another
        # tells the shape, and picks the kernels
        nothing = {INPUT: np.zeros(shape, "f4")}
        (trial,) = _by_onnxruntime(lambda: session.run(None, nothing, self._options(-1)))
        outputs = cupy.empty(trial.shape, "f4")
        binding = session.io_binding()
        binding.bind_input(INPUT, "cuda", device, np.float32, shape, inputs.data.ptr)
        binding.bind_output(OUTPUT, "cuda", device, np.float32, trial.shape, outputs.data.ptr)
        self._graphs += 1
        options = self._options(self._graphs)
        for _ in range(2):  # the first allocates, the second is recorded
            _by_onnxruntime(lambda: session.run_with_iobinding(binding, options))
        replayed = self._options(self._graphs, waits=False)

        def enqueue() -> None:
            current = cupy.cuda.get_current_stream()
            self._stream.wait_event(current.record())
            _by_onnxruntime(lambda: session.run_with_iobinding(binding, replayed))
            current.wait_event(self._stream.record())

        return Bound(inputs, outputs, enqueue)


def _by_onnxruntime(work: Callable[[], Any]) -> Any:
    """Its errors, which have no class in common, as everybody else's of CUDA."""
    try:
        return work()
    except Exception as error:
        raise RuntimeError(f"onnxruntime: {type(error).__name__}: {error}") from error


def narrowest(profiles: Sequence[Profile], shape: Shape) -> int:
    """Which profile (least, usual, largest) holds a shape with the least room to spare.

    Raises
    ------
    EngineMismatch
        If none does.
    """
    fits = [
        (float(np.prod(largest)) / float(np.prod(least)), i)
        for i, (least, _, largest) in enumerate(profiles)
        if _holds(least, shape, largest)
    ]
    if not fits:
        largest = [largest for _, _, largest in profiles]
        raise EngineMismatch(
            f"the plan takes no input of shape {shape}, the largest are {largest}; build it again with --shapes"
        )
    return min(fits)[1]


def largest_batch(profiles: Sequence[Profile], shape: Shape) -> int:
    """How many images of shape (c, ny, nx) one of the profiles takes at once; 0 if none takes such an image."""
    return max(
        (largest[0] for least, _, largest in profiles if _holds(least[1:], shape, largest[1:])), default=0
    )


def _holds(least: Shape, shape: Shape, largest: Shape) -> bool:
    return all(a <= n <= b for a, n, b in zip(least, shape, largest, strict=True))


def recorded(cupy: Any, execute: Callable[[], None], stream: Any) -> Callable[[], None]:
    """The same work as a CUDA graph, after one run that lets the library load what it needs.

    `execute` is kept with it: the graph works in memory that belongs to whatever `execute` holds.
    """
    with stream:
        execute()
        stream.synchronize()
        stream.begin_capture()
        execute()
        graph = stream.end_capture()

    def enqueue(_kept: Callable[[], None] = execute) -> None:
        graph.launch(cupy.cuda.get_current_stream())

    return enqueue
