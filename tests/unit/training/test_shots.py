# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""What is shown to an engine: specimens with their facts, and shots that are the validation images again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

from training.evaluate import validation_images
from training.exitwave import CacheError
from training.facts import PLACES, distance_nm, specimen_facts
from training.shots import LEAST_AGREEMENT, MOST_DRAWS, MOST_SMEAR, shoot
from training.sources import threshold_images
from training.specimen import ParticleSettings, make_particle

LEAST_TRANSFER = 0.3  # the recipe's usable_transfer


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


def test_shots_are_the_validation_images_and_know_where_the_support_is(supported):
    recipe, (waves, facts) = supported
    shots = list(shoot(recipe, waves, facts, range(2), (310.0,)))
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


def test_beyond_the_border_of_a_shot_are_columns_and_no_support(supported):
    recipe, (waves, facts) = supported
    seen = 0
    for shot in shoot(recipe, waves, facts, range(8), (310.0,)):
        columns = {tuple(at) for at in (shot.truth.yx_px % 96).round(6).tolist()}
        outside = shot.truth.beyond_yx_px
        assert ((outside < -0.5) | (outside >= 95.5)).any(1).all()
        assert {tuple(at) for at in (outside % 96).round(6).tolist()} <= columns
        seen += len(outside)
    assert seen > 5


def test_an_exit_wave_of_another_specimen_is_refused(supported):
    recipe, (waves, facts) = supported
    with pytest.raises(CacheError, match="not of the specimen drawn from its seed"):
        next(shoot(recipe, waves, facts[::-1], [0], (310.0,)))


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
def test_usable_takes_all_three(supported, transfer, smear, agreement, usable):
    recipe, (waves, facts) = supported
    shot = next(shoot(recipe, waves, facts, [0], (310.0,)))
    shot = replace(shot, transfer=transfer, agreement=agreement, facts=replace(shot.facts, smear=smear))
    assert shot.usable is usable


@pytest.mark.parametrize("weakest", ["half of them", "all"])
def test_thresholds_are_chosen_on_usable_images_that_no_report_shows(supported, monkeypatch, weakest):
    """And on all where none is usable."""
    recipe, subjects = supported
    transfers = [
        abs(shot.transfer) for shot in shoot(recipe, *subjects, range(MOST_DRAWS, MOST_DRAWS + 4), (310.0,))
    ]
    least_transfer = np.median(transfers) if weakest == "half of them" else max(transfers) + 0.01
    imaging = recipe.imaging.model_copy(update={"usable_transfer": least_transfer})
    recipe = recipe.model_copy(update={"imaging": imaging})
    monkeypatch.setattr("training.sources.validation_subjects", lambda *_: subjects)
    reported = {shot.truth.yx_px.tobytes() for shot in shoot(recipe, *subjects, range(MOST_DRAWS), (310.0,))}
    later = list(shoot(recipe, *subjects, range(MOST_DRAWS, MOST_DRAWS + 4), (310.0,)))
    usable = [shot for shot in later if shot.usable]
    assert (0 < len(usable) < len(later)) == (weakest == "half of them")
    chosen = [shot.truth.yx_px.tobytes() for shot in usable or later]
    assert not reported & set(chosen)
    shown = threshold_images(recipe, Path("unused"))
    assert list(shown) == list(recipe.data.doses_e_angstrom2)
    for images in shown.values():
        assert [truth.yx_px.tobytes() for _, truth in images] == chosen
        assert all(abs(float(np.median(image))) < 1 for image, _ in images)
