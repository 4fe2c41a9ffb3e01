"""Maps: a site's value stands at its centre, in nm of the specimen's frame."""

from __future__ import annotations

import numpy as np
import pytest

from stream.maps import draw
from stream.tracking import Tracker
from tests.helpers.detections import SPACING_PX, particle


def at(specimen_map, yx_nm) -> np.ndarray:
    """The map's value at the pixel nearest to each position."""
    row, column = np.round((yx_nm - specimen_map.yx_origin_nm) / specimen_map.nm_per_px).astype(int).T
    return specimen_map.array[row, column]


def test_a_value_stands_at_its_site_and_fades_within_half_a_spacing():
    yx = np.array([[-3.0, 5.0], [-3.0, 5.25], [1.0, 7.0]])
    value = np.array([4.0, 1.0, 0.0])
    drawn = draw(yx, value, spacing_nm=0.25, nm_per_px=0.005)
    np.testing.assert_allclose(at(drawn, yx), value, rtol=0.02, atol=0.02)
    faded = at(drawn, np.array([[-3.0, 4.875]]))[0]
    assert faded == pytest.approx(4 * np.exp(-0.5 * (0.5 / 0.22) ** 2), rel=0.1)
    assert drawn.array.dtype == np.float32
    assert drawn.array.max() == pytest.approx(4.0, rel=0.01)
    np.testing.assert_allclose(drawn.yx_origin_nm, [-3.25, 4.75])
    extent = drawn.yx_origin_nm + (np.array(drawn.array.shape) - 1) * drawn.nm_per_px
    assert (extent >= [1.25, 7.25]).all()


def test_no_sites_make_an_empty_map_and_nan_draws_nothing():
    assert draw(np.empty((0, 2)), np.empty(0), spacing_nm=0.25).array.sum() == 0
    assert draw(np.zeros((1, 2)), np.array([np.nan]), spacing_nm=0.25).array.max() == 0


@pytest.mark.parametrize(("scale", "spacing"), [(0.0, 0.25), (np.nan, 0.25), (0.1, 0.0), (1e-6, 0.25)])
def test_impossible_scales_are_refused(scale, spacing):
    with pytest.raises(ValueError, match=r"above 0 nm|too large"):
        draw(np.array([[0.0, 0.0], [1.0, 1.0]]), np.ones(2), spacing_nm=spacing, nm_per_px=scale)


def test_maps_of_a_session_show_what_happened_where():
    real = particle(60)
    tracker = Tracker((512, 512), 0.02, 0.1)
    for frame in range(60):
        blinking = 20 <= frame < 40
        tracker.update(frame, frame * 10**8, real[1:] if blinking else real)
    tracker.finish()
    maps = tracker.maps(nm_per_px=0.01)
    occurrence, events = at(maps["occurrence"], real * 0.02), at(maps["events"], real * 0.02)
    assert occurrence[0] == pytest.approx(40 / 60, abs=0.02)
    np.testing.assert_allclose(occurrence[1:], 1.0, atol=0.03)
    assert events[0] == pytest.approx(2.0, rel=0.05)
    assert events[1:].max() < 0.2  # the neighbours' share of its disc
    rate, residence, raw = (at(maps[name], real * 0.02) for name in ("rate", "residence", "raw_events"))
    assert rate[0] == pytest.approx(2 / 6, rel=0.1)
    assert residence[0] == pytest.approx(4.0, rel=0.05)  # 40 frames of 0.1 s, and one departure
    assert residence[1:].max() < 0.5
    assert raw[0] == pytest.approx(2.0, rel=0.05)
    assert tracker.maps()["events"].nm_per_px == pytest.approx(SPACING_PX * 0.02 / 8, rel=0.01)
