"""Stand-ins for CuPy and TensorRT, with methods that the real ones have and no others: what TensorRT runs is the tiny
network's arithmetic, and a captured graph knows addresses alone."""

from __future__ import annotations

import ctypes
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.helpers.tiny_engine import tiny_maps

PROFILES = [
    ((1, 1, 64, 64), (16, 1, 64, 64), (16, 1, 64, 64)),
    ((1, 1, 8, 8), (1, 1, 64, 64), (4, 1, 512, 512)),
]


class Array(np.ndarray):
    """A device array: numpy's, with CuPy's way in and out."""

    def set(self, values: np.ndarray) -> None:
        self[...] = values

    def get(self) -> np.ndarray:
        return np.array(self)

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])


class Card:
    """What is asked of CuPy, done at once; a captured graph replays the calls made while it was captured."""

    def __init__(self) -> None:
        self.captured: list[Any] | None = None
        self.full = False
        card = self

        class Stream:
            ptr = 7

            def __init__(self, non_blocking: bool = False) -> None: ...
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None: ...
            def synchronize(self) -> None: ...
            def record(self) -> None: ...
            def wait_event(self, event: object) -> None: ...
            def begin_capture(self) -> None:
                card.captured = []

            def end_capture(self) -> Any:
                calls, card.captured = card.captured or [], None
                return SimpleNamespace(launch=lambda stream: [call() for call in calls])

        self.float32 = np.float32
        self.cuda = SimpleNamespace(
            Stream=Stream,
            Device=lambda index: SimpleNamespace(use=lambda: None),
            get_current_stream=Stream,
            runtime=SimpleNamespace(getDeviceCount=lambda: 1),
        )

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        return np.zeros(shape, dtype).view(Array)

    empty = zeros


class Context:
    def __init__(self, card: Card) -> None:
        self.card, self.at, self.shape, self.profile = card, {}, None, None

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, largest = PROFILES[self.profile or 0]
        self.shape = shape
        return all(a <= n <= b for a, n, b in zip(least, shape, largest, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        b, _, ny, nx = self.shape or (0, 0, 0, 0)
        return (b, 2, ny // 2, nx // 2)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.at[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        source = self.at["input"], self.shape or ()
        target = self.at["probabilities"], self.get_tensor_shape("")
        context = weakref.ref(self)  # a graph knows addresses alone, and holds nobody

        def work() -> None:
            assert context() is not None, "a graph runs in the memory of a context that is gone"
            at_pointer(*target)[...] = tiny_maps(at_pointer(*source))

        work() if self.card.captured is None else self.card.captured.append(work)
        return True


class RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: object) -> None:
        assert strategy == "on profile change"


class PlanEngine:
    num_optimization_profiles = len(PROFILES)

    def __init__(self, card: Card, rtx: bool) -> None:
        self._card, self._rtx = card, rtx

    def create_runtime_config(self) -> RuntimeConfig:
        assert self._rtx
        return RuntimeConfig()

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "input"
        return list(PROFILES[profile_index])

    def create_execution_context(self, how: Any) -> Context | None:
        if self._rtx:  # a graph of the kernels that stand in at first would be slow for ever
            assert how.dynamic_shapes_kernel_specialization_strategy == "eager"
        else:
            assert how == "on profile change"
        return None if self._card.full else Context(self._card)


def at_pointer(pointer: int, shape: tuple[int, ...]) -> np.ndarray:
    floats = (ctypes.c_float * int(np.prod(shape))).from_address(pointer)
    return np.frombuffer(floats, np.float32).reshape(shape)


def library(card: Card, rtx: bool = False) -> Any:
    only_rtx = {"DynamicShapesKernelSpecializationStrategy": SimpleNamespace(EAGER="eager")} if rtx else {}
    return SimpleNamespace(
        **only_rtx,
        __name__="tensorrt_rtx" if rtx else "tensorrt",
        __version__="0",
        Logger=type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None}),
        ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE="on profile change"),
        Runtime=lambda logger: SimpleNamespace(
            deserialize_cuda_engine=lambda plan: PlanEngine(card, rtx) if plan == b"plan" else None
        ),
    )
