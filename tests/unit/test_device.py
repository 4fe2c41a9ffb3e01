"""Choosing a device, and the whole way from payloads to columns on one, beside the CPU's."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engines.build import find_gpu
from engines.files import read_engine
from engines.gpu import import_cupy
from engines.manifest import EngineMismatch
from engines.precision import in_precision
from engines.runtime import Engine, open_engine
from stream.bench_device import AGREE_F1, AGREE_PX, compare
from stream.codecs import Encoding, WireError, decode, encode
from stream.columns import Columns
from stream.device import Device, DeviceError, open_device
from stream.gpu.finder import STAGES, DeviceFinder
from stream.infer import ColumnFinder, Found
from stream.phantom import Phantom
from tests.helpers.host_device import HostDevice
from tests.helpers.plans import small_plans

NAME = "au-on-oxide-hrtem-fp32"


def test_the_cpu_is_chosen_where_there_is_no_card_and_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert open_device("cpu").cards == ()
    choice = open_device("auto")
    assert choice.cards == ()
    assert "CuPy does not import" in choice.reason
    with pytest.raises(DeviceError, match=r"cuda:0 cannot be used: CuPy does not import.*hopscope\[gpu\]"):
        open_device("cuda:0")
    with pytest.raises(DeviceError, match="cuda:1 cannot be used"):
        Device(1)
    for strange in ("gpu", "cuda:0,cpu", "cuda:0,", "cuda"):
        with pytest.raises(ValueError, match="unknown device"):
            open_device(strange)


def test_a_card_that_can_be_used_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimpleNamespace(getDeviceCount=lambda: 2)
    card = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", card)  # type: ignore[arg-type]
    assert open_device("auto").cards == (0,)
    assert open_device("cuda:1").cards == (1,)
    assert open_device("cuda:1,cuda:0,cuda:1").cards == (1, 0)
    with pytest.raises(DeviceError, match="there are 2 GPUs, numbered from 0"):
        open_device("cuda:0,cuda:2")


def test_a_driver_that_is_missing_or_too_old_is_told_in_cudas_words_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> int:
        raise RuntimeError(
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
        )

    runtime = SimpleNamespace(getDeviceCount=refused, runtimeGetVersion=lambda: 13020)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))  # type: ignore[arg-type]
    told = r"driver version is insufficient.*a driver for CUDA 13 or later.*update the driver"
    assert re.search(told, open_device("auto").reason)
    with pytest.raises(DeviceError, match=told):
        open_device("cuda:0")
    with pytest.raises(EngineMismatch, match=told):
        import_cupy(0)
    assert find_gpu() is None


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Any:
    """A device, an engine on it, and the same engine on the CPU."""
    with open_engine(NAME, threads=1) as on_cpu:
        if request.param == "host":
            with open_engine(NAME, threads=1) as other:
                yield HostDevice(), other, on_cpu
        elif find_gpu() is None:
            pytest.skip("there is no GPU")
        else:
            small_plans(monkeypatch, tmp_path_factory)
            device = Device(0)
            with open_engine(NAME, device=0, precision="fp32") as other:
                yield device, other, on_cpu


def payload(counts: np.ndarray, algorithm: Any = "bslz4") -> Any:
    return encode(counts, algorithm), Encoding(counts.shape, counts.dtype, algorithm)


def same(found: Found | None, wanted: Columns, within_px: float = 0.01) -> None:
    assert found is not None
    got = found.columns
    assert len(got) == len(wanted) > 50
    apart_px, own = cKDTree(wanted.yx_px).query(got.yx_px)  # in whatever order
    assert len(np.unique(own)) == len(own)
    assert np.quantile(apart_px, 0.98) <= within_px
    # an image differs by 1e-4: one step of an activation in eight bits, or, of two pixels equally high, the
    # other one for the middle of the fit
    assert apart_px.max() <= 0.1
    np.testing.assert_allclose(got.score, wanted.score[own], atol=2e-3)
    np.testing.assert_array_equal(got.kind, wanted.kind[own])


@pytest.mark.parametrize("finer", [1, 2])
def test_the_columns_are_the_cpus(both: tuple[Any, Engine, Engine], finer: int) -> None:
    device, engine, on_cpu = both
    phantom = Phantom(seed=11, shape_px=250, frames=4, dose_e_nm2=310_000)
    pixel_size_nm = phantom.truth.pixel_size_nm / finer
    frames = [phantom.render(i).repeat(finer, 0).repeat(finer, 1) for i in range(4)]
    bad = np.zeros(frames[0].shape, bool)
    bad[100:103] = True
    finder = DeviceFinder(
        engine, device, frames[0].shape, frames[0].dtype, pixel_size_nm, 0.4, bad, 3, pictures=True
    )
    cpu = ColumnFinder(on_cpu, frames[0].shape, pixel_size_nm, 0.4)
    wanted, images, maps = [], [], []
    for frame in frames:
        columns, image = cpu.find(frame, bad)
        wanted.append(columns)
        images.append(image.copy())
        maps.append(cpu.background.copy())
    finder.start([payload(f) for f in frames[:3]])
    finder.start([payload(frames[3])])
    for got, one, image, seen in zip(finder.fetch() + finder.fetch(), wanted, images, maps, strict=True):
        same(got, one)
        assert got is not None
        np.testing.assert_allclose(got.image, image, atol=2e-2)
        assert np.abs(got.background - seen).mean() < 5e-3
        assert set(got.stage_ms) == set(STAGES) - ({"resample"} if finer == 1 else set())
    finder.start([payload(frames[1], "none"), payload(frames[0], "lz4")])
    for got, one in zip(finder.fetch(), (wanted[1], wanted[0]), strict=True):
        same(got, one)


def half_precision_on_the_cpu() -> Engine:
    """What a card computes in fp16, node by node as it is written."""
    import onnxruntime

    manifest, network, _ = read_engine(NAME)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(in_precision(network, manifest, "fp16"), options)
    return Engine(manifest, "onnxruntime", lambda batch: np.asarray(session.run(None, {"input": batch})[0]))


@pytest.mark.parametrize("where", ["host", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dose_e_nm2", [31_000, 310_000])
def test_half_precision_agrees_with_the_cpus(
    where: str, dose_e_nm2: float, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual one on a card: F1 within 0.002, positions within 0.05 px."""
    phantom = Phantom(seed=2, shape_px=320, frames=1, dose_e_nm2=dose_e_nm2)
    counts, pixel_size_nm = phantom.render(0), phantom.truth.pixel_size_nm
    with open_engine(NAME, threads=1) as engine:
        wanted, _ = ColumnFinder(engine, counts.shape, pixel_size_nm).find(counts)
    if where == "host":
        device, half = HostDevice(), half_precision_on_the_cpu()
    elif find_gpu() is None:
        pytest.skip("there is no GPU")
    else:
        small_plans(monkeypatch, tmp_path_factory)
        device, half = Device(0), open_engine(NAME, device=0)
        assert half.precision == "fp16"
    with half:
        finder = DeviceFinder(half, device, counts.shape, counts.dtype, pixel_size_nm)
        finder.start([payload(counts)])
        (found,) = finder.fetch()
    assert found is not None
    got = compare(found.columns, wanted, half.manifest.min_distance_nm / pixel_size_nm)
    assert got["columns"] > 100
    assert got["f1"] >= AGREE_F1
    assert got["apart_p99_px"] <= AGREE_PX


def test_frames_leave_no_memory_behind(
    both: tuple[Any, Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, engine, _ = both
    counts = Phantom(seed=3, shape_px=128, frames=1).render(0)
    frames = [payload(counts), payload(counts, "none")]
    finder = DeviceFinder(engine, device, counts.shape, counts.dtype, 0.02, most=2, pictures=True)

    def run(batches: int) -> None:
        for i in range(batches):
            finder.start(frames[: 1 + i % 2])
            assert None not in finder.fetch()

    if isinstance(device, HostDevice):
        run(3)
        monkeypatch.setattr(device, "empty", None)  # whoever asks for more now fails
        run(3)
        return
    run(1000)
    before = device.used_bytes()
    run(10_000)
    assert device.used_bytes() - before <= 1 << 20


def test_a_broken_payload_costs_itself_alone(both: tuple[Any, Engine, Engine]) -> None:
    device, engine, _ = both
    phantom = Phantom(seed=3, shape_px=128, frames=1)
    good, encoding = payload(phantom.render(0))
    finder = DeviceFinder(engine, device, (128, 128), encoding.dtype, 0.02, most=4)
    inside = bytearray(good)
    inside[16:40] = b"\xff" * 24  # the first block's first token: literals without end
    with pytest.raises(WireError):
        decode(bytes(inside), encoding)
    finder.start([(good, encoding), (good[:-9], encoding), (bytes(inside), encoding), (good, encoding)])
    first, short, junk, last = finder.fetch()
    assert short is None
    assert junk is None
    assert first is not None
    assert last is not None
    np.testing.assert_array_equal(first.columns.yx_px, last.columns.yx_px)
    assert first.image is None, "pictures travel only where they are asked for"


def test_what_cannot_be_started_or_fetched_is_refused(both: tuple[Any, Engine, Engine]) -> None:
    device, engine, _ = both
    frame = payload(np.full((64, 64), 9, np.uint16))
    finder = DeviceFinder(engine, device, (64, 64), np.dtype("u2"), 0.02)
    with pytest.raises(ValueError, match="no batch is under way"):
        finder.fetch()
    for wrong in ([], [frame, frame]):
        with pytest.raises(ValueError, match="cannot start a batch"):
            finder.start(wrong)
    with pytest.raises(ValueError, match="another frame"):
        finder.start([payload(np.zeros((64, 65), np.uint16))])
    finder.start([frame])
    finder.start([frame])
    with pytest.raises(ValueError, match="with 2 under way"):
        finder.start([frame])
    for _ in range(2):
        (found,) = finder.fetch()
        assert found is not None
        assert len(found.columns) == 0
    with pytest.raises(ValueError, match="threshold"):
        DeviceFinder(engine, device, (64, 64), np.dtype("u2"), 0.02, threshold=2.0)
