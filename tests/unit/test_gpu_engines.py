"""TensorRT's and ONNX Runtime's runners against stand-ins for card and library that have the real ones' methods and
no others."""

from __future__ import annotations

import gc
import inspect
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.build import Gpu, check_card
from engines.gpu import Kept, OnnxRuntimeNetwork, TensorRtNetwork, largest_batch, narrowest
from engines.manifest import EngineMismatch
from engines.runtime import open_engine
from tests.helpers.fake_tensorrt import (
    PROFILES,
    Card,
    Context,
    PlanEngine,
    RuntimeConfig,
    at_pointer,
    library,
)
from tests.helpers.needs import lacking
from tests.helpers.tiny_engine import make_tiny_engine, tiny_maps


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setitem(sys.modules, "cupy", card)  # type: ignore[arg-type]
    return card


@pytest.mark.parametrize("rtx", [False, True])
def test_batches_go_in_and_maps_come_out(card: Card, rtx: bool) -> None:
    kept = Kept(TensorRtNetwork(library(card, rtx), b"plan", 0))
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


def test_a_recorded_run_keeps_its_context_and_lets_it_go_with_the_shape(card: Card) -> None:
    contexts: list[weakref.ref[Context]] = []

    class Noted(Context):
        def __init__(self, card: Card) -> None:
            super().__init__(card)
            contexts.append(weakref.ref(self))

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(PlanEngine.create_execution_context.__globals__, "Context", Noted)
        bound = TensorRtNetwork(library(card), b"plan", 0).bind((1, 1, 64, 64))
    gc.collect()
    (context,) = contexts
    assert context() is not None
    bound.enqueue()
    del bound
    gc.collect()
    assert context() is None


def test_the_shapes_that_are_kept_are_those_asked_for_last(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.gpu.SHAPES_KEPT", 2)
    kept = Kept(TensorRtNetwork(library(card), b"plan", 0))
    first = kept.bind((1, 1, 64, 64))
    second = kept.bind((2, 1, 64, 64))
    assert kept.bind((1, 1, 64, 64)) is first
    kept.bind((3, 1, 64, 64))
    assert kept.bind((1, 1, 64, 64)) is first
    assert kept.bind((2, 1, 64, 64)) is not second


def test_a_plan_that_does_not_load_is_refused(card: Card) -> None:
    with pytest.raises(EngineMismatch, match="cannot load the plan"):
        TensorRtNetwork(library(card), b"of another card", 0)


def test_a_library_that_does_not_start_is_refused_with_the_remedy(card: Card) -> None:
    def nothing(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt = library(card)
    trt.Runtime = nothing
    with pytest.raises(EngineMismatch, match=r"tensorrt 0 does not start here.*update the driver"):
        TensorRtNetwork(trt, b"plan", 0)


def test_a_full_card_is_refused_by_name(card: Card) -> None:
    kept = Kept(TensorRtNetwork(library(card), b"plan", 0))
    card.full = True
    with pytest.raises(
        EngineMismatch, match=r"batches of \(1, 1, 64, 64\) on this card.*want of memory.*nvidia-smi"
    ):
        kept.run(np.zeros((1, 1, 64, 64), "f4"))


def test_cudas_own_errors_are_told_with_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("cudaErrorUnknown: unknown error")

    monkeypatch.setattr("engines.runtime._on_gpu", broken)
    with pytest.raises(EngineMismatch, match="torch fails on GPU 0: RuntimeError: cudaErrorUnknown"):
        open_engine(make_tiny_engine(tmp_path), "torch", device=0)


class RunOptions:
    def __init__(self) -> None:
        self.graph, self.waits = 0, True

    def add_run_config_entry(self, key: str, value: str) -> None:
        if key == "gpu_graph_id":
            self.graph = int(value)
        else:
            assert (key, value) == ("disable_synchronize_execution_providers", "1")
            self.waits = False


class IOBinding:
    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}

    def bind_input(self, name: str, kind: str, device: int, dtype: Any, shape: Any, pointer: int) -> None:
        assert (kind, device, dtype) == ("cuda", 0, np.float32)
        self.bound[name] = (pointer, tuple(shape))

    bind_output = bind_input


class Session:
    """Keeps one graph for each number: the first run is plain, the second is recorded, the others replay it."""

    def __init__(self, network: bytes, options: Any, providers: Any) -> None:
        ((name, settings),) = providers
        assert (name, settings["enable_cuda_graph"]) == ("CUDAExecutionProvider", "1")
        self.graphs: dict[int, list[Any]] = {}

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def run(self, outputs: None, feeds: dict[str, np.ndarray], options: RunOptions) -> list[np.ndarray]:
        assert options.graph == -1, "its arrays are gone afterwards: nothing to record"
        return [tiny_maps(feeds["input"])]

    def io_binding(self) -> IOBinding:
        return IOBinding()

    def run_with_iobinding(self, binding: IOBinding, options: RunOptions) -> None:
        assert options.graph > 0
        runs = self.graphs.setdefault(options.graph, [])
        runs.append(binding.bound)
        assert options.waits == (len(runs) <= 2), "replays are only enqueued"
        recorded = runs[1] if len(runs) > 2 else binding.bound
        at_pointer(*recorded["probabilities"])[...] = tiny_maps(at_pointer(*recorded["input"]))


def test_onnxruntime_records_a_graph_for_every_shape(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = SimpleNamespace(
        get_available_providers=lambda: ["CUDAExecutionProvider"], SessionOptions=SimpleNamespace,
        RunOptions=RunOptions, InferenceSession=Session,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime)  # type: ignore[arg-type]
    kept = Kept(OnnxRuntimeNetwork(b"", 0))
    rng = np.random.default_rng(2)
    for shape in ((1, 1, 64, 64), (2, 1, 32, 72), (1, 1, 64, 64), (1, 1, 64, 64), (2, 1, 32, 72)):
        images = rng.normal(size=shape).astype("f4")
        np.testing.assert_allclose(kept.run(images), tiny_maps(images), atol=1e-6)
    onnxruntime.InferenceSession = lambda *_, **__: 1 / 0
    with pytest.raises(EngineMismatch, match="does not take the network on a GPU"):
        OnnxRuntimeNetwork(b"", 0)


def test_onnxruntimes_stand_ins_have_only_what_it_has() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession
    for stand_in, real in (
        (RunOptions, onnxruntime.RunOptions),
        (IOBinding, onnxruntime.IOBinding),
        (Session, session),
    ):
        for name in vars(stand_in):
            assert name.startswith("_") or hasattr(real, name), f"{real} has no {name}"
    assert list(inspect.signature(onnxruntime.IOBinding.bind_input).parameters)[1:] == [
        "name", "device_type", "device_id", "element_type", "shape", "buffer_ptr"
    ]  # fmt: skip
    assert list(inspect.signature(session.run).parameters)[3] == "run_options"
    assert list(inspect.signature(session.run_with_iobinding).parameters)[2] == "run_options"


def test_the_narrowest_profile_is_taken() -> None:
    assert narrowest(PROFILES, (5, 1, 64, 64)) == 0
    assert narrowest(PROFILES, (1, 1, 64, 64)) == 0
    assert narrowest(PROFILES, (1, 1, 64, 72)) == 1


def test_batches_are_as_large_as_a_profile_allows() -> None:
    assert largest_batch(PROFILES, (1, 64, 64)) == max(largest[0] for _, _, largest in PROFILES)
    for shape in ((1, 64, 64), (1, 64, 72), (1, 8, 8)):
        most = largest_batch(PROFILES, shape)
        narrowest(PROFILES, (most, *shape))
        with pytest.raises(EngineMismatch, match="takes no input"):
            narrowest(PROFILES, (most + 1, *shape))
    assert largest_batch(PROFILES, (1, 64, 4096)) == 0


@pytest.mark.trt
def test_the_stand_ins_have_only_what_the_library_has() -> None:
    try:
        import tensorrt_rtx as trt
    except ImportError:
        lacking("tensorrt-rtx")
    for stand_in, real in (
        (Context, trt.IExecutionContext), (PlanEngine, trt.ICudaEngine), (RuntimeConfig, trt.IRuntimeConfig)
    ):  # fmt: skip
        for name in vars(stand_in):
            assert name.startswith("_") or hasattr(real, name), f"{real} has no {name}"
    assert hasattr(trt.ExecutionContextAllocationStrategy, "ON_PROFILE_CHANGE")
    assert hasattr(trt.DynamicShapesKernelSpecializationStrategy, "EAGER")
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    assert hasattr(trt.BuilderFlag, "TF32")


@pytest.mark.trt
def test_rtx_is_refused_on_cards_it_does_not_know() -> None:
    try:
        import tensorrt_rtx as trt
    except ImportError:
        lacking("tensorrt-rtx")
    check_card(trt, Gpu("NVIDIA RTX A4000", (8, 6)))
    check_card(trt, None)
    with pytest.raises(EngineMismatch, match=r"does not run on NVIDIA H200 \(sm90\): expected one of sm75"):
        check_card(trt, Gpu("NVIDIA H200", (9, 0)))
    check_card(SimpleNamespace(__name__="tensorrt"), Gpu("NVIDIA H200", (9, 0)))
