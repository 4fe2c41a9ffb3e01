"""From images to hops: a phantom's frames through the shipped network and the tracker, against the truth.

`python -m tests.golden.test_phantom_hops [ENGINE] [DOSE ...]` prints the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engines.runtime import open_engine
from stream.config import EngineSettings
from stream.demo import TALLEST_ATOMS
from stream.infer import ColumnFinder
from stream.phantom import Phantom
from stream.tracking import Tracker
from tests.helpers.detections import Score, Session, of_phantom

FRAMES = 600
SEEDS = (1, 2, 3, 101, 102)
ENGINE = EngineSettings().name


def columns_of(phantom: Phantom, engine_name: str, frames: int) -> Iterator[tuple[int, int, np.ndarray]]:
    with open_engine(engine_name) as engine:
        finder = ColumnFinder(engine, phantom.header.shape_yx, phantom.truth.pixel_size_nm)
        for index in range(frames):
            yield index, index * 33_333_333, finder.find(phantom.render(index))[0].yx_px


def hop_score(
    seed: int, dose_e_nm2: float, engine_name: str = ENGINE, tallest_atoms: int = TALLEST_ATOMS
) -> Score:
    phantom = Phantom(seed=seed, frames=FRAMES, dose_e_nm2=dose_e_nm2, max_height=tallest_atoms)
    truth = phantom.truth
    tracker = Tracker(phantom.header.shape_yx, truth.pixel_size_nm, 1 / 30)
    session = Session(tracker).feed(columns_of(phantom, engine_name, FRAMES)).finish()
    return session.score(of_phantom(truth), truth.drift_yx_px)


def column_score(
    seed: int,
    dose_e_nm2: float,
    engine_name: str = ENGINE,
    contrast: Literal["dark", "bright"] = "dark",
    tallest_atoms: int = TALLEST_ATOMS,
) -> tuple[float, float, float]:
    """Precision, recall and rms position error in pm of columns in every 50th frame."""
    phantom = Phantom(
        seed=seed, frames=FRAMES, dose_e_nm2=dose_e_nm2, contrast=contrast, max_height=tallest_atoms
    )
    found = true = hit = 0
    squared_px = 0.0
    with open_engine(engine_name) as engine:
        finder = ColumnFinder(engine, phantom.header.shape_yx, 0.02)
        for index in range(0, FRAMES, 50):
            yx_px = finder.find(phantom.render(index))[0].yx_px
            truth_px = phantom.truth.columns(index)
            half_px = 0.5 * np.median(cKDTree(truth_px).query(truth_px, 2)[0][:, 1])
            apart, partner = cKDTree(truth_px).query(yx_px, distance_upper_bound=half_px)
            order = np.argsort(apart)
            _, first = np.unique(partner[order], return_index=True)
            pairs = order[first][np.isfinite(apart[order[first]])]
            found, true, hit = found + len(yx_px), true + len(truth_px), hit + len(pairs)
            squared_px += float((apart[pairs] ** 2).sum())
    return hit / found, hit / true, float(np.sqrt(squared_px / max(hit, 1)) * 20)


def f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", SEEDS)
def test_columns_of_the_demo_are_right_at_310_electrons_per_square_angstrom(seed: int) -> None:
    precision, recall, _ = column_score(seed, 31_000)
    assert f1(precision, recall) >= 0.95


def test_hops_of_the_demo_are_found_and_missed_detections_are_not_reported() -> None:
    score = hop_score(1, 31_000)
    print(score)
    assert score.switches > 200
    assert score.recall > score.raw_recall
    assert score.precision > 0.85
    assert score.precision > 4 * score.raw_precision
    assert score.hop_precision > 0.95


def main(engine_name: str = ENGINE, *doses_e_nm2: str) -> None:
    for dose in [float(d) for d in doses_e_nm2] or [31_000.0]:
        for tallest in (TALLEST_ATOMS, 14):
            for seed in SEEDS:
                precision, recall, rms_pm = column_score(seed, dose, engine_name, "dark", tallest)
                print(
                    f"seed {seed}, up to {tallest} atoms, {dose:g} e/nm²: columns F1 {f1(precision, recall):.4f} "
                    f"(precision {precision:.4f}, recall {recall:.4f}), {rms_pm:.1f} pm rms; "
                    f"{hop_score(seed, dose, engine_name, tallest)}",
                    flush=True,
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
