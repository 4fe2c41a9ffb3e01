# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""A shipped engine, trained further."""

import csv
from pathlib import Path

import numpy as np
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
        ("au-on-oxide-hrtem", "slim16_wide_s2", 1),
        ("graphene-hrtem", "slim16_s2", 1),
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


def test_a_training_that_begins_with_an_engine_goes_on_from_it_and_says_so(cache, tmp_path):
    recipe = write_recipe(tmp_path)
    engine = MODELS / "graphene-hrtem-fp32.onnx"
    path = training_run.train(
        recipe, tmp_path / "further", cache=cache, start_from=engine, device="cpu", threads=1, workers=0
    )
    further = Checkpoint.load(path)
    assert further.begun_with[-1].startswith("graphene-hrtem, engine graphene-hrtem-fp32, commit ")
    begun = build_network("slim16_s2")
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
        ("au-on-oxide-hrtem-fp32", "of layer wide"),
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
