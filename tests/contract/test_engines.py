"""What every engine promises, on every backend: the shipped ones, and a tiny one whose maps numpy can compute."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engines.build import find_gpu
from engines.files import MODELS, list_engines
from engines.manifest import EngineMismatch, Manifest
from engines.precision import tolerance
from engines.runtime import BACKENDS, GPU_BACKENDS, Backend, Engine, open_engine
from tests.helpers.plans import small_plans
from tests.helpers.tiny_engine import make_tiny_engine, tiny_maps

ROOT = Path(__file__).parents[2]
# of the accurate sizes, which take eight times as long, the default's; the others if asked
SELDOM = [name for name in list_engines() if "accurate" in name and not name.startswith("au-on-oxide")]
ENGINES = [
    "tiny",
    *(pytest.param(name, marks=[pytest.mark.slow] * (name in SELDOM)) for name in list_engines()),
]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_engine(tmp_path)


@pytest.fixture(params=ENGINES)
def engine_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_tiny_engine(tmp_path) if request.param == "tiny" else MODELS / f"{request.param}.toml"


MODULES = {"tensorrt": ("tensorrt", "tensorrt_rtx"), "onnxruntime-cuda": ("onnxruntime",)}


@pytest.fixture(params=[*BACKENDS, *(pytest.param(name, marks=pytest.mark.gpu) for name in GPU_BACKENDS)])
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Backend:
    if request.param in GPU_BACKENDS and find_gpu() is None:
        pytest.skip("there is no GPU")
    if not any(importlib.util.find_spec(name) for name in MODULES.get(request.param, (request.param,))):
        pytest.skip(f"{request.param} is not installed")
    small_plans(monkeypatch, tmp_path_factory)
    return request.param


def opened(path: Path, backend: Backend) -> Engine:
    """On the GPU if it is a GPU's backend."""
    if backend == "torch" and Manifest.load(path).precision == "int8":
        pytest.skip("torch has no int8 on a GPU")
    return open_engine(path, backend, threads=1, device=0 if backend in GPU_BACKENDS else None)


def noise(manifest: Manifest, batch: int, ny: int, nx: int, seed: int = 0) -> np.ndarray:
    shape = (batch, manifest.input_channels, ny * manifest.multiple_of, nx * manifest.multiple_of)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_it_gives_its_golden_output(engine_path: Path, backend: Backend) -> None:
    with opened(engine_path, backend) as engine:
        assert engine.backend == backend
        assert engine.manifest == Manifest.load(engine_path)
        with np.load(engine_path.with_name(engine.manifest.golden)) as golden:
            difference = np.abs(engine.run(golden["input"]) - golden["output"])
        assert difference.max() <= tolerance(engine.manifest, engine.precision)


def test_maps_are_probabilities_of_the_promised_shape(engine_path: Path, backend: Backend) -> None:
    with opened(engine_path, backend) as engine:
        manifest = engine.manifest
        for batch, ny, nx in ((1, 6, 6), (1, 9, 5), (3, 4, 7), (1, 1, 1), (2, 2, 2), (1, 6, 6)):
            images = noise(manifest, batch, ny, nx)
            maps = engine.run(images)
            side = manifest.multiple_of // manifest.stride
            assert maps.shape == (batch, len(manifest.classes), ny * side, nx * side)
            assert maps.dtype == np.float32
            assert maps.min() >= -1e-6
            np.testing.assert_allclose(maps.sum(axis=1), 1, atol=1e-3)


def test_a_batch_of_two_is_two_singles(engine_path: Path, backend: Backend) -> None:
    with opened(engine_path, backend) as engine:
        pair = noise(engine.manifest, 2, 5, 6)
        together = engine.run(pair).copy()
        for n in range(2):
            alone = engine.run(pair[n : n + 1])
            np.testing.assert_allclose(
                together[n], alone[0], atol=tolerance(engine.manifest, engine.precision)
            )
        assert np.abs(together[0] - together[1]).max() > 0


def test_an_input_is_left_as_it_is_and_may_be_read_only(engine_path: Path, backend: Backend) -> None:
    with opened(engine_path, backend) as engine:
        images = noise(engine.manifest, 1, 5, 6)
        before = images.copy()
        maps = engine.run(images).copy()
        images.flags.writeable = False
        np.testing.assert_array_equal(engine.run(images), maps)
        mirrored = np.ascontiguousarray(images[..., ::-1])[..., ::-1]
        np.testing.assert_array_equal(engine.run(mirrored), maps)
        np.testing.assert_array_equal(images, before)


def test_what_is_no_batch_is_refused_and_the_engine_lives_on(engine_path: Path, backend: Backend) -> None:
    with opened(engine_path, backend) as engine:
        images = noise(engine.manifest, 1, 4, 4)
        wrong = [
            images[0], images[..., 1:], images.astype(np.float64), images[:0],
            np.repeat(images, 2, axis=1), images[:, :, :-1],
        ]  # fmt: skip
        for batch in wrong:
            with pytest.raises(ValueError, match="cannot take this batch"):
                engine.run(batch)
        assert np.isfinite(engine.run(images)).all()


def test_closed_is_closed(engine_path: Path, backend: Backend) -> None:
    with opened(engine_path, backend) as engine:
        images = noise(engine.manifest, 1, 4, 4)
        maps = engine.run(images)
    assert np.isfinite(maps).all()
    engine.close()
    with pytest.raises(ValueError, match="is closed"):
        engine.run(images)


def test_engines_that_come_and_go_leave_signals_as_they_were(tiny: Path, backend: Backend) -> None:
    """In a process of its own: where this fails, the signal is the end of it (on processors with AMX)."""
    asked = """
import signal, sys
from engines.runtime import open_engine
engines = [open_engine(sys.argv[1], backend=sys.argv[2]) for _ in range(3)]
while engines:
    engines.pop(0).close()
came = []
signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
signal.raise_signal(signal.SIGINT)
assert came == [signal.SIGINT]
"""
    done = subprocess.run(
        [sys.executable, "-c", asked, str(tiny), backend],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_many_shapes_in_turn_stay_right(tiny: Path, backend: Backend) -> None:
    with opened(tiny, backend) as engine:
        for seed in range(3):
            for n in range(1, 8):
                images = noise(engine.manifest, 1, n, 9 - n, seed)
                atol = 1e-5 if engine.precision == "fp32" else 5e-3
                np.testing.assert_allclose(engine.run(images), tiny_maps(images), atol=atol)


def test_bound_arrays_are_written_run_and_read(engine_path: Path, backend: Backend) -> None:
    with opened(engine_path, backend) as engine:
        images = noise(engine.manifest, 2, 3, 4)
        bound = engine.bind(images.shape)
        for batch in (images, images[::-1].copy()):
            if isinstance(bound.input, np.ndarray):
                bound.input[...] = batch
            else:
                bound.input.set(batch)
            bound.enqueue()
            got = bound.output if isinstance(bound.output, np.ndarray) else bound.output.get()
            np.testing.assert_array_equal(got, engine.run(batch))
        with pytest.raises(ValueError, match="cannot take"):
            engine.bind((1, 1, 3, 3))
    with pytest.raises(ValueError, match="is closed"):
        engine.bind(images.shape)


def test_a_gpu_is_never_replaced_by_the_cpu(tiny: Path) -> None:
    if find_gpu() is not None:
        pytest.skip("there is a GPU here")
    with pytest.raises(EngineMismatch, match="does not run on GPU 0") as refused:
        open_engine(tiny, device=0)
    for name in GPU_BACKENDS:
        assert f"{name}: " in str(refused.value)
    with pytest.raises(EngineMismatch, match="backend openvino does not run on GPU 0"):
        open_engine(tiny, "openvino", device=0)
    with pytest.raises(EngineMismatch, match="backend tensorrt does not run on the CPU"):
        open_engine(tiny, "tensorrt")
    with pytest.raises(ValueError, match="runs as its file is, in fp32"):
        open_engine(tiny, precision="fp16")


def test_shipped_engines_say_what_they_are() -> None:
    for name in list_engines():
        manifest = Manifest.load(MODELS / f"{name}.toml")
        assert manifest.name == name
        assert manifest.classes[0] == "background"
        assert manifest.commit
        assert manifest.licence
        assert manifest.metrics


def test_auto_says_what_it_chose(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hopscope.engine"), open_engine(tiny) as engine:
        assert f"tiny (fp32) by {engine.backend}" in caplog.text


def test_without_openvino_auto_takes_the_other_and_says_why(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with caplog.at_level(logging.INFO, "hopscope.engine"), open_engine(tiny) as engine:
        assert engine.backend == "onnxruntime"
    warning, chosen = caplog.records
    assert warning.levelname == "WARNING"
    assert "openvino does not import" in warning.getMessage()
    assert "by onnxruntime" in chosen.getMessage()


def test_a_backend_asked_for_by_name_is_never_replaced(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineMismatch, match="pip install openvino"):
        open_engine(tiny, "openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineMismatch, match="pip install onnxruntime"):
        open_engine(tiny)


def test_a_file_that_is_not_the_manifests_is_refused(tiny: Path) -> None:
    network = tiny.with_suffix(".onnx")
    network.write_bytes(network.read_bytes() + b"\0")
    with pytest.raises(EngineMismatch, match="expected SHA-256"):
        open_engine(tiny)


def test_a_network_that_computes_something_else_is_refused(tiny: Path, backend: Backend) -> None:
    golden = tiny.with_suffix(".npz")
    with np.load(golden) as arrays:
        images, maps = arrays["input"], arrays["output"]
    np.savez(golden, input=images, output=maps[:, ::-1])
    with pytest.raises(EngineMismatch, match="computes something else"):
        opened(tiny, backend)
    np.savez(golden, input=images, output=np.full_like(maps, np.nan))
    with pytest.raises(EngineMismatch, match="computes something else"):
        opened(tiny, backend)
    np.savez(golden, input=images, output=maps[..., :-1])
    with pytest.raises(EngineMismatch, match="not what its manifest says"):
        opened(tiny, backend)


@pytest.mark.parametrize(
    "change", [{"stride": 4}, {"classes": ("background", "a", "b")}, {"input_channels": 3}]
)
def test_a_manifest_of_another_network_is_refused(tmp_path: Path, backend: Backend, change: dict) -> None:
    with pytest.raises(EngineMismatch):
        opened(make_tiny_engine(tmp_path, **change), backend)


@pytest.mark.parametrize("content", [None, b"", b"no npz", b"PK\x03\x04 no zip"])
def test_without_its_golden_output_it_is_refused(tiny: Path, content: bytes | None) -> None:
    tiny.with_suffix(".npz").unlink()
    if content is not None:
        tiny.with_suffix(".npz").write_bytes(content)
    with pytest.raises(EngineMismatch, match="cannot be checked"):
        open_engine(tiny)


def test_a_network_no_backend_can_read_is_refused(tmp_path: Path, backend: Backend) -> None:
    import hashlib

    junk = b"this is no network"
    path = make_tiny_engine(tmp_path, sha256=hashlib.sha256(junk).hexdigest())
    (tmp_path / "tiny.onnx").write_bytes(junk)
    with pytest.raises(EngineMismatch, match=f"{backend} does not take the network"):
        opened(path, backend)


def test_a_path_may_name_the_network_or_its_manifest(tiny: Path) -> None:
    for path in (tiny, tiny.with_suffix(".onnx"), str(tiny)):
        with open_engine(path, threads=1) as engine:
            assert engine.manifest.name == "tiny"


def test_an_engine_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    for name in ("no-such-engine", tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(EngineMismatch, match="no such engine") as refused:
            open_engine(name)
        assert str(name) in str(refused.value)
        assert all(shipped in str(refused.value) for shipped in list_engines())
    folder = tmp_path / "half"
    folder.mkdir()
    shutil.copy(make_tiny_engine(tmp_path), folder)
    with pytest.raises(EngineMismatch, match="is incomplete"):
        open_engine(folder / "tiny.toml")


def test_bad_arguments_are_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="unknown backend"):
        open_engine(tiny, "tensorflow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads"):
        open_engine(tiny, threads=-1)
