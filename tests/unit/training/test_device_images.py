# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""Images made on a device are those that numpy and numba make; here the device is the CPU."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

from stream.normalize import Normalizer
from training.camera import expose
from training.dataset import TrainingImages, Truth, training_waves
from training.device_images import DeviceImages, DeviceNormalizer, column_maps
from training.imaging import (
    Conditions,
    ImagingSettings,
    atom_contrast,
    draw_conditions,
    generator_for,
    optics,
    transfer,
)
from training.labels import column_map
from training.recipe import load_recipe

CPU = torch.device("cpu")


def test_a_device_makes_the_images_that_the_cpu_makes(cache):
    recipe = load_recipe(cache / "recipe.toml")
    there = DeviceImages(recipe, training_waves(recipe, cache), 2, CPU)
    here = TrainingImages(recipe, cache, 2)
    for step in range(4):
        (images, labels), (expected, expected_labels) = there[step], here[step]
        assert images.shape == expected.shape
        assert float((images - expected).abs().max()) < 1e-4
        assert float((labels - expected_labels).abs().max()) < 1e-4
        assert float(expected_labels.max()) > 0.5


@pytest.mark.parametrize(("shape", "sigma_px"), [((320, 320), 50.0), ((96, 128), 50.0), ((64, 80), 6.0)])
def test_the_normalization_is_the_streams(shape, sigma_px):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    light = 50 + 20 * np.sin(x / 30) + 0.2 * y
    images = rng.poisson(np.stack([light, 0.05 * light, 1e3 * light])).astype("f4")
    images[0, :, : shape[1] // 2] = 7.0  # a beam stop's shadow: flat
    ours = DeviceNormalizer(shape, sigma_px, CPU)(torch.from_numpy(images)[:, None])[:, 0].numpy()
    theirs = Normalizer(shape, sigma_px)
    for image, mine in zip(images, ours, strict=True):
        assert np.abs(mine - theirs(image)).max() < 1e-4
    flat = DeviceNormalizer(shape, sigma_px, CPU)(torch.full((1, 1, *shape), 3.0))
    assert float(flat.abs().max()) == 0


def test_labels_of_a_batch_are_those_of_each_image():
    rng = np.random.default_rng(1)
    truths = [Truth(rng.uniform(-3, 67, (n, 2)), np.arange(n) % 3, 0.018 + n * 1e-4, "") for n in (30, 0, 7)]
    maps = column_maps(truths, 32, 0.45, 2, CPU).numpy()
    for truth, made in zip(truths, maps, strict=True):
        expected = column_map(truth.shown_yx_px, (32, 32), 0.45 / (10 * truth.sampling_nm), 2)
        assert np.abs(made - expected).max() < 1e-4


def test_nothing_is_left_on_the_cpu(monkeypatch):
    """Tensors without content stand in for a GPU's: they refuse to meet those of the CPU."""
    meta = torch.device("meta")
    on_cpu = draw_conditions(ImagingSettings(), 2, 300e3, generator_for(0))
    there = Conditions(*(getattr(on_cpu, name).to(meta) for name in Conditions.__slots__))
    sampling = torch.full((2,), 0.2, device=meta)
    waves = torch.zeros(2, 64, 64, dtype=torch.complex64, device=meta)
    monkeypatch.setattr(torch, "any", lambda _: True)  # that there is a film cannot be seen in no content
    intensity = optics(waves, sampling, there, 300e3, None)
    made = [
        expose(intensity, sampling, there, None),
        atom_contrast(intensity[:, 0], sampling),
        transfer(there, 300e3, ImagingSettings().spacings_angstrom),
        DeviceNormalizer((64, 64), 20.0, meta)(intensity),
        column_maps([Truth(np.zeros((3, 2)), np.ones(3), 0.02, "")], 32, 0.45, 2, meta),
    ]
    assert all(tensor.device == meta for tensor in (intensity, *made))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_images_have_the_same_statistics(cache):
    recipe = load_recipe(cache / "recipe.toml")
    there = DeviceImages(recipe, training_waves(recipe, cache), 2, torch.device("cuda:0"))
    images, labels = there[0]
    assert images.device.type == labels.device.type == "cuda"
    assert float(images.std()) == pytest.approx(1, abs=0.1)
    assert float(labels.max()) > 0.5
    assert torch.equal(there[0][0], images)
