# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""The evaluation: faults are counted where they lie, and the report says it all."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

from engines.files import MODELS
from engines.manifest import Manifest
from stream.columns import Columns
from tests.helpers.tiny_recipe import write_recipe
from training import figures
from training.dataset import Truth
from training.evaluate import Score, best_threshold, score_at, usual_width_px
from training.facts import PLACES, SpecimenFacts, displacements, distance_nm, specimen_facts
from training.measure import COLUMN, FALSE, UNJUDGED, WHERE, Measured, Reader, measure
from training.recipe import RecipeError, recipe_named
from training.report import evaluate_engine
from training.shots import Shot
from training.specimen import ParticleSettings, make_particle
from training.zone_axes import known_zone_axes

LEAST_TRANSFER = 0.3  # the recipe's usable_transfer
DOSES = (1000.0, 310.0, 30.0)


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
    """Nine columns on a grid, one of them a single atom, beside a row of support atoms; 96 px of 0.02 nm.

    A tenth is centred above the image.
    """
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
        around=np.where((np.arange(9) == 4)[:, None], [0, 1, 2, 3, 5, 6, 7, 8], -1),
    )
    counts = {dose: np.ones((1, 96, 96), np.float32) for dose in (310.0, 30.0)}
    truth = Truth(yx, atoms, 0.02, "nine", beyond_yx_px=np.array([[-2.0, 60.0]]))
    return Shot(0, 0, facts, truth, support, 5.0, 0.5, 1.0, LEAST_TRANSFER, counts)


def told(yx: list[tuple[float, float]], score: list[float]) -> Measured:
    reader = Reader(lambda *_: Told(np.array(yx, float).reshape(-1, 2), np.array(score)), 0.5)
    return measure([scene()], {"told": reader}, 0)


def test_every_report_is_counted_once_and_where_it_lies():
    measured = told(
        # found, 1 px off; a single atom; nothing beside a column; on the support; in vacuum; too faint to report; what
        # is seen of a column beyond the border
        [(20, 21), (44, 44), (26, 26), (80, 14), (62, 70), (32, 32), (0, 60)],
        [0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.8],
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
    assert sorted(kinds.tolist()) == sorted([COLUMN, COLUMN, UNJUDGED, UNJUDGED, FALSE, FALSE, FALSE])
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


def test_what_is_false_belongs_to_the_place_of_the_column_it_lies_at_or_to_none():
    # the middle column is the bulk's, and found; two beside it, one beside a corner, one far from all columns
    measured = told([(32, 32), (36, 34), (30, 37), (14, 14), (62, 70)], [0.9, 0.8, 0.8, 0.8, 0.8])
    rows = figures.by_place(measured.readings["told"], np.array([0]))
    at_310 = {row["group"]: (row["found"], row["false"]) for row in rows if row["dose_e_angstrom2"] == 310}
    assert at_310 == {"bulk": (1, 2), "surface": (0, 0), "corner": (0, 1)}
    (bulk, *_) = rows
    assert bulk["precision"] == pytest.approx(1 / 3)
    assert bulk["f1"] == pytest.approx(1 / 2)


def reported(right: list[float], wrong: list[float]) -> list[tuple[Columns, Truth]]:
    """One image: columns found with these scores, and places without one reported with those."""
    n = len(right) + len(wrong)
    yx = np.stack([np.full(n, 50.0), 40.0 * np.arange(1, n + 1)], -1)
    score = np.array([*right, *wrong], np.float32)
    columns = Columns(yx.astype(np.float32), 2 + score, score, np.ones(n, np.uint8))
    return [(columns, Truth(yx[: len(right)], np.full(len(right), 5), 0.02, "a row"))]


def test_a_threshold_is_chosen_by_how_many_times_the_errors_are_more_not_by_how_many():
    good = reported([0.9] * 96 + [0.55] * 4, [0.5] * 9)  # at a high dose: 9 errors below 0.5, 4 above 0.55
    poor = reported([0.9] * 50 + [0.45] * 25 + [0.1] * 20, [0.8] * 30)
    of_good = [score_at(good, t).error_share for t in (0.4, 0.52, 0.6)]
    of_poor = [score_at(poor, t).error_share for t in (0.4, 0.52, 0.6)]
    assert of_good[1] < of_good[2] < of_good[0]
    assert of_poor[0] < of_poor[1] == of_poor[2]
    assert score_at(good, 0.4).f1 + score_at(poor, 0.4).f1 > score_at(good, 0.52).f1 + score_at(poor, 0.52).f1
    assert 0.5 < best_threshold({310.0: good, 10.0: poor}) <= 0.55
    assert best_threshold({10.0: poor}) <= 0.45


def test_no_error_at_all_can_be_compared():
    assert Score(found=100).error_share == pytest.approx(1 / 201)
    assert Score(found=1000).error_share < Score(found=100).error_share


def test_the_usual_width_is_that_of_likely_columns():
    assert usual_width_px({310.0: reported([0.6, 0.7, 0.8], [0.1] * 9)}) == pytest.approx(2.7)
    assert usual_width_px({310.0: reported([0.2], [0.1])}) is None


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


def test_the_report_holds_all_that_was_measured(supported, tmp_path, monkeypatch):
    recipe, subjects = supported
    manifest = Manifest.load(MODELS / "au-on-oxide-hrtem.toml")
    monkeypatch.setattr(
        "training.report.time_per_frame",
        lambda readers, sizes, channels: {
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
    write_recipe(tmp_path).rename(tmp_path / "a.toml")
    assert recipe_named("tiny") == tmp_path / "a.toml"
    with pytest.raises(RecipeError, match=r"got none; give --recipe"):
        recipe_named("huge")
    write_recipe(tmp_path).rename(tmp_path / "b.toml")
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


def test_a_displacement_is_from_the_middle_of_the_neighbours():
    yx = np.array(
        [[1.0, 1.0], [0.0, 1.0], [2.0, 1.0], [1.0, 9.9], [1.0, 2.0]]
    )  # one of them across the border
    around = np.array([[1, 2, 3, 4], *[[-1] * 4] * 4])
    away = displacements(yx + (np.arange(5) == 0)[:, None] * (0.25, -0.5), around, 10.0)
    np.testing.assert_allclose(away[0], (0.25, -0.5 + (1.1 - 1.0) / 4), atol=1e-12)
    assert np.isnan(away[1:]).all()
    assert displacements(np.zeros((0, 2)), np.zeros((0, 8), int), 10.0).shape == (0, 2)


@pytest.mark.parametrize("twinned", [0.0, 1.0])
def test_neighbours_of_a_particle_are_pairs_in_its_lattice_displaced_or_not(twinned: float):
    settings = ParticleSettings(
        zone_axes=("110",), tilt_deg=(0.0, 0.0), disorder_angstrom=(0.0, 0.0), support_fraction=0.0,
        empty_fraction=0.0, twinned_fraction=twinned, diameter_angstrom=(28.0, 30.0),
    )  # fmt: skip
    whole = make_particle(settings, 1)
    facts = specimen_facts(settings, 1)
    inner = (facts.around >= 0).any(1)
    bulk = facts.place == PLACES["particle"].index("bulk")
    assert (
        inner[bulk].all() if not twinned else 0.5 < inner[bulk].mean() < 0.98
    )  # not on the plane of the twin
    assert bulk[inner].all()
    away = displacements(whole.column_yx_nm, facts.around, 1e3)
    np.testing.assert_allclose(away[inner], 0, atol=1e-6)  # columns of one lattice, displaced by nothing


@pytest.mark.parametrize("seen", [0.0, 0.6, 1.0])
def test_the_share_of_displacements_that_an_engine_sees_is_told(seen: float):
    whole, moved = scene(), np.array([0.5, -0.3])
    truth = whole.truth
    shot = replace(whole, truth=replace(truth, yx_px=truth.yx_px + moved * (np.arange(9) == 4)[:, None]))
    reports = truth.yx_px + seen * moved * (np.arange(9) == 4)[:, None]
    reader = Reader(lambda *_: Told(reports, np.full(9, 0.9)), 0.5)
    measured = measure([shot], {"told": reader}, 0)
    row, _ = figures.by_dose(measured, measured.readings["told"], np.array([0]))
    assert row["displacement_seen"] == pytest.approx(seen, abs=1e-4)
