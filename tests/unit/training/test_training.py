# ruff: noqa: E402  (what needs torch is imported after asking for it)
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

from stream.cli import main
from stream.normalize import normalize_exact
from tests.helpers.tiny_recipe import write_recipe
from training.baseline import tuned_log
from training.dataset import TrainingImages, Truth, draw_scene, of_step, photograph, validation_waves
from training.evaluate import Score, judge, match, pair
from training.imaging import atom_contrast, generator_for
from training.labels import column_map
from training.losses import mean_squared_error, soft_cross_entropy
from training.networks import build_network
from training.recipe import RECIPES, RecipeError, load_recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
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
        ("[imaging]\nfocal_series_angstrom = []", "imaging.focal_series_angstrom: "),
        (
            "[imaging]\nfocal_series_angstrom = [60.0, 0.0]",
            "0.0 first, then others, finite and all different",
        ),
        (
            "[imaging]\nfocal_series_angstrom = [0.0, 60.0, 60.0]",
            "0.0 first, then others, finite and all different",
        ),
        ("[imaging]\nfocal_series_angstrom = [0.0, inf]", "0.0 first, then others, finite and all different"),
        (
            "[stem]\n[imaging]\nfocal_series_angstrom = [0, 60]",
            "focal_series_angstrom means nothing to [stem]",
        ),
        ("[data]\ncrop_px = 512", "exceeds specimen.side_px 320"),
        ("[gpu]\nbatches = 3", "unknown key 'gpu.batches', the nearest known is 'batch'"),
        ("[train", "is not TOML"),
    ],
)
def test_an_impossible_recipe_is_refused_by_name(tmp_path, line, complaint):
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "x"\n[engine]\ndescription = "x"\n{line}\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.toml") as error:
        load_recipe(path)
    assert complaint in str(error.value)


def test_on_a_gpu_a_recipe_is_followed_as_its_section_says(tmp_path):
    lines = ["[train]\nsteps = 700\npeak_rate = 1e-3", "[gpu]\nbatch = 32\nsteps = 100"]
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\n[engine]\ndescription = "x"\n' + "\n".join(lines), encoding="utf-8")
    recipe = load_recipe(path)
    on_cpu, on_gpu = recipe.followed_on("cpu"), recipe.followed_on("cuda")
    assert (on_cpu.data.batch, on_cpu.train.steps) == (4, 700)
    assert (on_gpu.data.batch, on_gpu.train.steps, on_gpu.train.peak_rate) == (32, 100, 1e-3)
    assert on_gpu != on_cpu  # neither resumes the other
    without = path.read_text().partition("[gpu]")[0]
    path.write_text(without, encoding="utf-8")
    assert load_recipe(path) == on_cpu  # a section for cards does not make it another recipe on a CPU


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
    contrast = atom_contrast(scene.intensity[:, 0], torch.full((2,), 0.2)).numpy()
    for shown, truth in zip(contrast, scene.truths, strict=True):
        y, x = np.rint(truth.yx_px[truth.atoms >= 2]).astype(int).T % 96
        bright = np.mean(shown[y, x] > 0)
        assert max(bright, 1 - bright) >= 0.9  # usable: the columns show one sign


def test_a_column_is_dark_whose_bright_middle_is_but_a_point():
    y, x = np.mgrid[:96, :96] - 48
    r_angstrom = 0.2 * np.hypot(y, x)
    ring = 1 - np.exp(-(r_angstrom**2) / (2 * 0.5**2)) + 1.1 * np.exp(-(r_angstrom**2) / (2 * 0.15**2))
    images = torch.from_numpy(np.stack([ring, 2 - ring]).astype("f4"))
    middle = atom_contrast(images, torch.full((2,), 0.2))[:, 48, 48]
    assert (middle > 0).tolist() == [False, True]


def test_labels_go_on_beyond_the_border_and_leave_out_what_is_hidden():
    inside, beyond = np.array([[5.0, 5.0], [9.0, 20.0]]), np.array([[-1.0, 12.0]])
    truth = Truth(inside, np.array([3, 0]), 0.02, "", beyond_yx_px=beyond)
    assert truth.shown_yx_px.tolist() == [[5, 5], [-1, 12]]


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


def test_a_report_of_a_column_beyond_the_border_is_not_false_and_one_inside_stays_missed():
    inside, outside = np.array([[0.0, 30.0], [50, 30], [50, 40]]), np.array([[-2.0, 50.0]])
    truth = Truth(inside, np.array([5, 5, 5]), 0.02, "", beyond_yx_px=outside)
    # the part of the column that is seen; too far from it; a column of the inside, which the border does not excuse
    score = judge(np.array([[0.0, 51], [8, 50], [50, 30]]), truth)
    assert (score.found, score.missed, score.false) == (1, 2, 1)
    i, j, false = pair(np.array([[0.0, 51], [0, 31]]), truth)
    assert (i.tolist(), j.tolist(), false.tolist()) == ([1], [0], [False, False])
    # one report is of one column: a second beside the border is false
    assert judge(np.array([[0.0, 50], [0, 52]]), truth).false == 1


def test_columns_beyond_the_border_are_those_of_the_box_as_it_goes_on(cache):
    recipe = load_recipe(cache / "recipe.toml")
    waves = validation_waves(recipe, cache)
    whole, part = draw_scene(waves, recipe, [3]), draw_scene(waves, recipe, [3], 64)
    assert sum(len(truth.beyond_yx_px) for truth in part.truths) > 5
    for truth, cut in zip(whole.truths, part.truths, strict=True):
        around = {
            (round(y + dy, 6), round(x + dx, 6)) for y, x in truth.yx_px for dy in (-96, 0) for dx in (-96, 0)
        }
        near = {at for at in around if min(at) >= -10.5 and max(at) <= 73.5}  # 0.2 nm of 0.02 nm
        inside = {at for at in near if min(at) > -0.5 and max(at) < 63.5}
        assert {tuple(at) for at in cut.yx_px.round(6).tolist()} == inside
        assert {tuple(at) for at in cut.beyond_yx_px.round(6).tolist()} == near - inside


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


def test_a_share_of_the_steps_keeps_to_usable_conditions(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path))
    assert of_step(recipe, [0, 1]) is recipe

    def at(share, **imaging):
        data = recipe.data.model_copy(update={"usable_share": share})
        changed = {"data": data, "imaging": recipe.imaging.model_copy(update=imaging)}
        some = recipe.model_copy(update=changed)
        return np.array([of_step(some, [3, step]).imaging.min_transfer for step in range(1000)])

    assert set(at(1.0)) == {recipe.imaging.usable_transfer}
    assert set(at(1.0, min_transfer=0.5)) == {0.5}
    assert np.mean(at(0.7) == recipe.imaging.usable_transfer) == pytest.approx(0.7, abs=0.05)
    assert recipe.imaging.min_transfer < recipe.imaging.usable_transfer
