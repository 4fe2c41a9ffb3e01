# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""Sheets: nets close, bonds are carbon's, boundaries and edges are known, and recipes of sheets can be followed."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ase")

from scipy.spatial import cKDTree

from training.dataset import VALIDATION_SEEDS, Truth, agreements
from training.evaluate import judge
from training.exitwave import WaveSettings, cache_path
from training.facts import PLACES, specimen_facts
from training.honeycomb import BOND_ANGSTROM, boundary, net_of, perfect, relaxed, scattered
from training.imaging import draw_conditions, generator_for, transfer
from training.kinds import make_specimen
from training.recipe import RECIPES, RecipeError, load_recipe
from training.sheet import BOUNDARY, EDGE, HIDING_ANGSTROM, IDEAL, SheetSettings, cut, places
from training.specimen import ParticleSettings
from training.zone_axes import known_zone_axes

SMALL = SheetSettings(side_px=200)
WHOLE = SheetSettings(
    side_px=200, holes=(0, 0), vacancies_per_nm2=0.0, contaminated_fraction=0.0, empty_fraction=0.0
)

PARTICLE = ParticleSettings(tilt_deg=(0.0, 5.0), supports=("ceria", "carbon"))


@pytest.mark.parametrize(
    ("make", "hexagons", "spread"), [(perfect, 1.0, 0.06), (scattered, 0.4, 0.1), (boundary, 0.8, 0.04)]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_net_closes_around_the_square_with_three_bonds_of_carbons_length_each(make, hexagons, spread, seed):
    net = make(np.random.default_rng(seed), 40.0)
    atoms, rings = len(net.xy_angstrom), len(net.ring_xy_angstrom)
    assert atoms == 2 * rings  # Euler, on a torus
    assert net.ring_size.mean() == 6
    assert (net.ring_size == 6).mean() >= hexagons
    lengths = np.linalg.norm(net.bonds(), axis=-1)
    assert lengths.mean() == pytest.approx(BOND_ANGSTROM, rel=1e-9)
    assert lengths.std() < spread
    assert lengths.min() > 1.05
    # what is bonded is mutual, and nearest across the borders, too
    assert all(i in net.partners[j] for i in range(0, atoms, 17) for j in net.partners[i])
    tree = cKDTree(net.xy_angstrom % net.side_angstrom, boxsize=net.side_angstrom)
    nearest = tree.query(net.xy_angstrom, k=4)[1][:, 1:]
    same = np.mean([set(a) == set(b) for a, b in zip(nearest, net.partners, strict=True)])
    assert same > 0.9
    assert 0.9 < net.side_angstrom / 40 < 1.1


def test_a_grain_boundary_parts_two_crystals_that_are_turned():
    net = boundary(np.random.default_rng(5), 50.0)
    odd = (net.ring_size != 6)[net.rings].any(1)
    assert 0.02 < odd.mean() < 0.25
    assert set(np.unique(net.ring_size)) <= {5, 6, 7, 8}
    steps = net.bonds()[~odd]
    turn = np.exp(3j * np.arctan2(steps[..., 1], steps[..., 0])).sum(1) ** 2  # the same every 60°
    apart_deg = np.rad2deg(np.abs(np.angle(turn[:, None] * turn.conj()))) / 6
    alike = apart_deg < 3
    one = np.argmax(alike.sum(1))
    other = np.argmax(np.where(apart_deg[one] > 5, alike.sum(1), 0))
    assert apart_deg[one, other] > 5
    assert min(alike[one].mean(), alike[other].mean()) > 0.2
    assert (alike[one] | alike[other]).mean() > 0.85


def test_relaxing_mends_bonds_and_leaves_the_perfect_as_it_is():
    net = net_of(scattered(np.random.default_rng(1), 30.0).ring_xy_angstrom, 30.0).scaled()
    before, after = (np.linalg.norm(n.bonds(), axis=-1).std() for n in (net, relaxed(net, 30)))
    assert after < before / 2
    bent = [np.abs(_cosines(n) + 0.5).mean() for n in (net, relaxed(net, 30))]
    assert bent[1] < 1.3 * bent[0]  # not at the cost of the angles
    whole = boundary(np.random.default_rng(2), 40.0)
    again = relaxed(whole, 200)
    assert np.abs(np.linalg.norm(again.bonds() - whole.bonds(), axis=-1)).max() < 0.02


def _cosines(net):
    """Of the angles between bonds, (n, 3)."""
    bonds = net.bonds() / np.linalg.norm(net.bonds(), axis=-1, keepdims=True)
    return (bonds * np.roll(bonds, 1, axis=1)).sum(-1)


def test_seeds_that_close_no_net_are_refused():
    with pytest.raises(ValueError, match="make no closed net"):
        net_of(np.random.default_rng(0).uniform(28, 33, (40, 2)), 60.0)


def test_places_are_where_rings_are_odd_and_bonds_are_missing():
    net = boundary(np.random.default_rng(3), 40.0)
    there = np.ones(len(net.xy_angstrom), bool)
    odd = np.array([(net.ring_size[rings] != 6).any() for rings in net.rings])
    assert np.array_equal(places(net, there) == BOUNDARY, odd)
    assert np.array_equal(places(net, there) == IDEAL, ~odd)
    gone = int(np.flatnonzero(~odd)[0])
    there[gone] = False
    changed = np.flatnonzero(places(net, there) == EDGE)
    assert set(changed) == set(net.partners[gone])
    assert PLACES["sheet"] == ("ideal", "boundary", "edge")


def test_nothing_hangs_by_one_bond_at_a_hole():
    settings = SheetSettings(holes=(2, 4), vacancies_per_nm2=2.0)
    for seed in range(6):
        net = perfect(np.random.default_rng(seed), 50.0)
        there = cut(np.random.default_rng(seed), net, settings)
        assert 0 < there.sum() < len(there)
        assert there[net.partners][there].sum(1).min() >= 2


def test_a_specimen_is_the_sheet_first_and_contamination_after_it():
    covers = {False: [], True: []}
    for seed in range(12):
        specimen = make_specimen(SMALL.model_copy(update={"contaminated_fraction": 1.0}), seed)
        atoms = len(specimen.numbers) - specimen.support_atoms
        assert len(specimen.column_atoms) == len(specimen.column_place) == atoms
        assert specimen.column_yx_nm * 10 == pytest.approx(specimen.xyz_angstrom[:atoms, 1::-1])
        assert specimen.support_atoms > 0
        assert (specimen.xyz_angstrom >= 0).all()
        assert (specimen.xyz_angstrom <= specimen.box_angstrom).all()
        facts = specimen_facts(SMALL.model_copy(update={"contaminated_fraction": 1.0}), seed)
        assert len(facts.support_yx_nm) == specimen.support_atoms
        cover = cKDTree(specimen.xyz_angstrom[atoms:, :2]).query_ball_point(
            specimen.xyz_angstrom[:atoms, :2], 2.5, return_length=True
        )
        for dark in covers:
            covers[dark] += cover[(specimen.column_atoms == 0) == dark].tolist()
    limit = 0.1 * HIDING_ANGSTROM * np.pi * 2.5**2  # atoms so near along the beam, at 2 g/cm³
    assert np.mean(np.array(covers[True]) > limit) > 0.8
    assert np.mean(np.array(covers[False]) < limit) > 0.9


def test_atoms_are_judged_alone_and_what_is_hidden_is_not():
    yx = np.array([[10.0, 10], [10, 17], [17, 10], [17, 17]])
    truth = Truth(yx, np.array([1, 1, 0, 1]), 0.02, "", judged_atoms=1)
    score = judge(np.array([[10.0, 10], [17, 10], [40, 40]]), truth)
    assert (score.found, score.missed, score.false) == (1, 2, 1)
    contrast = np.zeros((32, 32))
    contrast[10, 10] = contrast[10, 17] = contrast[17, 17] = 1  # the hidden one's sign does not matter
    assert agreements(torch.from_numpy(contrast)[None], [truth]) == [1]


def test_validation_is_of_other_structures_than_training():
    recipe = load_recipe(RECIPES / "graphene-hrtem.toml")
    assert not set(recipe.specimen.structures) & set(recipe.validation_specimen.structures)
    assert recipe.data.training <= VALIDATION_SEEDS
    settings = recipe.validation_specimen.model_copy(update={"side_px": 200})
    facts = specimen_facts(settings, VALIDATION_SEEDS)
    assert {IDEAL, BOUNDARY} <= set(facts.place.tolist())
    assert facts.spacing_nm == pytest.approx(0.142)
    three = (facts.around >= 0).all(1)
    assert three[facts.place == IDEAL].mean() > 0.8  # the box ends at the others
    to_nm = facts.column_yx_nm[facts.around[three]] - facts.column_yx_nm[three][:, None]
    np.testing.assert_allclose(np.hypot(*np.moveaxis(to_nm, -1, 0)), 0.142, atol=0.04)
    assert np.isfinite(facts.smear)
    assert known_zone_axes(recipe.specimen)[0].spacings_nm == pytest.approx((0.213, 0.213))


def test_graphenes_conditions_show_both_contrasts_and_never_a_reversal():
    recipe = load_recipe(RECIPES / "graphene-hrtem.toml")
    drawn = draw_conditions(recipe.imaging, 100, recipe.waves.energy_ev, generator_for(1))
    sign = transfer(drawn, recipe.waves.energy_ev, recipe.imaging.spacings_angstrom)
    assert len(drawn) == 100
    assert float(sign.abs().min()) >= recipe.imaging.min_transfer
    assert 0.3 < float((sign > 0).float().mean()) < 0.7
    first = transfer(drawn, recipe.waves.energy_ev, (2.2, 2.2)).abs()
    assert float(first.min()) >= recipe.imaging.min_coarsest_transfer
    assert float((sign.abs() >= recipe.imaging.usable_transfer).float().mean()) > 0.2


def test_the_thesis_conditions_show_the_same_boundaries_bright_and_uncovered():
    trained = load_recipe(RECIPES / "graphene-hrtem.toml")
    asked = load_recipe(Path("deploy/evaluation/graphene-hrtem-002/recipe.toml"))
    clean = trained.validation_specimen.model_copy(update={"contaminated_fraction": 0.0})
    assert (asked.validation_specimen, asked.waves) == (clean, trained.waves)
    drawn = draw_conditions(asked.imaging, 2, asked.waves.energy_ev, generator_for(1))
    assert drawn.defocus_angstrom.tolist() == [-84.0, -84.0]
    assert (transfer(drawn, asked.waves.energy_ev, (2.2, 2.2)) > 0.5).all()  # atoms are bright


HEAD = 'name = "x"\n[engine]\ndescription = "x"\n'


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('[specimen]\nkind = "sheat"', "no such kind of specimen: expected 'particle' or 'sheet'"),
        (
            '[specimen]\nkind = "sheet"\nelement = "Au"',
            "unknown key 'specimen.element', the nearest known is",
        ),
        ('[specimen]\nkind = "sheet"', "specimen is a sheet, validation_specimen a particle"),
        ("[specimen]\nholes = [0, 1]", "unknown key 'specimen.holes'"),
        (
            '[specimen]\nkind = "sheet"\nholes = [2, 1]\n[validation_specimen]\nkind = "sheet"',
            "holes are from 2 to 1",
        ),
    ],
)
def test_a_recipe_of_an_impossible_kind_is_refused_by_name(tmp_path: Path, lines: str, complaint: str):
    path = tmp_path / "recipe.toml"
    path.write_text(f"{HEAD}{lines}\n", encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert complaint in str(error.value)


def test_exit_waves_of_particles_keep_the_names_they_had_before_there_were_kinds(tmp_path: Path):
    waves = WaveSettings()
    # by the first version that knew no kinds
    assert cache_path(tmp_path, PARTICLE, waves, 0).stem == "102f4f6351c98e0187c88fd1"
    assert cache_path(tmp_path, PARTICLE, waves, 100_000).stem == "4daf6a45ffe2ee1d4b1cb5c2"
    assert cache_path(tmp_path, SMALL, waves, 0) != cache_path(tmp_path, WHOLE, waves, 0)
