# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""A shipped engine, trained further."""

import csv
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

import training.train as training_run
from tests.helpers.tiny_recipe import write_recipe
from training.checkpoint import Checkpoint, TrainingError
from training.networks import build_network
from training.shipped import begin_with, weights_of

MODELS = Path("engines/models").resolve()


@pytest.mark.parametrize(
    ("engine", "network", "classes"),
    [
        ("au-on-oxide-hrtem", "slim16_refined_s2", 1),
        ("graphene-hrtem", "slim16_refined_s2", 1),
        ("columns-stem", "slim16_refined_s2", 1),
        ("tmd-stem", "slim16_s2", 4),
    ],
)
def test_a_network_given_an_engines_weights_is_that_engine_even_while_it_is_trained(engine, network, classes):
    path = MODELS / f"{engine}-fp32.onnx"
    made = build_network(network, classes=classes)
    golden = np.load(path.with_suffix(".npz"))
    image = torch.from_numpy(golden["input"])
    begin_with(made, weights_of(path, made), [image, image])
    assert made.training
    for trained in (False, True):  # by what norms remember, and by what they see in a batch
        made.train(trained)
        with torch.no_grad():
            said = torch.softmax(made(image), 1).numpy()
        np.testing.assert_allclose(said, golden["output"], atol=1e-4)


@pytest.mark.parametrize(
    ("network", "new"),
    [("slim16_wide_s2", {"wide"}), ("slim16_refined_s2", {"wide", "refine.0", "refine.1", "refine.2"})],
)
def test_blocks_that_the_engine_lacks_change_next_to_nothing_at_first_and_learn_all_the_same(network, new):
    path = MODELS / "tmd-stem-fp32.onnx"
    made = build_network(network, classes=4)
    golden = np.load(path.with_suffix(".npz"))
    image = torch.from_numpy(golden["input"])
    weights = weights_of(path, made)
    assert set(made.additions) == new
    begin_with(made, weights, [image, image])
    logits = made(image)
    assert np.abs(torch.softmax(logits, 1).detach().numpy() - golden["output"]).max() < 0.1
    logits.square().mean().backward()
    for (
        name,
        block,
    ) in made.additions.items():  # a block that gives zeros only would get no gradient, for ever
        for key, parameter in block.named_parameters():
            assert np.any(parameter.grad.numpy()), f"{name}.{key}"


def test_a_block_that_does_nothing_in_an_engine_begins_anew(tmp_path):
    model = onnx.load(MODELS / "au-on-oxide-hrtem-fp32.onnx")
    (last,) = [node for node in model.graph.node if "/wide.1.0/Conv" in node.name]
    for tensor in model.graph.initializer:
        if tensor.name in last.input:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    onnx.save(model, tmp_path / "idle.onnx")
    made = build_network("slim16_refined_s2")
    weights = weights_of(tmp_path / "idle.onnx", made)
    assert {name.split(".")[0] for name in weights} == {"down", "deep", "up", "join", "refine", "head"}
    begin_with(made, weights, [torch.zeros(1, 1, 64, 64)])
    assert made.additions["wide"][-1][1].weight.any()


@pytest.mark.parametrize("path", sorted(MODELS.glob("*-fp32.onnx")), ids=lambda path: path.stem)
def test_no_convolution_of_a_shipped_engine_is_idle(path):
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            assert np.abs(values).max() > 1e-4, tensor.name


def test_a_training_that_begins_with_an_engine_goes_on_from_it_and_says_so(cache, tmp_path):
    recipe = write_recipe(tmp_path, more='network = "slim16_refined_s2"')
    engine = MODELS / "graphene-hrtem-fp32.onnx"
    path = training_run.train(
        recipe, tmp_path / "further", cache=cache, start_from=engine, device="cpu", threads=1, workers=0
    )
    further = Checkpoint.load(path)
    assert further.begun_with[-1].startswith("graphene-hrtem, engine graphene-hrtem-fp32, commit ")
    begun = build_network("slim16_refined_s2")
    held = weights_of(engine, begun)
    weight, _ = held["down.3.3"]
    moved = (further.network["down.3.3.weight"] - weight).abs().mean() / weight.abs().mean()
    fresh = (begun.get_submodule("down.3.3").weight - weight).abs().mean() / weight.abs().mean()
    assert 0 < moved < 0.5 * fresh
    first, *_ = csv.DictReader((tmp_path / "further/curve.csv").open())
    assert np.isfinite(float(first["loss"]))


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("tmd-stem-fp32", r"expected weights \(2, 16, 1, 1\) of layer head, got \(5, 16, 1, 1\)"),
        ("au-on-oxide-hrtem-fp32", "of layer refine"),
        ("graphene-hrtem-accurate-fp32", "not an accurate one"),
        ("graphene-hrtem", "ends in -fp32"),
        ("nothing", "is not an ONNX file that can be read"),
    ],
)
def test_another_network_is_refused_before_anything_is_simulated(engine, says, tmp_path):
    with pytest.raises(TrainingError, match=says):
        training_run.train(
            write_recipe(tmp_path),
            tmp_path / "out",
            cache=tmp_path / "cache",
            start_from=MODELS / f"{engine}.onnx",
            device="cpu",
        )
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()
