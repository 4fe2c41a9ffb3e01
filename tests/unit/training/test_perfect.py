"""Spots of waves whose columns are known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("abtem")

from training.exitwave import ExitWave
from training.facts import SpecimenFacts
from training.labels import column_map
from training.perfect import offsets_pm, rows

WAVELENGTH_NM, SAMPLING_NM, SIDE = 0.00197, 0.02, 160
GRID = np.stack(np.meshgrid(*[np.arange(16, 150, 12.0)] * 2, indexing="ij"), -1).reshape(-1, 2)


def specimen(off_px: np.ndarray, bulk: np.ndarray, smear: float = 0.0) -> tuple[ExitWave, SpecimenFacts]:
    """Phase spots on a grid, beside which the columns are said to be."""
    phase = column_map(GRID, (SIDE, SIDE), 2.5, height=np.linspace(0.4, 1, len(GRID)))
    wave = np.exp(0.3j * phase).astype(np.complex64)
    yx_nm = (GRID + off_px) * SAMPLING_NM
    facts = SpecimenFacts(
        "100", 0.0, 0.24, smear, yx_nm, np.where(bulk, 0, 1), np.zeros(len(GRID)), np.zeros((0, 2)),
        np.zeros((len(GRID), 0), int),
    )  # fmt: skip
    return ExitWave(wave, SAMPLING_NM, yx_nm, np.full(len(GRID), 4), "spots"), facts


def test_it_is_how_far_bulk_columns_are_from_their_spots() -> None:
    bulk = np.arange(len(GRID)) % 3 > 0
    off_px = np.where(bulk[:, None], [[0.3, -0.4]], [[2.0, 0.0]])
    off_pm, asked = offsets_pm(*specimen(off_px, bulk), WAVELENGTH_NM, 0.0)
    assert len(off_pm) == asked == bulk.sum()
    np.testing.assert_allclose(off_pm, np.broadcast_to([[-6.0, 8.0]], off_pm.shape), atol=0.4)


def test_specimens_that_are_drawn_out_by_a_tilt_are_left_out() -> None:
    everywhere = np.ones(len(GRID), bool)
    good, drawn_out = specimen(0 * GRID, everywhere), specimen(GRID * 0 + 3.0, everywhere, smear=0.9)
    waves, facts = zip(good, drawn_out, strict=True)
    for _, rms_pm, median_pm, seen, asked in rows(waves, facts, 300e3):
        assert seen == asked == len(GRID)
        assert median_pm <= rms_pm < 0.6
