# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""The evaluation: what is drawn again is the same, faults are counted where they lie, the report says it all."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

from engines.manifest import Manifest
from engines.runtime import MODELS
from stream.columns import Columns
from training import figures
from training.dataset import Truth
from training.evaluate import Score, validation_images
from training.exitwave import CacheError
from training.facts import PLACES, SpecimenFacts, distance_nm, specimen_facts
from training.measure import COLUMN, FALSE, UNJUDGED, WHERE, Measured, Reader, measure
from training.recipe import RecipeError, load_recipe, recipe_named
from training.report import evaluate_engine, validation_subjects
from training.shots import LEAST_AGREEMENT, MOST_SMEAR, Shot, shoot
from training.specimen import ParticleSettings, make_particle
from training.zone_axes import known_zone_axes

RECIPE = """
name = "tiny"
[engine]
description = "for tests"
[validation_specimen]
side_px = 96
diameter_angstrom = [10.0, 12.0]
sampling_angstrom_px = [0.2, 0.2]
empty_fraction = 0.0
support_fraction = 1.0
[specimen]
side_px = 96
[data]
validation = 2
crop_px = 64
"""
LEAST_TRANSFER = 0.3  # the recipe's usable_transfer
DOSES = (1000.0, 310.0, 30.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A recipe, its exit waves and facts, made once."""
    folder = tmp_path_factory.mktemp("evaluation")
    path = folder / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(path)
    return recipe, validation_subjects(recipe, folder)


def test_a_specimens_atoms_are_those_of_every_version_so_far():
    """Exit waves on disk go by settings and seed: other draws would make their columns wrong without a word."""
    specimen = make_particle(
        ParticleSettings(diameter_angstrom=(20.0, 50.0), tilt_deg=(0.0, 3.0), stirred_fraction=0.7), 100_004
    )
    assert (len(specimen.numbers), len(specimen.column_atoms)) == (3613, 324)
    assert specimen.xyz_angstrom.sum(0) == pytest.approx(
        [112179.61848770735, 119057.69897519573, 99458.29425824211], rel=1e-9
    )
    assert specimen.thermal_angstrom == pytest.approx(0.07496244833887895, rel=1e-9)


@pytest.mark.parametrize(("zone", "full"), [("100", 8), ("110", 6), ("111", 6)])
def test_places_of_columns_are_counted_in_the_crystal_whatever_its_tilt(zone, full):
    settings = ParticleSettings(
        zone_axes=(zone,), tilt_deg=(5.0, 5.0), empty_fraction=0.0, support_fraction=0.0
    )
    facts, specimen = specimen_facts(settings, 3), make_particle(settings, 3)
    assert facts.zone_axis == zone
    assert facts.tilt_deg == 5.0
    lattice = specimen.column_lattice_nm
    apart = np.hypot(*(lattice[:, None] - lattice[None]).transpose(2, 0, 1))
    assert apart[apart > 0].min() == pytest.approx(facts.spacing_nm, rel=1e-6)
    around = (apart < 1.5 * facts.spacing_nm).sum(1) - 1
    assert around.max() == full
    assert ((facts.place == PLACES["particle"].index("bulk")) == (around == full)).all()
    assert ((facts.place == PLACES["particle"].index("corner")) == (around <= full / 2)).all()
    middle = specimen.column_yx_nm.mean(0)
    far = np.hypot(*(specimen.column_yx_nm - middle).T)
    assert far[facts.place == 0].mean() < far[facts.place > 0].mean()


def test_smear_is_the_tallest_columns_and_grows_with_the_tilt():
    def smear(tilt_deg):
        settings = ParticleSettings(
            zone_axes=("110",), tilt_deg=(tilt_deg, tilt_deg), empty_fraction=0.0, support_fraction=0.0
        )
        return specimen_facts(settings, 5).smear, make_particle(settings, 5)

    level, _ = smear(0.0)
    tilted, specimen = smear(2.0)
    assert level == 0
    # a column along the beam spreads over its length times the tilt: look at the atoms of the tallest one
    atoms = specimen.column_atoms.max()
    length_nm = (atoms - 1) * 0.408 / np.sqrt(2)
    assert tilted == pytest.approx(length_nm * np.tan(np.deg2rad(2)) / (0.408 * np.sqrt(3 / 8)))


def test_distance_to_the_support_is_periodic_and_infinite_without_one():
    assert distance_nm(np.array([[0.1, 0.1]]), np.array([[1.9, 0.1]]), 2.0) == pytest.approx([0.2])
    assert np.isinf(distance_nm(np.array([[0.1, 0.1]]), np.zeros((0, 2)), 2.0)).all()
    assert distance_nm(np.array([[-1e-20, 0.0]]), np.array([[0.0, 0.3]]), 2.0) == pytest.approx([0.3])
    beside = ParticleSettings(empty_fraction=0.0, support_fraction=1.0, tilt_deg=(0.0, 0.0))
    facts = specimen_facts(beside, 0)
    assert np.isfinite(facts.support_nm).all()
    assert len(facts.support_yx_nm) > 100


def test_shots_are_the_validation_images_and_know_where_the_support_is(tiny):
    recipe, (waves, facts) = tiny
    shots = list(shoot(recipe, waves, facts, 2, (310.0,)))
    assert [(s.specimen, s.draw) for s in shots] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    for shot, (_, truth) in zip(shots, validation_images(recipe, waves, [310.0])[310.0], strict=False):
        assert np.array_equal(shot.truth.yx_px, truth.yx_px)
        assert np.array_equal(shot.truth.atoms, truth.atoms)
    assert not np.array_equal(shots[0].counts[310.0], shots[2].counts[310.0])
    for shot in shots:
        # moved together: the distances between columns and support are those of the specimen
        side_nm = 96 * shot.truth.sampling_nm
        again = distance_nm(
            shot.truth.yx_px * shot.truth.sampling_nm, shot.support_yx_px * shot.truth.sampling_nm, side_nm
        )
        assert again == pytest.approx(shot.facts.support_nm, abs=1e-9)


def test_an_exit_wave_of_another_specimen_is_refused(tiny):
    recipe, (waves, facts) = tiny
    with pytest.raises(CacheError, match="not of the specimen drawn from its seed"):
        next(shoot(recipe, waves, facts[::-1], 1, (310.0,)))


@pytest.mark.parametrize(
    ("transfer", "smear", "agreement", "usable"),
    [
        (LEAST_TRANSFER, MOST_SMEAR, LEAST_AGREEMENT, True),
        (-LEAST_TRANSFER, 0.0, 1.0, True),
        (LEAST_TRANSFER - 0.01, 0.0, 1.0, False),
        (1.0, MOST_SMEAR + 0.01, 1.0, False),
        (1.0, 0.0, LEAST_AGREEMENT - 0.01, False),
    ],
)
def test_usable_takes_all_three(tiny, transfer, smear, agreement, usable):
    recipe, (waves, facts) = tiny
    shot = next(shoot(recipe, waves, facts, 1, (310.0,)))
    shot = replace(shot, transfer=transfer, agreement=agreement, facts=replace(shot.facts, smear=smear))
    assert shot.usable is usable


@dataclass
class Told:
    """A finder that reports what it is told, whatever it is shown."""

    yx_px: np.ndarray
    score: np.ndarray
    stage_ns = {"network": 1_000_000}  # noqa: RUF012

    def find(self, counts: np.ndarray) -> tuple[Columns, np.ndarray]:
        width = np.full(len(self.score), 2.0, np.float32)
        kind = np.ones(len(self.score), np.uint8)
        found = Columns(self.yx_px.astype(np.float32), width, self.score.astype(np.float32), kind)
        return found, counts.astype(np.float32)


def scene() -> Shot:
    """Nine columns on a grid, one of them a single atom, beside a row of support atoms; 96 px of 0.02 nm."""
    yx = np.stack(np.meshgrid([20.0, 32.0, 44.0], [20.0, 32.0, 44.0], indexing="ij"), -1).reshape(-1, 2)
    atoms = np.array([5, 5, 5, 5, 9, 5, 2, 3, 1])
    support = np.stack([np.full(8, 80.0), np.arange(8) * 10.0], -1)
    facts = SpecimenFacts(
        zone_axis="100",
        tilt_deg=1.0,
        spacing_nm=0.24,
        smear=0.1,
        column_yx_nm=yx * 0.02,
        place=np.array([2, 1, 2, 1, 0, 1, 2, 1, 2]),
        support_nm=distance_nm(yx * 0.02, support * 0.02, 1.92),
        support_yx_nm=support * 0.02,
    )
    counts = {dose: np.ones((96, 96), np.float32) for dose in (310.0, 30.0)}
    return Shot(0, 0, facts, Truth(yx, atoms, 0.02, "nine"), support, 5.0, 0.5, 1.0, LEAST_TRANSFER, counts)


def told(yx: list[tuple[float, float]], score: list[float]) -> Measured:
    reader = Reader(lambda *_: Told(np.array(yx, float).reshape(-1, 2), np.array(score)), 0.5)
    return measure([scene()], {"told": reader}, 0)


def test_every_report_is_counted_once_and_where_it_lies():
    measured = told(
        # found, 1 px off; a single atom; nothing beside a column; on the support; in vacuum; too faint to report
        [(20, 21), (44, 44), (26, 26), (80, 14), (62, 70), (32, 32)],
        [0.9, 0.8, 0.7, 0.6, 0.55, 0.3],
    )
    reading = measured.readings["told"]
    (row, _) = figures.by_dose(measured, reading, np.array([0]))
    assert (row["columns"], row["false"]) == (8, 3)
    assert row["recall"] == pytest.approx(1 / 8)
    assert row["precision"] == pytest.approx(1 / 4)
    assert row["f1"] == pytest.approx(2 / (2 + 7 + 3))
    assert row["rms_pm"] == pytest.approx(20)
    assert row["false_per_image"] == {"particle": 1, "support": 1, "vacuum": 1}
    assert row["not_judged"] == {"columns": 1, "found": 1, "recall": 1, "rms_pm": 0}
    assert row["bulk"]["found"] == 0
    assert row["log"] is None
    kinds = reading.candidates["is_a"][reading.candidates["dose"] == 310]
    assert sorted(kinds.tolist()) == sorted([COLUMN, COLUMN, UNJUDGED, FALSE, FALSE, FALSE])
    assert set(reading.false["where"].tolist()) == set(range(len(WHERE["particle"])))


def test_groups_hold_every_column_once():
    measured = told([(20, 20), (32, 32), (44, 20)], [0.9, 0.9, 0.9])
    reading, chosen = measured.readings["told"], np.array([0])
    for rows in (
        figures.by_height(reading, chosen),
        figures.by_place(reading, chosen),
        figures.by_support(reading, chosen),
    ):
        assert sum(row["columns"] for row in rows) == 2 * 8  # two doses
        assert sum(row["found"] for row in rows) == 2 * 3
    height = {row["group"]: row for row in figures.by_height(reading, chosen)}
    assert height["2"]["recall"] == 1
    assert height["3"]["recall"] == 0
    assert height["8 to 11"]["recall"] == 1
    (_, tilted) = figures.by_image(measured, reading, chosen, "tilt_deg", (1, 2))  # 310 and 30 e/Å²
    assert tilted["images"] == 1
    assert tilted["recall"] == pytest.approx(3 / 8)


def test_edges_belong_to_one_group_and_the_last_to_the_last():
    groups = figures.between(np.array([0.0, 1.0, 2.0, 2.1, -0.1]), (0, 1, 2))
    assert [(name, inside.tolist()) for name, inside in groups] == [
        ("0 to 1", [True, False, False, False, False]),
        ("1 to 2", [False, True, True, False, False]),
    ]


def test_scores_that_tell_the_truth_have_no_calibration_error():
    """Of ten candidates at 0.75 on average, as many are columns as the score says, or none."""
    grid = [(y, x) for y in (20, 32, 44) for x in (20, 32, 44)][:8]
    nowhere = [(60 + 4 * k, 70) for k in range(8)]
    honest = told([*grid, *nowhere], [0.5] * 16).readings["told"]
    found = figures.calibration(honest, np.array([0]), 310.0)
    assert found["expected_calibration_error"] == pytest.approx(0)
    assert found["bins"] == [{"from": 0.5, "candidates": 16, "score": 0.5, "columns": 0.5}]
    boastful = told(nowhere, [0.95] * 8).readings["told"]
    assert figures.calibration(boastful, np.array([0]))["expected_calibration_error"] == pytest.approx(0.95)


def test_the_interval_is_over_specimens_not_over_images():
    good, bad = Score(found=90, missed=10, images=1), Score(found=10, missed=90, images=1)
    low, high = figures.f1_interval([good, bad] * 8, np.arange(16))
    again = figures.f1_interval([good, bad] * 8, np.arange(16) // 2)  # each specimen has one of each
    together = 2 * 100 / (2 * 100 + 100)
    assert low < together < high
    assert high - low > 0.2
    assert again == pytest.approx((together, together))
    assert np.isnan(figures.f1_interval([], np.zeros(0))).all()
    assert np.isnan(figures.f1_interval([Score()], np.zeros(1))).all()


def test_the_report_holds_all_that_was_measured(tiny, tmp_path, monkeypatch):
    recipe, subjects = tiny
    manifest = Manifest.load(MODELS / "au-on-oxide-hrtem.toml")
    monkeypatch.setattr(
        "training.report.time_per_frame",
        lambda readers, sizes: {
            "side_px": 512,
            "processor": "an abacus",
            "reference": "the reference",
            "reference_ms": 100.0,
            "engines": {
                key: {"whole_ms": 2.0, "network_ms": 1.0, "reference_per_network": 100.0} for key in readers
            },
        },
    )
    readers = {name: Reader(lambda *_: Told(np.zeros((0, 2)), np.zeros(0)), 0.5) for name in ("blind", "too")}
    seen = []
    report = evaluate_engine(
        recipe,
        subjects,
        readers,
        dict.fromkeys(readers, manifest),
        tmp_path / "out",
        draws=2,
        doses_e_angstrom2=DOSES,
        log_images=2,
        on_shot=lambda: seen.append(1),
    )
    assert len(seen) == 4
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "calibration.png", "columns.png", "conditions.png", "dose.png", "report.json", "report.md",
    ]  # fmt: skip
    assert max(path.stat().st_size for path in (tmp_path / "out").glob("*.png")) < 150_000
    stored = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert stored == report
    rows = stored["sets"]["all"]["by_dose"]
    assert [row["dose_e_angstrom2"] for row in rows] == list(DOSES)
    assert all(row["recall"] == 0 and row["f1"] == 0 and row["precision"] is None for row in rows)
    assert all(row["log"]["images"] == 2 and row["log"]["f1"] > 0 for row in rows)
    assert stored["sets"]["all"]["images"] == 4
    assert stored["sets"]["usable"]["images"] <= 4
    text = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    for said in ("an abacus", "too on the same images", "at least 0.3", "at most 0.5", "95 % of the columns"):
        assert said in text
    widths = {
        line.count("|") for line in text.split("## By condition")[0].splitlines() if line.startswith("| 310")
    }
    assert all(
        line.count("|") in widths
        for line in text.split("## By condition")[0].splitlines()
        if line.startswith("| 1000 ")
    )


def test_the_time_is_measured_beside_the_reference(monkeypatch):
    from training import timing

    monkeypatch.setattr(timing, "SIDE_PX", 64)
    monkeypatch.setattr(timing, "_REPEATS", 2)
    reader = Reader(lambda *_: Told(np.zeros((0, 2)), np.zeros(0)), 0.5)
    time = timing.time_per_frame({"told": reader}, {"told": 0.02})
    assert time["reference_ms"] > 0
    assert time["engines"]["told"]["network_ms"] == 1.0
    assert time["engines"]["told"]["reference_per_network"] == pytest.approx(time["reference_ms"])
    assert time["processor"]


def test_a_recipe_is_found_by_the_name_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr("training.recipe.RECIPES", tmp_path)
    (tmp_path / "a.toml").write_text(RECIPE, encoding="utf-8")
    assert recipe_named("tiny") == tmp_path / "a.toml"
    with pytest.raises(RecipeError, match=r"got none; give --recipe"):
        recipe_named("huge")
    (tmp_path / "b.toml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"a\.toml, b\.toml; give --recipe"):
        recipe_named("tiny")


def test_the_shipped_engine_knows_the_lattices_its_recipe_simulates():
    axes = {axis.name: axis for axis in known_zone_axes(ParticleSettings())}
    gold = axes["Au <110>"]
    assert gold.spacings_nm == pytest.approx((0.408 / np.sqrt(3), 0.408 / np.sqrt(3)), abs=1e-5)
    assert gold.angle_deg == pytest.approx(70.529, abs=1e-3)
    assert axes["Au <111>"].spacings_nm[0] == pytest.approx(0.408 / np.sqrt(8), abs=1e-5)
    assert not axes["CeO2 <100>"].columns
    assert {axis.columns for axis in known_zone_axes(ParticleSettings(support_fraction=0.0))} == {True}
    for shipped in MODELS.glob("au-on-oxide-hrtem*.toml"):
        assert Manifest.load(shipped).zone_axes == known_zone_axes(ParticleSettings())
