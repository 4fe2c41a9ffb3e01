"""The TensorRT runner against stand-ins for card and library that have the real ones' methods and no others."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.gpu import Kept, TensorRtNetwork, narrowest
from engines.manifest import EngineMismatch
from tests.helpers.needs import lacking
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
        card = self

        class Stream:
            ptr = 7

            def __init__(self, non_blocking: bool = False) -> None: ...
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None: ...
            def synchronize(self) -> None: ...
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

    def is_available(self) -> bool:
        return True

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
        def work() -> None:
            inputs = _at(self.at["input"], self.shape or ())
            _at(self.at["probabilities"], self.get_tensor_shape(""))[...] = tiny_maps(inputs)

        work() if self.card.captured is None else self.card.captured.append(work)
        return True


class PlanEngine:
    num_optimization_profiles = len(PROFILES)

    def __init__(self, card: Card) -> None:
        self._card = card

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "input"
        return list(PROFILES[profile_index])

    def create_execution_context(self, strategy: object) -> Context:
        return Context(self._card)


def _at(pointer: int, shape: tuple[int, ...]) -> np.ndarray:
    import ctypes

    floats = (ctypes.c_float * int(np.prod(shape))).from_address(pointer)
    return np.frombuffer(floats, np.float32).reshape(shape)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setitem(sys.modules, "cupy", card)  # type: ignore[arg-type]
    return card


def library(card: Card) -> Any:
    return SimpleNamespace(
        __name__="tensorrt",
        __version__="0",
        Logger=type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None}),
        ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE=2),
        Runtime=lambda logger: SimpleNamespace(
            deserialize_cuda_engine=lambda plan: PlanEngine(card) if plan == b"plan" else None
        ),
    )


def test_batches_go_in_and_maps_come_out(card: Card) -> None:
    kept = Kept(TensorRtNetwork(library(card), b"plan", 0))
    rng = np.random.default_rng(2)
    for shape in (
        (1, 1, 64, 64),
        (5, 1, 64, 64),
        (1, 1, 64, 64),
        (2, 1, 32, 72),
        (1, 1, 8, 8),
        (3, 1, 64, 64),
    ):
        images = rng.normal(size=shape).astype("f4")
        np.testing.assert_allclose(kept.run(images), tiny_maps(images), atol=1e-6)
    with pytest.raises(EngineMismatch, match=r"takes no input of shape \(5, 1, 128, 128\)"):
        kept.run(np.zeros((5, 1, 128, 128), "f4"))


def test_a_plan_that_does_not_load_is_refused(card: Card) -> None:
    with pytest.raises(EngineMismatch, match="cannot load the plan"):
        TensorRtNetwork(library(card), b"of another card", 0)


def test_the_narrowest_profile_is_taken() -> None:
    assert narrowest(PROFILES, (5, 1, 64, 64)) == 0
    assert narrowest(PROFILES, (1, 1, 64, 64)) == 0
    assert narrowest(PROFILES, (1, 1, 64, 72)) == 1


@pytest.mark.trt
def test_the_stand_ins_have_only_what_the_library_has() -> None:
    try:
        import tensorrt_rtx as trt
    except ImportError:
        lacking("tensorrt-rtx")
    for stand_in, real in ((Context, trt.IExecutionContext), (PlanEngine, trt.ICudaEngine)):
        for name in vars(stand_in):
            assert name.startswith("_") or hasattr(real, name), f"{real} has no {name}"
    assert hasattr(trt.ExecutionContextAllocationStrategy, "ON_PROFILE_CHANGE")
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    assert hasattr(trt.BuilderFlag, "TF32")
