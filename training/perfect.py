"""What a perfect microscope would report: where exit waves have their spots, beside the mean of a column's atoms.

`python -m training.perfect training/recipes/au-on-oxide.toml`: no noise, no lens and no network, at several distances
below the middle of the particle. An engine's positions are measured against the same truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stream.columns import find_columns
from training.dataset import DEFAULT_CACHE, Truth
from training.evaluate import pair
from training.exitwave import ExitWave, propagate
from training.facts import PLACES, SpecimenFacts
from training.imaging import wavelength_angstrom
from training.recipe import load_recipe
from training.shots import MOST_SMEAR, validation_subjects

DISTANCES_NM = (-2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
FINEST_NM = 0.08  # details that are seen; finer ones are damped, as by the best lenses
LEAST = 1e-3  # of the brightest spot's height: what is lower is not taken for a column
_BULK = PLACES["particle"].index("bulk")


def spots(wave: np.ndarray, sampling_nm: float, wavelength_nm: float, distance_nm: float) -> np.ndarray:
    """Intensity of what was scattered, (n, n), 1 at the brightest spot, at a distance below the particle's middle."""
    there = propagate(wave, distance_nm, sampling_nm, wavelength_nm)
    q = np.fft.fftfreq(len(wave), sampling_nm)
    damping = np.exp(-(((q[:, None] ** 2 + q[None, :] ** 2) * FINEST_NM**2) ** 2))
    seen = np.fft.ifft2(np.fft.fft2(there) * damping)
    scattered = np.abs(seen - seen.mean()) ** 2
    return scattered / scattered.max()


def offsets_pm(
    wave: ExitWave, facts: SpecimenFacts, wavelength_nm: float, distance_nm: float
) -> tuple[np.ndarray, int]:
    """(k, 2) f8: how far the spots of bulk columns are from the columns; and how many of those there are."""
    shown = spots(wave.wave, wave.sampling_nm, wavelength_nm, distance_nm).astype(np.float32)
    found = find_columns(
        np.stack([1 - shown, shown]), threshold=LEAST, min_distance_px=0.1 / wave.sampling_nm
    )
    truth = Truth(wave.column_yx_nm / wave.sampling_nm, wave.column_atoms, wave.sampling_nm, wave.kind)
    i, j, _ = pair(found.yx_px, truth)
    asked = truth.judged & (np.asarray(facts.place) == _BULK)
    off_px = (found.yx_px[i] - truth.yx_px[j])[asked[j]]
    return off_px * wave.sampling_nm * 1e3, int(asked.sum())


def rows(
    waves: Sequence[ExitWave], facts: Sequence[SpecimenFacts], energy_ev: float
) -> Iterator[tuple[float, float, float, int, int]]:
    """Distance in nm, rms and median of the offsets in pm, bulk columns with a spot, and all of them; of specimens
    whose columns are not drawn out by a tilt, as in usable images."""
    for distance_nm in DISTANCES_NM:
        each = [
            offsets_pm(wave, about, wavelength_angstrom(energy_ev) / 10, distance_nm)
            for wave, about in zip(waves, facts, strict=True)
            if about.smear <= MOST_SMEAR
        ]
        off_pm = np.linalg.norm(np.concatenate([off for off, _ in each]), axis=1)
        yield (
            distance_nm,
            float(np.sqrt((off_pm**2).mean())),
            float(np.median(off_pm)),
            len(off_pm),
            sum(n for _, n in each),
        )


def main() -> None:
    """`python -m training.perfect`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of exit waves")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    print("below the middle, nm | rms, pm | median, pm | spots of bulk columns")
    for distance_nm, rms, median, seen, asked in rows(
        *validation_subjects(recipe, arguments.cache), recipe.waves.energy_ev
    ):
        print(f"{distance_nm:g} | {rms:.2f} | {median:.2f} | {seen} of {asked}")


if __name__ == "__main__":
    main()
