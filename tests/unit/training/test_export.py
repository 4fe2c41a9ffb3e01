# ruff: noqa: E402  (what needs torch is imported after asking for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nncf")

from training.export import Probabilities, onnxruntime_maps, openvino_maps, quantize, to_onnx
from training.networks import EveryWay, build_network


@pytest.fixture(scope="module", params=["fast", "accurate"])
def network(request):
    torch.manual_seed(0)
    network = build_network("slim16_s2")
    for _ in range(3):  # batch norms that have seen something
        network(torch.randn(2, 1, 64, 64))
    return EveryWay(network).eval() if request.param == "accurate" else network.eval()


def test_asked_in_every_orientation_it_finds_the_same_however_the_picture_lies(network):
    images = torch.randn(2, 1, 64, 96)
    turned = [
        lambda x: x.flip(2),
        lambda x: x.flip(3),
        lambda x: x.transpose(2, 3),
        lambda x: x.rot90(1, (2, 3)),
    ]
    with torch.inference_mode():
        apart = [(network(turn(images)) - turn(network(images))).abs().max() for turn in turned]
    assert (max(apart) < 1e-4) == isinstance(network, EveryWay)


@pytest.mark.parametrize("shape", [(1, 1, 64, 96), (3, 1, 128, 48)])
def test_onnx_says_what_torch_says_at_any_size(network, tmp_path, shape):
    to_onnx(Probabilities(network), tmp_path / "n.onnx", network.multiple_of)
    images = np.random.default_rng(0).normal(size=shape).astype("f4")
    with torch.inference_mode():
        expected = torch.softmax(network(torch.from_numpy(images)), 1).numpy()
    for maps in (onnxruntime_maps, openvino_maps):
        assert np.abs(maps(tmp_path / "n.onnx")(images) - expected).max() < 1e-5


def test_a_threshold_moves_to_one_half(tmp_path):
    torch.manual_seed(1)
    network = build_network("slim16_s2").eval()
    images = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        before = torch.softmax(network(images), 1)[:, 1]
        threshold = float(before.median())
        after = Probabilities(network, threshold)(images)[:, 1]
    assert torch.equal(before > threshold + 1e-5, after > 0.5 + 1e-5)


@pytest.mark.parametrize(
    "network", ["fast"], indirect=True
)  # the other takes a minute; the shipped ones are tested
def test_int8_runs_in_both_runtimes_and_stays_close(network, tmp_path):
    to_onnx(Probabilities(network), tmp_path / "n.onnx", network.multiple_of)
    images = np.random.default_rng(0).normal(size=(8, 1, 64, 64)).astype("f4")
    quantize(tmp_path / "n.onnx", tmp_path / "q.onnx", images)
    exact = onnxruntime_maps(tmp_path / "n.onnx")(images)
    for maps in (onnxruntime_maps, openvino_maps):
        difference = maps(tmp_path / "q.onnx")(images) - exact
        assert 0 < np.sqrt((difference**2).mean()) < 0.03
    assert (tmp_path / "q.onnx").stat().st_size < 0.5 * (tmp_path / "n.onnx").stat().st_size
