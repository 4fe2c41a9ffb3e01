"""Blobs without a network: their period, their places, which are particles and which stand out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_laplace
from scipy.spatial import KDTree

from stream.blobs import find_blobs, outstanding, particles, strongest_period
from tests.helpers.blob_movie import draw, honeycomb, triangular

SHAPE = (200, 240)


@pytest.mark.parametrize("period", [9.0, 16.0, 25.0])
def test_the_period_of_a_lattice_is_found_in_noise(period):
    rng = np.random.default_rng(3)
    image = draw(honeycomb(period, SHAPE), 1.0, 0.2 * period, SHAPE) + rng.normal(0, 1, SHAPE)
    assert strongest_period(image[None]) == pytest.approx(period, rel=0.05)


def test_noise_alone_has_no_period():
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="no period stands out"):
        strongest_period(rng.normal(0, 1, (16, 128, 128)))


@pytest.mark.parametrize("contrast", ["bright", "dark"])
def test_particles_are_found_where_they_are_and_nowhere_else(contrast):
    rng = np.random.default_rng(5)
    yx = triangular(12.0, SHAPE)
    yx = yx[yx[:, 1] < 150] + rng.normal(0, 0.7, (np.count_nonzero(yx[:, 1] < 150), 2))
    sign = 1 if contrast == "bright" else -1
    image = 20 + sign * draw(yx, rng.uniform(4, 6, len(yx)), 2.4, SHAPE) + rng.normal(0, 1, SHAPE)
    found = particles(find_blobs(image, strongest_period(image[None]), contrast))
    inner = yx[np.all((yx > 6) & (yx < np.array(SHAPE) - 6), axis=1)]
    apart, _ = KDTree(found.yx_px).query(inner)
    assert (apart < 2).all()
    assert np.sqrt((apart**2).mean()) < 0.4
    assert (KDTree(yx).query(found.yx_px)[0] < 2).all()


def test_the_noise_of_the_response_is_what_white_noise_gives():
    rng = np.random.default_rng(6)
    image = rng.normal(5, 2.0, (300, 300))
    blobs = find_blobs(image, 12.0, "bright")
    sigma = 12.0 * np.sqrt(2) / (2 * np.pi)
    assert blobs.noise == pytest.approx(sigma**2 * gaussian_laplace(image, sigma).std(), rel=0.05)
    assert len(particles(blobs)) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_an_atom_that_outshines_its_lattice_is_found_alone(seed):
    rng = np.random.default_rng(seed)
    atoms = honeycomb(25.0, SHAPE)
    height = np.ones(len(atoms))
    dopant = int(np.argmin(np.hypot(*(atoms - rng.uniform(40, 160, 2)).T)))
    clean = draw(atoms, height, 5.0, SHAPE) + rng.normal(0, 0.5, SHAPE)
    assert len(outstanding(find_blobs(clean, 25.0, "bright"), 25.0)) == 0
    height[dopant] = 4.0
    image = draw(atoms, height, 5.0, SHAPE) + rng.normal(0, 0.5, SHAPE)
    (found,) = outstanding(find_blobs(image, 25.0, "bright"), 25.0).yx_px
    assert np.hypot(*(found - atoms[dopant])) < 1


def test_a_flat_image_holds_nothing():
    for contrast in ("bright", "dark"):
        blobs = find_blobs(np.full((64, 64), 7, np.uint16), 10.0, contrast)
        assert len(blobs) == len(particles(blobs)) == len(outstanding(blobs, 10.0)) == 0
