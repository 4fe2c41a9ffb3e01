"""The images an engine is evaluated on: validation specimens, photographed at every dose, with all that is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from training.dataset import VALIDATION_SEEDS, Truth, agreements, draw_scene, exposures, inside
from training.evaluate import VALIDATION
from training.exitwave import CacheError, ExitWave, exit_waves
from training.facts import SpecimenFacts, specimen_facts
from training.imaging import atom_contrast, transfer
from training.recipe import Recipe

DRAWS = 4  # sets of conditions per specimen that a report shows, unless told
MOST_DRAWS = 12  # that it may show; from there on they are for choosing thresholds
# What an image must meet to be called usable, besides the recipe's `usable_transfer`.
MOST_SMEAR = 0.5  # of the tallest column by its tilt, in distances between neighbouring columns
LEAST_AGREEMENT = 0.95  # share of the judged columns that show one sign of contrast

_BATCH = (
    10  # exit waves imaged together, as `evaluate.validation_images` does: others would be other conditions
)


@dataclass(frozen=True, slots=True)
class Shot:
    """One specimen under one set of conditions, at every dose; an image, or a stack.

    Attributes
    ----------
    specimen, draw : the how manieth of each.
    truth : its columns, in the order of `facts`.
    support_yx_px : (k, 2) f8, atoms of the support in the image.
    defocus_nm, transfer : of the lens; `imaging.transfer`. Of a stack, in its first image.
    agreement : share of the columns that show the commoner sign of contrast there, before any noise.
    least_transfer : |transfer| from which the recipe calls an image usable.
    counts : by dose of each image in e/Å², (k, ny, nx) f4.
    """

    specimen: int
    draw: int
    facts: SpecimenFacts
    truth: Truth
    support_yx_px: np.ndarray
    defocus_nm: float
    transfer: float
    agreement: float
    least_transfer: float
    counts: dict[float, np.ndarray]

    @property
    def usable(self) -> bool:
        """Whether contrast is away from its reversal and columns are neither drawn out nor of both signs."""
        return (
            abs(self.transfer) >= self.least_transfer
            and self.facts.smear <= MOST_SMEAR
            and self.agreement >= LEAST_AGREEMENT
        )


Subjects = tuple[list[ExitWave], list[SpecimenFacts]]


def validation_subjects(recipe: Recipe, cache: Path, specimens: int | None = None) -> Subjects:
    """The first validation specimens of a recipe, all of them for None: exit waves and facts."""
    seeds = range(VALIDATION_SEEDS, VALIDATION_SEEDS + (specimens or recipe.data.validation))
    waves = exit_waves(recipe.validation_specimen, recipe.waves, seeds, cache)
    facts = [
        specimen_facts(recipe.validation_specimen, seed, wave)
        for seed, wave in zip(seeds, waves, strict=True)
    ]
    return waves, facts


def shoot(
    recipe: Recipe,
    waves: Sequence[ExitWave],
    facts: Sequence[SpecimenFacts],
    draws: Iterable[int],
    doses_e_angstrom2: Sequence[float],
) -> Iterator[Shot]:
    """Every specimen under sets of conditions drawn from the recipe, each time at all doses.

    `draws` are the sets' numbers, from 0: draw 0 is the validation images of `evaluate.validation_images`; the others
    are drawn in the same way.

    Raises
    ------
    CacheError
        If an exit wave and its facts are not of the same specimen.
    """
    tagged = [_tagged(wave, fact) for wave, fact in zip(waves, facts, strict=True)]
    for draw in draws:
        for first in range(0, len(waves), _BATCH):
            scene = draw_scene(tagged[first : first + _BATCH], recipe, [VALIDATION + draw, first])
            counts = {
                dose: exposures(scene, [VALIDATION + draw, first, int(dose)], dose).numpy()
                for dose in doses_e_angstrom2
            }
            sampling = torch.tensor([10 * truth.sampling_nm for truth in scene.truths])
            shares = agreements(atom_contrast(scene.intensity[:, 0], sampling), scene.truths)
            weakest = transfer(
                scene.conditions, recipe.waves.energy_ev, recipe.imaging.spacings_angstrom
            ).tolist()
            side = scene.intensity.shape[-1]
            for k, moved in enumerate(scene.truths):
                fact = facts[first + k]
                yield Shot(
                    specimen=first + k,
                    draw=draw,
                    facts=fact,
                    truth=_columns(moved, fact, side),
                    support_yx_px=moved.yx_px[len(fact.place) :],
                    defocus_nm=float(scene.conditions.defocus_angstrom[k]) / 10,
                    transfer=weakest[k],
                    agreement=float(shares[k]),
                    least_transfer=recipe.imaging.usable_transfer,
                    counts={dose: images[k] for dose, images in counts.items()},
                )


def _tagged(wave: ExitWave, fact: SpecimenFacts) -> ExitWave:
    """With the support's atoms as columns of no atoms, so that they are moved about as the columns are."""
    if not np.array_equal(wave.column_yx_nm, fact.column_yx_nm):
        raise CacheError(
            f"an exit wave ({wave.kind}) is not of the specimen drawn from its seed today: expected its "
            f"{len(fact.column_yx_nm)} columns, got {len(wave.column_yx_nm)} elsewhere; simulate the exit waves again "
            "(another --cache)"
        )
    atoms = np.concatenate([wave.column_atoms, np.zeros(len(fact.support_yx_nm), np.int64)])
    return replace(
        wave, column_yx_nm=np.concatenate([wave.column_yx_nm, fact.support_yx_nm]), column_atoms=atoms
    )


def _columns(moved: Truth, fact: SpecimenFacts, side_px: int) -> Truth:
    """The truth without the support's atoms, which come after the columns."""
    n, expected = len(fact.place), len(fact.place) + len(fact.support_yx_nm)
    if len(moved.yx_px) != expected:
        raise ValueError(f"expected {expected} points in the image of a whole box, got {len(moved.yx_px)}")
    return inside(replace(moved, yx_px=moved.yx_px[:n], atoms=moved.atoms[:n]), side_px, side_px)
