"""Facets of a particle whose facets are known."""

from __future__ import annotations

import numpy as np
import pytest

from stream.facets import CORNER, INSIDE, find_facets
from stream.matching import neighbours, spacing
from stream.phantom_particle import gold_particle


def found(yx_nm, occurrence):
    apart = spacing(yx_nm)
    return find_facets(yx_nm, occurrence, neighbours(yx_nm, 1.5 * apart, 8), apart)


def true_normals_deg(rotation_rad: float) -> np.ndarray:
    """Of the phantom particle's six facets seen edge-on, as the picture shows them."""
    steep = np.arctan(np.sqrt(2))
    normals = np.array([0.0, np.pi, steep, -steep, np.pi - steep, np.pi + steep])
    turned = normals + (np.pi / 2 + steep + rotation_rad)  # (sin, cos) of it are y (down) and x
    y, x = np.sin(turned), np.cos(turned)
    return np.sort(np.rad2deg(np.arctan2(-y, x)))


@pytest.mark.parametrize("rotation", [0.0, 0.3, 1.0, 2.2])
def test_the_phantoms_facets_are_found_with_their_directions(rotation):
    rng = np.random.default_rng(1)
    particle = gold_particle(5.0, 10, rotation, (0.05, 0.03))
    yx = particle.yx_nm + rng.normal(0, 0.005, particle.yx_nm.shape)
    facets = found(yx, np.where(particle.occupied, 0.9, 0.1))
    np.testing.assert_allclose(facets.normal_deg, true_normals_deg(rotation), atol=1.5)
    assert len(facets.labels) == 8
    # along each normal, the sites of a facet are its outermost layer and what stands on it
    body = yx[particle.occupied]
    for k, angle in enumerate(np.deg2rad(facets.normal_deg)):
        normal = np.array([-np.sin(angle), np.cos(angle)])
        depth = (body @ normal).max() - yx[facets.facet == k] @ normal
        assert depth.max() < 0.16
        assert np.count_nonzero(facets.facet == k) >= 5
    middle = np.hypot(*yx.T) < 1.2
    assert (facets.facet[middle] == INSIDE).all()


def test_adatoms_and_columns_elsewhere_change_no_facet():
    rng = np.random.default_rng(2)
    particle = gold_particle(5.0, 10, 0.3, (0.05, 0.03))
    yx = particle.yx_nm + rng.normal(0, 0.005, particle.yx_nm.shape)
    occurrence = np.where(particle.occupied, 0.9, 0.1)
    bare = found(yx, occurrence)
    outside = np.flatnonzero(~particle.occupied)
    occurrence[rng.choice(outside, 4, replace=False)] = 0.8
    far = np.concatenate([yx, [[9.0, 9.0], [9.0, 9.25], [9.2, 9.1]]])
    facets = found(far, np.concatenate([occurrence, [1.0, 1.0, np.nan]]))
    np.testing.assert_allclose(facets.normal_deg, bare.normal_deg, atol=3)
    assert (facets.facet[: len(yx)] == bare.facet).mean() > 0.95
    assert (facets.facet[len(yx) :] == CORNER).all()


@pytest.mark.parametrize("yx", [np.empty((0, 2)), np.ones((3, 2)), np.outer(np.arange(12), [0.0, 0.25])])
def test_too_few_sites_or_a_line_have_no_facet(yx):
    beside = neighbours(yx, 0.4, 8) if len(yx) else np.empty((0, 8), int)
    facets = find_facets(yx, np.ones(len(yx)), beside, 0.25)
    assert len(facets.normal_deg) == 0
    assert (facets.facet == CORNER).all()
