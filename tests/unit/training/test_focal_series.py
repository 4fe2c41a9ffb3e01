# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""Focal series: short stacks of one specimen, from the recipe to the columns that an engine finds in them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

import training.train as training_run
from engines.manifest import EngineMismatch, Manifest
from engines.runtime import open_engine
from stream.config import EngineSettings
from stream.detect import detect_images
from stream.infer import ColumnFinder
from stream.normalize import normalize_exact
from tests.helpers.tiny_recipe import write_recipe
from training.average import average
from training.camera import expose
from training.checkpoint import Checkpoint, TrainingError
from training.dataset import (
    TrainingImages,
    draw_scene,
    exposures,
    photograph,
    training_waves,
    validation_waves,
)
from training.device_images import DeviceImages
from training.export import export
from training.imaging import ImagingSettings, draw_conditions, generator_for, optics
from training.measure import Reader, measure
from training.recipe import Recipe, load_recipe
from training.report import evaluate_engine
from training.shots import shoot, validation_subjects
from training.sources import calibration_images

CPU = torch.device("cpu")
SERIES = "[imaging]\nfocal_series_angstrom = [0.0, 80.0]"
run = partial(training_run.train, device="cpu", threads=1, workers=0)


@pytest.fixture
def stacks(tmp_path: Path) -> Recipe:
    """Of two images."""
    return load_recipe(write_recipe(tmp_path, steps=2, more=SERIES))


def test_images_of_a_stack_differ_in_defocus_alone_and_show_the_same_film():
    settings = ImagingSettings(amorphous_angstrom=(50.0, 60.0), amorphous_fraction=1.0)
    conditions = draw_conditions(settings, 2, 300e3, generator_for(0))
    vacuum, sampling = torch.ones(2, 64, 64, dtype=torch.complex64), torch.full((2,), 0.2)
    imaged = partial(optics, vacuum, sampling, energy_ev=300e3)
    stack = imaged(conditions=conditions, generator=generator_for(1), focal_series_angstrom=(0.0, 80.0, 0.0))
    assert stack.shape == (2, 3, 64, 64)
    assert torch.equal(stack[:, 0], stack[:, 2])
    assert float((stack[:, 0] - stack[:, 1]).abs().max()) > 0.01
    conditions.defocus_angstrom += 80.0
    (alone,) = imaged(conditions=conditions, generator=generator_for(1)).unbind(1)
    assert torch.equal(stack[:, 1], alone)


def test_every_image_of_a_stack_has_the_dose_and_its_own_noise():
    conditions = draw_conditions(ImagingSettings(dose_e_angstrom2=(100.0, 100.0)), 1, 300e3, generator_for(0))
    first, second = expose(torch.ones(1, 2, 128, 128), torch.tensor([0.2]), conditions, generator_for(1))[0]
    assert float(first.mean()) == pytest.approx(4.0, rel=0.03)
    assert float(second.mean()) == pytest.approx(4.0, rel=0.03)
    noise = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(noise) < 0.05


def test_the_first_of_a_stack_is_the_image_that_is_taken_alone(cache, stacks):
    alone = load_recipe(cache / "recipe.toml")
    assert (alone.input_channels, stacks.input_channels) == (1, 2)
    waves = validation_waves(stacks, cache)
    one, two = (draw_scene(waves, recipe, [1]) for recipe in (alone, stacks))
    assert torch.equal(one.intensity, two.intensity[:, :1])
    assert [truth.yx_px.tolist() for truth in one.truths] == [truth.yx_px.tolist() for truth in two.truths]
    counts, images = exposures(two, [2], 1e4).numpy(), photograph(two, stacks, [2], 1e4).numpy()
    assert images.shape == (2, 2, 96, 96)
    for stack, normalized in zip(counts, images, strict=True):
        assert np.abs(normalized - normalize_exact(stack, 50.0)).mean() < 1e-3


def test_a_device_makes_the_stacks_that_the_cpu_makes(cache, stacks):
    there = DeviceImages(stacks, training_waves(stacks, cache), 2, CPU)
    here = TrainingImages(stacks, cache, 2)
    for step in range(2):
        (images, labels), (expected, expected_labels) = there[step], here[step]
        assert images.shape == expected.shape == (2, 2, 64, 64)
        assert float((images - expected).abs().max()) < 1e-4
        assert labels.shape == expected_labels.shape == (2, 1, 32, 32)
    assert calibration_images(stacks, cache).shape == (3, 2, 96, 96)


def test_a_training_goes_on_only_with_as_many_images(cache, stacks, tmp_path):
    trained = run(stacks, tmp_path / "two", cache=cache)
    assert (tmp_path / "two/samples/step-000002.png").exists()
    alone = load_recipe(cache / "recipe.toml")
    with pytest.raises(TrainingError, match=r"a slim16_s2 of 2 images .* trains a slim16_s2 of 1 images"):
        run(alone, tmp_path / "one", cache=cache, start_from=trained)
    checkpoint = Checkpoint.load(trained)
    assert average(stacks, [checkpoint, checkpoint], cache).network["down.0.0.weight"].shape[1] == 2 * 4
    with pytest.raises(
        TrainingError, match=r"of a slim16_s2 for column was asked for, got 2 of .* stacks of 2 images"
    ):
        average(alone, [checkpoint, checkpoint], cache)


@pytest.mark.slow  # two networks are quantized
def test_an_engine_for_stacks_is_trained_exported_judged_and_used(cache, stacks, tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    out = tmp_path / "out"
    written = export(run(stacks, out, cache=cache), "pairs", out, cache=cache)
    assert [Manifest.load(path).input_channels for path in written] == [2] * 4
    subjects = validation_subjects(stacks, cache)
    shots = list(shoot(stacks, *subjects, range(1), (1000.0,)))
    manifests = {path.stem: Manifest.load(path) for path in written}
    for path in written:
        with open_engine(path, threads=1) as engine:  # its golden output is reproduced
            measured = measure(shots, {path.stem: Reader(partial(ColumnFinder, engine), 0.5)}, log_images=1)
        assert len(measured.readings[path.stem].true) == sum(len(shot.truth.yx_px) for shot in shots)
        assert len(measured.log) == 1

        stack = np.concatenate([shot.counts[1000.0] for shot in shots])
        np.save(tmp_path / "series.npy", stack)
        chosen = EngineSettings(name=str(path), device="cpu", threshold=0.01)
        summary = detect_images([tmp_path / "series.npy"], tmp_path / "columns.csv", chosen, 0.02, None)
        assert summary["frames"] == 4
        frames = np.genfromtxt(tmp_path / "columns.csv", delimiter=",", names=True)["frame"]
        assert set(frames) <= {0, 2}
        np.save(tmp_path / "odd.npy", stack[:3])
        with pytest.raises(EngineMismatch, match=r"expected a multiple of that in .*odd\.npy, got 3"):
            detect_images([tmp_path / "odd.npy"], tmp_path / "no.csv", chosen, 0.02, None)
    monkeypatch.setattr("training.timing.SIDE_PX", 64)
    with open_engine(written[0], threads=1) as engine:
        readers = {"pairs-fp32": Reader(partial(ColumnFinder, engine), 0.5)}
        evaluate_engine(stacks, subjects, readers, manifests, tmp_path / "report", draws=1, log_images=1)
    text = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert "An image here is a stack of 2, at 0, 8 nm of defocus from the first" in text
    alone = load_recipe(cache / "recipe.toml")
    with pytest.raises(EngineMismatch, match=r"pairs-fp32 .* expected it to read 1 at once .* got 2"):
        evaluate_engine(alone, subjects, {}, manifests, tmp_path / "report")
