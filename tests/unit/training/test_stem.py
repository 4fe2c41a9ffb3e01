# ruff: noqa: E402  (what needs torch is imported after asking for it)
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

import training.stem as stem
from stream.columns import find_columns
from training.checkpoint import with_seed
from training.crystals import MONOLAYER_CLASSES, LatticeSettings, make_crystal
from training.evaluate import candidates, judge, network_maps, score_at
from training.lattices import LATTICES
from training.networks import build_network
from training.recipe import RECIPES, RecipeError, load_recipe
from training.stem import StemSettings, draw_scene, expose
from training.stem_images import StemImages, label_maps, photograph, resampled, truth_of, validation_scenes

STEM_RECIPES = ("columns-stem", "tmd-stem")
PLAIN = {  # nothing but columns, on no background
    "background": (0.0, 0.0), "unevenness": 0.0, "film_fraction": 0.0, "blank_fraction": 0.0,
    "processed_fraction": 0.0, "tail_share": (0.0, 0.0), "elongation": 0.0, "fwhm_spacings": (0.28, 0.3),
    "read_noise": (0.0, 0.0),
}  # fmt: skip
PERFECT = {
    "vacancies": 0.0, "substitutions": 0.0, "boundary_fraction": 0.0, "rim_fraction": 0.0, "empty_fraction": 0.0,
    "disorder_spacings": (0.0, 0.0),
}  # fmt: skip
STEADY = {"jitter_px": (0.0, 0.0), "drift_px": 0.0, "flyback_px": 0.0}


def recipe_of(name: str):
    return load_recipe(RECIPES / f"{name}.toml")


def centres(signal: np.ndarray, yx: np.ndarray, reach: int) -> np.ndarray:
    """Centres of mass of the signal within `reach` pixels of places (n, 2), moved until they stay."""
    found = yx.copy()
    for _ in range(10):
        for k, (y, x) in enumerate(found):
            top, left = round(y) - reach - 1, round(x) - reach - 1
            part = signal[top : top + 2 * reach + 3, left : left + 2 * reach + 3]
            grid = np.indices(part.shape) + np.array([top, left])[:, None, None]
            weight = part * np.clip(reach + 0.5 - np.hypot(grid[0] - y, grid[1] - x), 0, 1)
            found[k] = (grid * weight).sum((1, 2)) / weight.sum()
    return found


@pytest.mark.parametrize(
    "strays",
    [STEADY, {"jitter_px": (0.6, 0.6), "drift_px": 10.0, "flyback_px": 4.0}],
    ids=["steady", "stray"],
)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", [1.0, 1.6])
def test_the_truth_lies_on_the_bright_spots(monkeypatch, strays, seed, ratio):
    monkeypatch.setattr(stem, "_with_background", lambda signal, *_: signal)
    settings = StemSettings(
        **PLAIN,
        **strays,
        as_scanned_fraction=0.0,
        pixel_ratio=(ratio, ratio),
        sampling_angstrom_px=(0.2, 0.2),
    )
    lattices = LatticeSettings(names=("fcc111",), spacing_px=(20.0, 22.0), **PERFECT)
    scene = draw_scene(settings, lattices, 192, [seed])
    inner = ((scene.yx_px > 30) & (scene.yx_px < 160)).all(1)
    yx = scene.yx_px[inner]
    assert len(yx) > 10
    found = centres(scene.resampler(scene.signal).clip(0), yx, 8)
    off = found - yx
    assert np.hypot(*off.mean(0)) < 0.05
    assert np.sqrt((off**2).sum(1).mean()) < 0.1


def test_a_scan_that_strays_moves_the_truth():
    lattices = LatticeSettings(names=("fcc111",), **PERFECT)
    steady, stray = (
        draw_scene(StemSettings(**PLAIN, jitter_px=(0, 0), drift_px=d, flyback_px=0), lattices, 128, [5])
        for d in (0.0, 10.0)
    )
    n = min(len(steady.yx_px), len(stray.yx_px))
    assert np.abs(steady.yx_px[:n] - stray.yx_px[:n]).max() > 0.5


def test_labels_go_on_beyond_the_border_and_the_truth_ends_there():
    """Half a column at the border is one to be reported, or the network learns to report none near it."""
    recipe = recipe_of("columns-stem")
    settings, side = recipe.stem, 128
    beyond = 0
    for seed in range(6):
        scene = draw_scene(settings, recipe.lattice, side, [seed])
        truth = truth_of(scene, recipe)
        within = ((scene.yx_px > -0.5) & (scene.yx_px < side - 0.5)).all(1)
        np.testing.assert_array_equal(scene.inside, within)
        assert len(truth.yx_px) == len(truth.contrast) == len(truth.classes) == within.sum()
        outside = scene.yx_px[~within]
        assert truth.beyond_yx_px.tolist() == outside.tolist()
        assert (outside > -13).all()
        assert (outside < side + 12).all()
        labels = label_maps(scene, settings, 1, side, 1)[0]
        height = np.clip(
            (scene.contrast - settings.least_contrast[0]) / np.diff(settings.least_contrast), 0, 1
        )
        out = np.abs(scene.yx_px - np.clip(scene.yx_px, 0, side - 1)).max(1)
        near = ~within & (out < scene.spacing_px / 4) & (height == 1)
        for y, x in np.clip(np.rint(scene.yx_px[near]), 0, side - 1).astype(int):
            assert labels[y, x] > 0.9
        beyond += np.count_nonzero(near)
    assert beyond > 5


def test_what_is_burnt_in_is_of_one_grey_and_hides_columns():
    recipe = recipe_of("columns-stem")
    blank = {"blank_fraction": 1.0, "as_scanned_fraction": 1.0, "abf_fraction": 0.0}
    recipe = recipe.model_copy(update={"stem": recipe.stem.model_copy(update=blank)})
    without = recipe.stem.model_copy(update={"blank_fraction": 0.0})
    bars = hidden = 0
    for seed in range(12):
        scene = draw_scene(recipe.stem, recipe.lattice, 256, [seed])
        picture = resampled(scene, recipe, [seed])
        assert (picture[scene.blank] == (picture.max() if scene.blank_bright else picture.min())).all()
        y, x = np.rint(scene.yx_px[scene.inside]).astype(int).T
        assert not scene.blank[y.clip(0, 255), x.clip(0, 255)].any()
        hidden += len(draw_scene(without, recipe.lattice, 256, [seed]).yx_px) - len(scene.yx_px)
        bars += 0.001 < scene.blank.mean() < 0.05
    assert 0 < bars < 12  # the others are empty borders
    assert hidden > 0


def test_the_detector_counts_what_the_dose_promises():
    scene = draw_scene(StemSettings(**PLAIN), LatticeSettings(names=("fcc100",)), 128, [3])
    for dose in (300.0, 30_000.0):
        counts = np.mean([expose(scene, [n], dose).mean() for n in range(10)])
        electrons = dose * scene.pixel_angstrom**2 * scene.collected * scene.signal.mean()
        assert counts == pytest.approx(electrons, rel=0.02)
    drawn = [
        draw_scene(StemSettings(dose_e_angstrom2=(500, 1000)), LatticeSettings(), 64, [n]) for n in range(8)
    ]
    assert all(500 <= scene.dose_e_angstrom2 <= 1000 for scene in drawn)
    assert len({scene.dose_e_angstrom2 for scene in drawn}) == 8


@pytest.mark.parametrize("name", STEM_RECIPES)
def test_batches_repeat_and_their_label_maps_are_probabilities(name):
    recipe = recipe_of(name)
    one, two = StemImages(recipe, 2), StemImages(recipe, 2)
    two[0]
    for step in (0, 3):
        images, labels = one[step]
        for a, b in zip((images, labels), two[step], strict=True):
            assert torch.equal(a, b)
        assert images.shape == (4, 1, 256, 256)
        assert labels.shape == (4, len(recipe.classes), 128, 128)
        assert images.dtype == labels.dtype == torch.float32
        assert torch.isfinite(images).all()
        assert labels.min() >= 0
        assert labels.sum(1).max() <= 1 + 1e-6
    assert not torch.equal(one[0][0], one[1][0])


@pytest.mark.parametrize("name", STEM_RECIPES)
def test_label_maps_give_the_columns_and_classes_back(name):
    recipe = recipe_of(name)
    found = missed = right = false = 0
    for n in range(4):
        scene = draw_scene(recipe.stem, recipe.lattice, 256, [n])
        maps = label_maps(scene, recipe.stem, len(recipe.classes), 256, 2)
        whole = np.concatenate([(1 - maps.sum(0, keepdims=True)).clip(0), maps]).astype("f4")
        distance_px = recipe.engine.min_distance_nm / recipe.engine.nominal_nm_px
        columns = find_columns(whole, stride=2, threshold=0.5, min_distance_px=distance_px)
        truth = truth_of(scene, recipe)
        score = judge(columns.yx_px.astype(float), truth)
        found, missed, false = found + score.found, missed + score.missed, false + score.false
        for (y, x), kind in zip(columns.yx_px, columns.kind, strict=True):
            right += truth.classes[np.hypot(*(truth.yx_px - (y, x)).T).argmin()] == kind
        total = len(columns)
        assert total > 0
    assert found / (found + missed) > 0.97
    assert false == 0
    assert right / (found + missed) > 0.9


def test_an_empty_site_is_no_column_and_half_a_pair_is_a_defect():
    settings = LatticeSettings(**{**PERFECT, "vacancies": 0.5}, names=("WSe2",), second_layer_fraction=0.0)
    crystals = [make_crystal(settings, np.random.default_rng(n), 1.7, 400, 0.2) for n in range(6)]
    crystal = max(crystals, key=lambda c: np.count_nonzero(c.kind == 4))  # the one with most vacancies
    pair = 2 * (34 / 74) ** 1.7
    assert np.allclose(crystal.weight[crystal.kind == 1], 1)
    assert np.allclose(crystal.weight[crystal.kind == 2], pair)
    assert np.allclose(crystal.weight[crystal.kind == 4], pair / 2)
    assert np.count_nonzero(crystal.kind == 4) > 20
    assert np.count_nonzero(crystal.kind == 3) == 0  # a metal atom that is gone leaves nothing
    assert (crystal.weight > 0).all()


def test_a_dopant_that_looks_like_its_host_is_no_defect():
    for dopant, seen in (("Re", False), ("Ti", True)):
        settings = LatticeSettings(
            **{**PERFECT, "substitutions": 0.5}, names=("WSe2",), dopants=(dopant,), second_layer_fraction=0.0
        )
        kinds = [make_crystal(settings, np.random.default_rng(n), 1.7, 300, 0.2).kind for n in range(6)]
        assert any((kind == 3).sum() > 10 for kind in kinds) == seen


def test_validation_lattices_and_dopants_are_held_out():
    columns, tmd = (recipe_of(name) for name in STEM_RECIPES)
    assert not set(columns.lattice.names) & set(columns.validation_lattice.names)
    assert not set(columns.lattice.dopants) & set(columns.validation_lattice.dopants)
    assert set(tmd.validation_lattice.names) - set(tmd.lattice.names) == {"WS2"}
    assert set(tmd.validation_lattice.dopants) - set(tmd.lattice.dopants) >= {"Cr", "Re", "Zr"}
    assert {scene.name for scene in validation_scenes(columns, 12)} <= {
        *columns.validation_lattice.names,
        "empty",
    }
    assert tmd.classes == MONOLAYER_CLASSES
    assert columns.classes == ("column",)


def test_trainings_of_other_seeds_are_judged_on_the_same_images():
    recipe = recipe_of("columns-stem")
    mine, theirs = validation_scenes(recipe, 2), validation_scenes(with_seed(recipe, 5), 2)
    for scene, same in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(scene.signal, same.signal)


@pytest.mark.parametrize(
    "name", [name for name, lattice in LATTICES.items() if lattice.constant_angstrom is None]
)
def test_columns_are_as_far_apart_as_the_recipe_says(name):
    settings = LatticeSettings(names=(name,), spacing_px=(16.0, 16.0), strain=0.0, **PERFECT)
    crystal = make_crystal(settings, np.random.default_rng(0), 1.7, 256, 0.2)
    strong = crystal.yx_px[crystal.weight > 0.25 * crystal.weight.max()]
    distance = np.hypot(*(strong[:, None] - strong[None]).transpose(2, 0, 1))
    assert np.median(np.where(distance > 1e-6, distance, np.inf).min(1)) == pytest.approx(16.0, rel=0.15)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[stem]\ndose_e_angstrom2 = [0.0, 10.0]", "stem.dose_e_angstrom2 must be positive"),
        ("[stem]\nexponent = [1.9, 1.6]", "exponent is a range from 1.9 down to 1.6"),
        ("[stem]\nexponents = [1.6, 1.9]", "unknown key 'stem.exponents', the nearest known is 'exponent'"),
        ("[lattice]\nspacing_px = [2.0, 8.0]\n[stem]", "spacing_px must be 4 or more"),
        ('[lattice]\nnames = ["fcc200"]\n[stem]', "there is no lattice 'fcc200'"),
        ('[lattice]\nnames = ["WSe2", "fcc100"]\n[stem]', "some of these lattices have a true scale"),
        ('[lattice]\nnames = ["WSe2"]\n[stem]', "has a true scale and validation_lattice has none"),
        ("[lattice]\nstrain = 0.01", "[lattice] means nothing without [stem]"),
        ("[imaging]\ncs_um = [0.0, 1.0]\n[stem]", "[imaging] means nothing beside [stem]"),
    ],
)
def test_an_impossible_recipe_is_refused_by_name(tmp_path: Path, line, complaint):
    spacing = "nominal_spacing_px = 12.0\n" if "[stem]" in line else ""
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "x"\n[engine]\ndescription = "x"\n{spacing}{line}\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.toml") as error:
        load_recipe(path)
    assert complaint in str(error.value)


def test_a_scale_by_spacing_goes_with_lattices_without_one(tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\n[engine]\ndescription = "x"\n[stem]\n', encoding="utf-8")
    with pytest.raises(RecipeError, match="nominal_spacing_px goes with"):
        load_recipe(path)


def test_networks_of_several_classes_are_judged():
    recipe = recipe_of("tmd-stem")
    scene = validation_scenes(recipe, 1)[0]
    shown = [(photograph(scene, recipe, [1], 1000.0)[None], truth_of(scene, recipe))]
    torch.manual_seed(0)
    network = build_network("slim16_s2", classes=4)
    score = score_at(candidates(network_maps(network), network.stride, shown, recipe), 0.5)
    assert score.images == 1
    assert score.found + score.missed == truth_of(scene, recipe).judged.sum()


@pytest.mark.slow
def test_a_monolayer_is_as_bright_as_in_multislice():
    """WSe2 at 80 kV, 80 to 200 mrad: what two chalcogens show beside a metal, by abTEM (PRISM, frozen phonons)."""
    import abtem
    import ase.build
    from scipy.ndimage import gaussian_filter

    from training.scan import paint

    constant, step, source_fwhm = 3.28, 0.25, 0.8  # Å
    atoms = abtem.orthogonalize_cell(ase.build.mx2("WSe2", a=constant, thickness=3.3, vacuum=2)) * (3, 2, 1)
    cell = atoms.cell.lengths()[:2] / (3, 2)
    with abtem.config.set({"diagnostics.progress_bar": False, "dask.lazy": False}):
        vibrating = abtem.FrozenPhonons(atoms, 3, 0.08, seed=1)
        potential = abtem.Potential(vibrating, sampling=0.055, slice_thickness=1.0)
        waves = abtem.SMatrix(potential=potential, energy=80e3, semiangle_cutoff=28, interpolation=1)
        shape = tuple(round(side / step) for side in cell)
        scan = abtem.GridScan(start=(0, 0), end=tuple(cell), gpts=shape, endpoint=False)
        detected = waves.scan(scan=scan, detectors=abtem.FlexibleAnnularDetector(step_size=5))
        image = np.array(detected.integrate_radial(80, 200).array)
    image = gaussian_filter(
        image.mean(0) if image.ndim == 3 else image, source_fwhm / 2.3548 / step, mode="wrap"
    )

    def ratio(picture: np.ndarray, per_px: float, yx: np.ndarray, metal: np.ndarray) -> float:
        y, x = (np.rint(yx / per_px).astype(int) % picture.shape).T
        floor = picture.min()
        return float((picture[y, x][~metal].max() - floor) / (picture[y, x][metal].max() - floor))

    metal = atoms.numbers == 74
    multislice = ratio(image, step, atoms.positions[:, :2], metal)

    fine, sigma = 0.1, 1.1 / 2.3548  # Å; the probe's own 0.8 Å and the source's together
    ours = np.zeros(tuple(round(side / fine) for side in cell * (3, 2)), np.float32)
    weight = atoms.numbers.astype(float) ** 1.5
    paint(ours, atoms.positions[:, :2] / fine, weight, sigma / fine)
    n, m = (round(side / fine) for side in cell)
    inner = ours[n : 2 * n, m // 2 : m // 2 + m]  # a cell away from the borders
    shifted = atoms.positions[:, :2] - np.array([n, m // 2]) * fine
    assert ratio(inner, fine, shifted, metal) == pytest.approx(multislice, rel=0.15)
