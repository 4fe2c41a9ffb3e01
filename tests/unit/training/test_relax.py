"""Particles off their lattice sites: forces, relaxation, heat, twins, and what a recipe may say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ase")
pytest.importorskip("torch")

from ase import Atoms, units
from ase.calculators.emt import EMT
from scipy.spatial import cKDTree

from training.exitwave import CacheError, ExitWave, WaveSettings, cache_path
from training.facts import specimen_facts
from training.figures import TILT_DEG
from training.growth import columns_of, grow_particle, lattice_constant_angstrom, twin
from training.kinds import draw_specimen, make_specimen
from training.recipe import RECIPES, RecipeError, load_recipe
from training.relax import SETTLING, PairwiseEMT, relax, snapshot
from training.specimen import ParticleSettings

SMALL = ParticleSettings(side_px=96, diameter_angstrom=(13.0, 14.0), support_fraction=0.0, empty_fraction=0.0)
HOT = SMALL.model_copy(update={"relaxed": True, "langevin_k": (300.0, 1000.0)})
HEAD = 'name = "x"\n[engine]\ndescription = "x"\n'


def grown(diameter_angstrom: float = 14.0, element: str = "Au") -> np.ndarray:
    lattice = lattice_constant_angstrom(element)
    sites, occupied = grow_particle(np.random.default_rng(0), lattice, diameter_angstrom)
    return sites[occupied] * lattice / 2


def energy(xyz: np.ndarray) -> float:
    return Atoms(f"Au{len(xyz)}", positions=xyz, calculator=EMT()).get_potential_energy()


@pytest.mark.parametrize("element", ["Au", "Pt", "Al"])
def test_energy_and_forces_are_those_of_ase(element):
    xyz = grown(element=element)
    xyz += np.random.default_rng(1).normal(0, 0.1, xyz.shape)
    xyz = np.concatenate([xyz, [[40.0, 0.0, 0.0]]])  # and an atom alone
    ours, theirs = (
        Atoms(f"{element}{len(xyz)}", positions=xyz, calculator=calculator)
        for calculator in (PairwiseEMT(element), EMT())
    )
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-9)
    assert np.abs(ours.get_forces() - theirs.get_forces()).max() < 1e-10


def test_relaxing_lowers_the_energy_and_draws_the_surface_in():
    xyz = grown(20.0)
    relaxed, force = relax("Au", xyz)
    assert energy(relaxed) < energy(xyz) - 1.0
    assert force < SETTLING.force_ev_angstrom
    bonds = cKDTree(xyz).query_pairs(3.0, output_type="ndarray")
    at_surface = np.bincount(bonds.ravel()) < 9
    outer = at_surface[bonds].all(1)

    def length(where: np.ndarray) -> np.ndarray:
        return np.linalg.norm(where[bonds[:, 0]] - where[bonds[:, 1]], axis=1)

    change = length(relaxed) / length(xyz) - 1
    assert change[outer].mean() < change[~outer].mean() < 0  # the crystal of EMT is 0.5 % smaller, too
    assert change[outer].mean() < -0.01


def test_few_steps_leave_a_force_and_say_so():
    assert relax("Au", grown(), SETTLING._replace(relax_steps=3))[1] > SETTLING.force_ev_angstrom


def test_heat_displaces_as_equipartition_says():
    """Of a harmonic vibration <u²> grows as T; its size follows from the forces' own spring constants."""
    rest, _ = relax("Au", grown())
    moved = {
        kelvin: np.mean(
            [np.mean((snapshot("Au", rest, kelvin, np.random.default_rng(k)) - rest) ** 2) for k in range(3)]
        )
        for kelvin in (100.0, 400.0)
    }
    assert moved[400.0] / moved[100.0] == pytest.approx(4, rel=0.35)
    # an atom in the middle, the others held: the least that it can move
    calculator, middle, step = PairwiseEMT("Au"), np.argmin((rest**2).sum(1)), 0.02
    pushed = rest.copy()
    pushed[middle, 0] += step
    spring = -Atoms(f"Au{len(rest)}", positions=pushed, calculator=calculator).get_forces()[middle, 0] / step
    alone = units.kB * 400.0 / spring
    assert alone < moved[400.0] < 6 * alone


def test_the_same_seed_gives_the_same_snapshot():
    a, b, c = make_specimen(HOT, 3), make_specimen(HOT, 3), make_specimen(HOT, 4)
    assert np.array_equal(a.xyz_angstrom, b.xyz_angstrom)
    assert np.array_equal(a.column_yx_nm, b.column_yx_nm)
    assert len(a.numbers) != len(c.numbers) or not np.array_equal(a.xyz_angstrom, c.xyz_angstrom)


def test_a_column_is_where_its_atoms_are_and_nothing_is_blurred_twice():
    settings = HOT.model_copy(update={"support_fraction": 1.0})
    still = draw_specimen(SMALL.model_copy(update={"support_fraction": 1.0}), 1)
    specimen = make_specimen(settings, 1)
    n = len(specimen.atom_column)
    assert n + specimen.support_atoms == len(specimen.numbers)
    for k in (0, len(specimen.column_atoms) - 1):
        mine = specimen.xyz_angstrom[:n][specimen.atom_column == k]
        assert len(mine) == specimen.column_atoms[k]
        assert specimen.column_yx_nm[k] == pytest.approx(mine[:, 1::-1].mean(0) / 10, abs=1e-12)
    assert (
        specimen.xyz_angstrom[:, 2].min(),
        specimen.box_angstrom[2] - specimen.xyz_angstrom[:, 2].max(),
    ) == (2, 2)
    assert specimen.focus_z_angstrom == pytest.approx(specimen.xyz_angstrom[:n, 2].mean())
    assert specimen.thermal_angstrom == 0
    displaced = (specimen.xyz_angstrom - still.xyz_angstrom)[n:, :2]
    assert displaced.std() == pytest.approx(still.thermal_angstrom, rel=0.05)
    only_relaxed = make_specimen(settings.model_copy(update={"langevin_k": None}), 1)
    assert only_relaxed.thermal_angstrom == still.thermal_angstrom
    assert np.array_equal(only_relaxed.xyz_angstrom[n:, :2], still.xyz_angstrom[n:, :2])


@pytest.mark.parametrize("seed", range(4))
def test_a_twin_is_two_crystals_that_share_a_plane_and_keep_their_columns(seed):
    sites, occupied = grow_particle(np.random.default_rng(0), 4.08, 25.0)
    single = sites[occupied]
    twinned = twin(np.random.default_rng(seed), single)
    tree = cKDTree(twinned)
    assert tree.query(twinned, k=4)[0][:, 1:] == pytest.approx(
        3 * np.sqrt(2)
    )  # in a/6; three neighbours at least
    around = tree.query_ball_point(twinned, 4.5, return_length=True) - 1
    assert around.max() == 12  # nowhere too dense
    assert len(twinned) > 0.9 * len(single)
    # fcc is its own mirror image through a site; at a twin plane an atom of the inside is not
    inside = twinned[around == 12]
    even = np.array(
        [all(tree.query(2 * p - tree.data[k])[0] < 1e-9 for k in tree.query(p, 13)[1]) for p in inside]
    )
    layers = np.unique(inside[~even] @ [1, -1, 1])
    assert len(layers) == 1
    assert even.any()
    # columns are straight along the beam, two layers of atoms each
    column = columns_of(twinned, "110")
    for k in range(column.max() + 1):
        mine = twinned[column == k]
        assert (np.cross(mine - mine[0], [1, 1, 0]) == 0).all()


def test_only_particles_along_110_are_twinned_and_the_columns_of_a_twin_have_their_places():
    settings = SMALL.model_copy(
        update={"twinned_fraction": 1.0, "side_px": 160, "diameter_angstrom": (22.0, 24.0)}
    )
    kinds = {seed: draw_specimen(settings, seed) for seed in range(8)}
    assert {s.zone_axis for s in kinds.values() if s.kind.endswith("twin")} == {"110"}
    assert all(s.kind.endswith("twin") for s in kinds.values() if s.zone_axis == "110")
    seed = next(seed for seed, s in kinds.items() if s.zone_axis == "110")
    facts = specimen_facts(settings, seed)
    assert (facts.place == 0).sum() > (facts.place == 1).sum() / 2 > 0  # the plane is no surface


def test_facts_of_a_relaxed_particle_come_with_its_wave_without_relaxing_again(monkeypatch):
    specimen = make_specimen(HOT, 3)
    wave = ExitWave(
        np.ones((96, 96), np.complex64), 0.02, specimen.column_yx_nm, specimen.column_atoms, specimen.kind
    )
    anew = specimen_facts(HOT, 3)
    monkeypatch.setattr("training.kinds.settle", None)
    facts = specimen_facts(HOT, 3, wave)
    for name in ("column_yx_nm", "place", "support_nm", "support_yx_nm"):
        assert np.array_equal(getattr(facts, name), getattr(anew, name))
    assert facts.smear == anew.smear
    with pytest.raises(CacheError, match="simulate the exit waves again"):
        specimen_facts(HOT, 4, wave)
    elsewhere = ExitWave(wave.wave, 0.02, wave.column_yx_nm + 0.1, wave.column_atoms, wave.kind)
    with pytest.raises(CacheError, match="simulate the exit waves again"):
        specimen_facts(HOT, 3, elsewhere)


def test_relaxed_particles_have_cache_names_of_their_own(tmp_path: Path, monkeypatch):
    def name(settings: ParticleSettings) -> Path:
        return cache_path(tmp_path, settings, WaveSettings(), 0)

    warmer = HOT.model_copy(update={"langevin_k": (300.0, 1001.0)})
    twins = SMALL.model_copy(update={"twinned_fraction": 0.5})
    names = {name(s) for s in (SMALL, HOT, warmer, twins, SMALL.model_copy(update={"relaxed": True}))}
    before = name(HOT)
    monkeypatch.setattr("training.exitwave.SETTLING", SETTLING._replace(relax_steps=7))
    assert len(names) == 5
    assert name(HOT) != before


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('element = "Ir"\nrelaxed = true', "no forces are known for Ir: expected one of Al, Ni, Cu"),
        ("langevin_k = [300.0, 500.0]", "add relaxed = true"),
        ("relaxed = true\nlangevin_k = [500.0, 300.0]", "a range from 500.0 down to 300.0"),
        ("relaxed = true\nlangevin_k = [300.0, 5000.0]", "langevin_k"),
        ("relaxt = true", "the nearest known is 'relaxed'"),
    ],
)
def test_what_cannot_be_relaxed_is_refused(tmp_path: Path, lines: str, complaint: str):
    path = tmp_path / "recipe.toml"
    path.write_text(f"{HEAD}[validation_specimen]\n{lines}\n", encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert complaint in str(error.value)


def test_the_gold_recipe_is_validated_on_what_it_is_not_trained_on():
    recipe = load_recipe(RECIPES / "au-on-oxide.toml")
    trained, validated = recipe.specimen, recipe.validation_specimen
    assert isinstance(trained, ParticleSettings)
    assert isinstance(validated, ParticleSettings)
    assert validated.relaxed
    assert not trained.relaxed
    assert validated.langevin_k == (300.0, 1000.0)
    assert validated.twinned_fraction > trained.twinned_fraction == 0
    assert validated.tilt_deg == (0.0, 5.0)
    assert TILT_DEG[-1] >= validated.tilt_deg[1]  # the report leaves out no image
