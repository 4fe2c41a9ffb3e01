"""TensorRT plans, built for real by tensorrt-rtx, which needs no GPU; and the networks they are built from."""

from __future__ import annotations

import gc
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from engines import build
from engines.build import build_plan, profiles, read_plan
from engines.files import MODELS, list_engines, read_engine, read_golden
from engines.manifest import EngineMismatch, Manifest
from engines.precision import _as_half, in_precision, possible_precision, tolerance
from stream.cli import app
from stream.cli_engines import _shapes_yx
from tests.helpers.needs import lacking
from tests.helpers.tiny_engine import make_tiny_engine

PRECISIONS = {"fp32": ("fp32", "fp16", "bf16", "fp8"), "int8": ("int8",)}
USUAL = ("fp16", "int8")
WAYS = [
    # an accurate size is the fast one eight times over: in the precisions it is for, and in the others if asked
    pytest.param(name, precision, marks=[pytest.mark.slow] * ("accurate" in name and precision not in USUAL))
    for name in list_engines()
    for precision in PRECISIONS[Manifest.load(MODELS / f"{name}.toml").precision]
]


@pytest.fixture
def rtx() -> None:
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        lacking("tensorrt-rtx")


def maps(network: bytes, images: np.ndarray) -> np.ndarray:
    """By ONNX Runtime, as written: its fused int8 kernels clip signed activations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(network, options).run(None, {"input": images})[0])


@pytest.mark.parametrize(("name", "precision"), WAYS)
def test_in_every_precision_it_is_the_same_network(name: str, precision: str) -> None:
    manifest, network, path = read_engine(name)
    example, expected = read_golden(path, manifest)
    rewritten = in_precision(network, manifest, precision, example)
    assert (rewritten == network) == (precision == "fp32")
    if precision == "bf16":  # no CPU program here has convolutions in it: its weights, in what all have
        rewritten = in_fp32_again(rewritten)
    got = maps(rewritten, example)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= tolerance(manifest, precision)


def in_fp32_again(network: bytes) -> bytes:
    """A bf16 network with its weights as they are, but computed in fp32."""
    model = onnx.load_model_from_string(network)
    bf16, fp32 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    kinds = {t.data_type for t in model.graph.initializer}
    assert bf16 in kinds
    constants = [a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute]
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type == bf16:
            values = (np.frombuffer(tensor.raw_data, "<u2").astype("<u4") << 16).view("<f4")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.reshape(tensor.dims), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == bf16:
                attribute.i = fp32
    return model.SerializeToString()


def test_bf16_is_rounded_to_the_nearest() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, 1e-30, 1e38, 65504.0], np.float32)
    tensor = _as_half(values, "w", onnx.TensorProto.BFLOAT16, "tiny")
    got = (np.frombuffer(tensor.raw_data, "<u2").astype("<u4") << 16).view("<f4")
    np.testing.assert_array_equal(got[:3], np.array([1.0, 1.0, 1.015625], np.float32))  # ties to even
    np.testing.assert_allclose(got, values, rtol=2**-8)


def test_fp8_is_in_all_convolutions_but_the_first_and_the_last_and_needs_an_example() -> None:
    manifest, network, path = read_engine("au-on-oxide-hrtem-fp32")
    example, _ = read_golden(path, manifest)
    graph = onnx.load_model_from_string(in_precision(network, manifest, "fp8", example)).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    sources = [
        [made.get(name) for name in node.input[:2]] for node in graph.node if node.op_type.startswith("Conv")
    ]
    assert sources[1:-1] == [["DequantizeLinear"] * 2] * (len(sources) - 2)
    assert "DequantizeLinear" not in (*sources[0], *sources[-1])
    with pytest.raises(ValueError, match="fp8 takes its scales from an example"):
        in_precision(network, manifest, "fp8")


def test_no_unsigned_quantization_is_left() -> None:
    """TensorRT takes 0..255 for -128..127 and says nothing that stops anyone."""
    manifest, network, _ = read_engine("au-on-oxide-hrtem")
    kinds = {t.data_type for t in onnx.load_model_from_string(network).graph.initializer}
    assert onnx.TensorProto.UINT8 in kinds
    graph = onnx.load_model_from_string(in_precision(network, manifest, "int8")).graph
    assert onnx.TensorProto.UINT8 not in {t.data_type for t in graph.initializer}
    assert onnx.TensorProto.FLOAT not in {t.data_type for t in graph.initializer}


def test_asymmetric_quantization_is_refused() -> None:
    manifest, network, _ = read_engine("au-on-oxide-hrtem")
    model = onnx.load_model_from_string(network)
    zero = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT8)
    zero.CopyFrom(onnx.numpy_helper.from_array(np.array(7, np.uint8), zero.name))
    with pytest.raises(EngineMismatch, match=r"layer \S+ is not quantized around zero"):
        in_precision(model.SerializeToString(), manifest, "int8")


def test_weights_beyond_half_precision_are_refused() -> None:
    manifest, network, _ = read_engine("au-on-oxide-hrtem-fp32")
    model = onnx.load_model_from_string(network)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = 1e5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(EngineMismatch, match=f"weights {weight.name} do not fit"):
        in_precision(model.SerializeToString(), manifest, "fp16")


def test_what_an_engine_can_become() -> None:
    fp32, int8 = (
        Manifest.load(MODELS / f"{n}.toml") for n in ("au-on-oxide-hrtem-fp32", "au-on-oxide-hrtem")
    )
    assert possible_precision(fp32, None) == "fp16"
    assert possible_precision(fp32, "fp32") == "fp32"
    assert possible_precision(int8, None) == "int8"
    with pytest.raises(EngineMismatch, match="expected int8 from its int8 file, got fp16"):
        possible_precision(int8, "fp16")
    with pytest.raises(EngineMismatch, match="is not ONNX"):
        in_precision(b"this is no network", fp32, "fp16")


def test_profiles_hold_every_shape_the_camera_can_send(tmp_path: Path) -> None:
    manifest = Manifest.load(make_tiny_engine(tmp_path))
    found = profiles(manifest, [(512, 512), (1001, 2000), (512, 512), (8192, 4096)])
    assert found[0] == ((1, 1, 512, 512), (16, 1, 512, 512), (16, 1, 512, 512))
    assert found[1] == ((1, 1, 1008, 2000), (2, 1, 1008, 2000), (2, 1, 1008, 2000))
    assert found[2] == ((1, 1, 8192, 4096),) * 3
    assert found[3:] == [
        ((1, 1, 8, 8), (16, 1, 384, 384), (16, 1, 768, 768)),
        ((1, 1, 8, 8), (4, 1, 768, 768), (4, 1, 1536, 1536)),
        ((1, 1, 8, 8), (1, 1, 3072, 3072), (1, 1, 8192, 8192)),
    ]
    with pytest.raises(EngineMismatch, match="impossible image"):
        profiles(manifest, [(0, 512)])


@pytest.mark.trt
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(("name", "precision"), WAYS)
def test_every_shipped_engine_is_built(name: str, precision: str, tmp_path: Path) -> None:
    manifest, network, where = read_engine(name)
    said: list[str] = []
    path, facts = build_plan(
        manifest, network, tmp_path / "plans", example=read_golden(where, manifest)[0], precision=precision,
        shapes_yx=[(256, 256), (300, 512)],
        flavour="tensorrt-rtx", say=said.append,
    )  # fmt: skip
    plan = read_plan(path)
    assert len(plan) > 100_000
    assert facts.precision == precision
    assert facts.library == "tensorrt-rtx"
    assert "there is none yet" in said[0]


@pytest.mark.trt
@pytest.mark.usefixtures("rtx")
def test_a_plan_is_kept_until_something_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, network, _ = read_engine(make_tiny_engine(tmp_path))
    said: list[str] = []

    def again(manifest: Manifest = manifest, **more: object) -> str:
        said.clear()
        build_plan(manifest, network, tmp_path, flavour="tensorrt-rtx", say=said.append, **more)  # type: ignore
        return said[0] if said else "kept"

    assert "there is none yet" in again(shapes_yx=[(64, 64)])
    assert again(shapes_yx=[(64, 64)]) == "kept"
    assert again() == "kept"  # whoever names no shapes takes the plan that is there
    assert "shapes_yx was [[64, 64]], is [[64, 128]]" in again(shapes_yx=[(64, 128)])
    assert "fp32.tensorrt-rtx" in again(precision="fp32")
    assert again() == "kept"
    other = manifest.model_copy(update={"sha256": "0" * 64})
    assert f"sha256 was {manifest.sha256}, is {'0' * 64}" in again(other)
    again()
    _, library = build.load_library("tensorrt-rtx")
    with monkeypatch.context() as patched:
        patched.setattr(library, "__version__", "0.9")
        assert "version was" in again()
    again()
    with monkeypatch.context() as patched:
        patched.setattr(build, "CODE", ("build.py",))
        assert "code was" in again()
    again()
    monkeypatch.setattr(build, "find_gpu", lambda index=0: build.Gpu("GeForce RTX 2080", (7, 5)))
    assert "there is none yet" in again()  # Turing's own plan, beside the other
    assert len(list(tmp_path.glob("*.fp16.*.plan"))) == 2


@pytest.mark.trt
@pytest.mark.usefixtures("rtx")
def test_a_plan_that_was_meddled_with_is_not_loaded(tmp_path: Path) -> None:
    manifest, network, _ = read_engine(make_tiny_engine(tmp_path))
    path, _ = build_plan(manifest, network, tmp_path, flavour="tensorrt-rtx", shapes_yx=[(64, 64)])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineMismatch, match="was changed after it was built"):
        read_plan(path)
    path.with_suffix(".json").write_text("{", encoding="utf-8")
    said: list[str] = []
    build_plan(manifest, network, tmp_path, flavour="tensorrt-rtx", shapes_yx=[(64, 64)], say=said.append)
    assert "there is none yet" in said[0]
    assert read_plan(path)


@pytest.mark.trt
@pytest.mark.usefixtures("rtx")
def test_a_broken_graph_is_refused_with_the_layers_name(tmp_path: Path) -> None:
    manifest, network, _ = read_engine("au-on-oxide-hrtem-fp32")

    def refused(model: onnx.ModelProto | bytes, precision: str = "fp32") -> str:
        content = model if isinstance(model, bytes) else model.SerializeToString()
        changed = manifest.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
        with pytest.raises(EngineMismatch) as error:
            build_plan(
                changed, content, tmp_path, precision=precision, shapes_yx=[(64, 64)], flavour="tensorrt-rtx"
            )  # type: ignore[arg-type]
        assert not list(tmp_path.glob("*.plan"))
        return str(error.value)

    narrow = onnx.load_model_from_string(network)
    second = next(n for n in narrow.graph.node if n.name == "/network/down.0/down.0.3/Conv")
    weight = next(t for t in narrow.graph.initializer if t.name == second.input[1])
    values = np.ascontiguousarray(onnx.numpy_helper.to_array(weight)[:, :5])
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    assert "layer /network/down.0/down.0.3/Conv (Conv)" in refused(narrow)
    strange = onnx.load_model_from_string(network)
    strange.graph.node[10].op_type = "NoSuchOp"
    assert f"layer {strange.graph.node[10].name} (NoSuchOp)" in refused(strange)
    renamed = onnx.load_model_from_string(network)
    renamed.graph.node[-1].output[0] = renamed.graph.output[0].name = "maps"
    assert "expected input and output named" in refused(renamed)
    assert "holds no network" in refused(b"this is no network")


@pytest.mark.trt
@pytest.mark.usefixtures("rtx")
def test_garbage_of_a_failed_build_does_not_stop_the_next(tmp_path: Path) -> None:
    """An old builder, collected while TensorRT logs, would wait for ever: here every allocation collects."""
    manifest, network, _ = read_engine(make_tiny_engine(tmp_path))
    broken = b"this is no network"
    changed = manifest.model_copy(update={"sha256": hashlib.sha256(broken).hexdigest()})
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(3):
            with pytest.raises(EngineMismatch):
                build_plan(changed, broken, tmp_path, shapes_yx=[(64, 64)], flavour="tensorrt-rtx")
            build_plan(manifest, network, tmp_path / "plans", shapes_yx=[(64, 64)], flavour="tensorrt-rtx")
    finally:
        gc.set_threshold(*thresholds)
    assert gc.isenabled()


@pytest.mark.trt
@pytest.mark.usefixtures("rtx")
def test_the_command_builds_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.PLANS, str(tmp_path / "plans"))
    engine = make_tiny_engine(tmp_path)
    arguments = ["build-engine", str(engine), "--flavour", "tensorrt-rtx", "--shapes", "64,64x128", "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    facts = json.loads(result.stdout)
    assert Path(facts["plan"]).parent == tmp_path / "plans"
    assert facts["shapes_yx"] == [[64, 64], [64, 128]]
    assert facts["precision"] == "fp16"


def test_a_missing_library_or_card_is_an_error_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    manifest, network, _ = read_engine(make_tiny_engine(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineMismatch, match=r"tensorrt-rtx does not import.*hopscope\[gpu\]"):
        build_plan(manifest, network, tmp_path, flavour="tensorrt-rtx")
    with pytest.raises(EngineMismatch, match=r"tensorrt builds on the GPU.*needs none"):
        build._gpu_of_plan("tensorrt", None)
    assert build._gpu_of_plan("tensorrt", build.Gpu("NVIDIA H200", (9, 0))) == "NVIDIA H200 (sm_90)"


def test_shapes_are_read_as_typed() -> None:
    from typer import BadParameter

    assert _shapes_yx(None) is None
    assert _shapes_yx("512, 2048X4096") == [(512, 512), (2048, 4096)]
    for bad in ("", "0", "12x", "1x2x3", "a", "-5"):
        with pytest.raises(BadParameter):
            _shapes_yx(bad)
