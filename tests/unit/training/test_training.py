# ruff: noqa: E402  (what needs torch is imported after asking for it)
import csv
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

import training.train as training_run
from stream.cli import main
from stream.normalize import normalize_exact
from training.baseline import tuned_log
from training.dataset import TrainingImages, Truth, draw_scene, photograph, training_waves, validation_waves
from training.evaluate import Score, judge, match
from training.imaging import atom_contrast, generator_for
from training.labels import column_map
from training.losses import mean_squared_error, soft_cross_entropy
from training.networks import build_network
from training.recipe import RecipeError, load_recipe
from training.train import Checkpoint, TrainingError, train

SHIPPED = Path(training_run.__file__).parent / "recipes"
RECIPE = """
name = "tiny"
[engine]
description = "for tests"
[specimen]
side_px = 96
diameter_angstrom = [13.0, 14.0]
empty_fraction = 0.0
sampling_angstrom_px = [0.2, 0.2]
support_fraction = 0.0
[validation_specimen]
side_px = 96
diameter_angstrom = [12.0, 13.0]
empty_fraction = 0.0
sampling_angstrom_px = [0.2, 0.2]
support_fraction = 0.0
[data]
training = 3
validation = 2
crop_px = 64
batch = 2
[train]
steps = {steps}
validate_every = 100
checkpoint_every = 2
bf16 = false
peak_rate = {rate}
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Exit waves for the tiny recipe, made once."""
    folder = tmp_path_factory.mktemp("cache")
    recipe = load_recipe(write_recipe(folder))
    training_waves(recipe, folder, workers=1)
    validation_waves(recipe, folder, workers=1)
    return folder


def write_recipe(folder: Path, steps: int = 4, rate: str = "2e-3") -> Path:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(steps=steps, rate=rate), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_can_be_followed(path):
    assert load_recipe(path).name


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[train]\nstepz = 3", "unknown key 'train.stepz', the nearest known is 'steps'"),
        ("[trian]\nsteps = 3", "unknown key 'trian', the nearest known is 'train'"),
        ("[train]\nsteps = 0", "train.steps"),
        ("[imaging]\ncs_um = [20.0, -20.0]", "cs_um is a range from 20.0 down to -20.0"),
        ("[imaging]\ndose_e_angstrom2 = [0.0, 10.0]", "dose_e_angstrom2 must be positive"),
        ("[data]\ncrop_px = 512", "exceeds specimen.side_px 320"),
        ("[train", "is not TOML"),
    ],
)
def test_an_impossible_recipe_is_refused_by_name(tmp_path, line, complaint):
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "x"\n[engine]\ndescription = "x"\n{line}\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.toml") as error:
        load_recipe(path)
    assert complaint in str(error.value)


def test_labels_peak_on_the_columns_at_any_stride():
    yx = np.array([[20.5, 30.5], [41.0, 12.3]])
    full = column_map(yx, (64, 64), 2.5)
    half = column_map(yx, (32, 32), 2.5, stride=2)
    # map pixel (i, j) of stride 2 lies between image pixels 2i and 2i + 1
    assert half[10, 15] == pytest.approx(1.0)
    assert full[41, 12] == pytest.approx(math.exp(-(0.3**2) / (2 * 2.5**2)), rel=1e-5)
    assert full.sum() == pytest.approx(2 * 2 * math.pi * 2.5**2, rel=1e-3)
    assert column_map(np.zeros((0, 2)), (8, 8), 2.5).max() == 0
    assert column_map(np.array([[4.0, 4.0], [4.0, 4.0]]), (8, 8), 2.5).max() == 1


def test_images_are_normalized_as_in_use_and_labels_lie_on_columns(cache):
    recipe = load_recipe(cache / "recipe.toml")
    waves = validation_waves(recipe, cache)
    scene = draw_scene(waves, recipe, [1])
    images = photograph(scene, recipe, [2], dose_e_angstrom2=1e6)[:, 0].numpy()
    image = images[0]
    # normalizing what is normalized changes next to nothing: this is the stream's normalization
    again = normalize_exact(image, recipe.data.normalize_sigma_nm / recipe.engine.nominal_nm_px)
    assert np.abs(again - image).mean() < 0.1
    for image, truth in zip(images, scene.truths, strict=True):
        assert len(truth.yx_px) > 10
        assert tuned_log(image, truth).f1 > 0.8  # moved together, image and truth
    contrast = atom_contrast(scene.intensity, torch.full((2,), 0.2)).numpy()
    for shown, truth in zip(contrast, scene.truths, strict=True):
        y, x = np.rint(truth.yx_px[truth.atoms >= 2]).astype(int).T % 96
        bright = np.mean(shown[y, x] > 0)
        assert max(bright, 1 - bright) >= 0.9  # usable: the columns show one sign


def test_a_step_is_the_same_whoever_makes_it(cache):
    recipe = load_recipe(cache / "recipe.toml")
    a, b = TrainingImages(recipe, cache, 2), TrainingImages(recipe, cache, 2)
    b[0]
    for x, y in zip(a[3], b[3], strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(a[2][0], a[3][0])


@pytest.mark.parametrize("name", ["slim16_s2", "slim32_s2", "fn16_s2", "fusionnet32"])
def test_networks_keep_their_promised_shapes(name):
    network = build_network(name).eval()
    n = network.multiple_of
    with torch.inference_mode():
        maps = network(torch.zeros(1, 1, 2 * n, 3 * n))
    assert maps.shape == (1, 2, 2 * n // network.stride, 3 * n // network.stride)


def test_losses_are_least_at_the_label():
    label = torch.rand(1, 1, 4, 4, generator=generator_for(0))
    logit = torch.log(label / (1 - label))
    right = torch.cat([torch.zeros_like(logit), logit], 1)
    for loss in (soft_cross_entropy, mean_squared_error):
        best = loss(right, label)
        for change in (-0.3, 0.3):
            assert loss(torch.cat([torch.zeros_like(logit), logit + change], 1), label) > best
    assert float(mean_squared_error(right, label)) == pytest.approx(0, abs=1e-9)


def test_matching_is_one_to_one_and_single_atoms_do_not_count():
    i, j = match(np.array([[0.0, 0], [0, 0.4], [9, 9]]), np.array([[0.0, 0.1], [5, 5]]), 1.0)
    assert (i.tolist(), j.tolist()) == ([0], [0])
    truth = Truth(np.array([[0.0, 0], [0, 10], [10, 0], [10, 10]]), np.array([3, 3, 1, 1]), 0.02, "")
    score = judge(np.array([[0.0, 1], [10, 0], [5, 5], [30, 30]]), truth)
    assert (score.found, score.missed, score.false) == (1, 1, 2)
    assert score.rms_pm == pytest.approx(20.0)
    both = score + Score(found=1, missed=1)
    assert both.f1 == pytest.approx(4 / (4 + 2 + 2))


def test_interrupted_and_resumed_is_the_same_to_the_bit(cache, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path)
    whole = Checkpoint.load(train(recipe, tmp_path / "whole", cache=cache, threads=1, workers=0))

    descend = training_run._descend
    calls = []

    def cut_short(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return descend(*args)

    monkeypatch.setattr(training_run, "_descend", cut_short)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", cache=cache, threads=1, workers=0)
    monkeypatch.undo()
    assert Checkpoint.load(tmp_path / "cut/checkpoint.pt").step == 2
    resumed = Checkpoint.load(train(recipe, tmp_path / "cut", cache=cache, resume=True, threads=1, workers=0))
    assert resumed.step == whole.step == 4
    for name, weights in whole.network.items():
        assert torch.equal(weights, resumed.network[name]), name

    with pytest.raises(TrainingError, match="already holds a training"):
        train(recipe, tmp_path / "cut", cache=cache, workers=0)
    other = write_recipe(tmp_path, rate="1e-3")
    with pytest.raises(TrainingError, match="another recipe"):
        train(other, tmp_path / "cut", cache=cache, resume=True, workers=0)


def test_a_loss_that_is_no_number_stops_at_once_and_spoils_nothing(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(training_run._LOSSES, "cross-entropy", lambda logits, labels: logits.sum() * math.nan)
    with pytest.raises(TrainingError, match="the loss is nan at step 1"):
        train(write_recipe(tmp_path), tmp_path / "out", cache=cache, workers=0)
    assert not (tmp_path / "out/checkpoint.pt").exists()


def test_checkpoints_that_are_none_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="not a checkpoint"):
        Checkpoint.load(path)
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(write_recipe(tmp_path), tmp_path / "empty", resume=True, workers=0)


def test_the_curves_are_written(cache, tmp_path):
    train(write_recipe(tmp_path), tmp_path / "out", cache=cache, threads=1, workers=0)
    curve = list(csv.DictReader((tmp_path / "out/curve.csv").open()))
    assert int(curve[-1]["step"]) == 4
    validation = list(csv.DictReader((tmp_path / "out/validation.csv").open()))
    assert 0 <= float(validation[-1]["f1_310_e_angstrom2"]) <= 1


def test_the_command_refuses_a_recipe_it_cannot_follow(tmp_path, capsys, monkeypatch):
    (tmp_path / "r.toml").write_text('name = "x"\n[train]\nsteps = 0\n')
    monkeypatch.setattr(
        "sys.argv", ["hopscope", "train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "o")]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert "train.steps" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
