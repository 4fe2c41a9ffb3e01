"""Batches of simulated images with their truth: every step a fresh one, and the same one for the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from stream.normalize import Normalizer
from training.camera import expose
from training.exitwave import ExitWave, cache_path, exit_waves, load_wave
from training.imaging import (
    Conditions,
    atom_contrast,
    draw_conditions,
    generator_for,
    join,
    optics,
)
from training.labels import column_map
from training.recipe import Recipe

VALIDATION_SEEDS = 100_000  # validation specimens are numbered from here, training ones from 0
_DRAWS = 10
DEFAULT_CACHE = Path(__file__).parent / "cache"
_BEYOND_NM = 0.2  # more than half of any distance between columns, within which reports are matched


@dataclass(frozen=True, slots=True)
class Truth:
    """The columns in one image: yx_px (n, 2) f8, atoms (n,) i8, and the image's pixel size.

    `judged_atoms`: columns of fewer atoms neither count when found nor when missed. `classes` (n,) u1: 1 the first kind
    of column; None where there is one kind. `beyond_yx_px` (k, 2) f8: columns centred just outside the image, which
    shows a part of them; a report of one is not false. Columns of no atoms are hidden by contamination.
    """

    yx_px: np.ndarray
    atoms: np.ndarray
    sampling_nm: float
    kind: str
    judged_atoms: int = 2
    classes: np.ndarray | None = None
    beyond_yx_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def judged(self) -> np.ndarray:
        """(n,) bool, the columns that count."""
        return self.atoms >= self.judged_atoms

    @property
    def shown_yx_px(self) -> np.ndarray:
        """(k, 2) f8, the columns of which the image shows something, those beyond its border too."""
        return np.concatenate([self.yx_px[self.atoms > 0], self.beyond_yx_px])


@dataclass(frozen=True, slots=True)
class Placing:
    """How an image is moved: rolled by (y, x) pixels, then transposed or not, then mirrored or not along y and x."""

    shift_px: tuple[int, int]
    transposed: bool
    mirrored: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class Scene:
    """Exit waves as a lens shows them, before any noise; on the device they were imaged on.

    Attributes
    ----------
    intensity : (b, k, ny, nx) f4, 1 in vacuum; the k images of a stack are the recipe's focal series.
    conditions, truths : of each stack.
    """

    intensity: torch.Tensor
    conditions: Conditions
    truths: list[Truth]


def training_waves(recipe: Recipe, cache: Path, workers: int = 2) -> list[ExitWave]:
    """The training exit waves; afterwards every one is on disk."""
    return exit_waves(recipe.specimen, recipe.waves, range(recipe.data.training), cache, workers)


def validation_waves(recipe: Recipe, cache: Path, workers: int = 2) -> list[ExitWave]:
    """The validation exit waves: other specimens than any that is trained on."""
    seeds = range(VALIDATION_SEEDS, VALIDATION_SEEDS + recipe.data.validation)
    return exit_waves(recipe.validation_specimen, recipe.waves, seeds, cache, workers)


def draw_scene(
    waves: Sequence[ExitWave],
    recipe: Recipe,
    seed: Sequence[int],
    crop_px: int | None = None,
    resident: torch.Tensor | None = None,
) -> Scene:
    """Image each exit wave, under usable conditions, at a random place, turned and mirrored at random.

    Conditions are drawn anew for a wave until its columns show one sign of contrast (`ImagingSettings.min_agreement`;
    of a stack in its first image):
    where thick columns are bright and thin ones dark, no one can say which dots are columns. A specimen that does
    not show it in ten draws, for it is tilted too far, is imaged as it comes.

    Parameters
    ----------
    waves : all of one size.
    seed : of everything random here: conditions, place, orientation, amorphous film.
    crop_px : side of the images; None for the exit waves' own.
    resident : the waves themselves, (b, ny, nx) c8, on the device that is to image them; None for the CPU.
    """
    if resident is None:
        resident = torch.from_numpy(np.stack([wave.wave for wave in waves]))
    device, crop = resident.device, crop_px or resident.shape[-1]
    energy_ev, pending = recipe.waves.energy_ev, list(range(len(waves)))
    order: list[int] = []
    truths: dict[int, Truth] = {}
    shown: list[tuple[torch.Tensor, Conditions]] = []
    for attempt in range(_DRAWS):
        rng, generator = np.random.default_rng([*seed, attempt]), generator_for(*seed, attempt, device=device)
        conditions = draw_conditions(recipe.imaging, len(pending), energy_ev, generator)
        moved = [_move(waves[i], rng, recipe.data.judged_atoms) for i in pending]
        sampling = torch.tensor([10 * truth.sampling_nm for _, truth in moved], device=device)
        images = torch.stack([_placed(resident[i], how) for i, (how, _) in zip(pending, moved, strict=True)])
        series = recipe.imaging.focal_series_angstrom
        intensity = optics(images, sampling, conditions, energy_ev, generator, series)
        shares = agreements(atom_contrast(intensity[:, 0], sampling), [truth for _, truth in moved])
        good = (shares >= recipe.imaging.min_agreement) | (attempt == _DRAWS - 1)
        side = resident.shape[-1]
        truths |= {pending[k]: inside(moved[k][1], crop, side) for k in np.flatnonzero(good)}
        kept = torch.from_numpy(np.flatnonzero(good)).to(device)
        shown.append((intensity[kept, :, :crop, :crop], conditions[kept]))
        order += [i for i, is_good in zip(pending, good, strict=True) if is_good]
        pending = [i for i, is_good in zip(pending, good, strict=True) if not is_good]
        if not pending:
            break
    back = torch.from_numpy(np.argsort(order)).to(device)
    return Scene(
        torch.cat([intensity for intensity, _ in shown])[back],
        join([conditions for _, conditions in shown])[back],
        [truths[i] for i in range(len(waves))],
    )


def photograph(
    scene: Scene, recipe: Recipe, seed: Sequence[int], dose_e_angstrom2: float | None = None
) -> torch.Tensor:
    """Normalized camera images (b, k, ny, nx) f4 of a scene, at its own doses or at one for all."""
    counts = exposures(scene, seed, dose_e_angstrom2).numpy()
    normalizer = Normalizer(counts.shape[2:], sigma_px(recipe), counts.shape[1])
    return torch.from_numpy(np.stack([normalizer(stack) for stack in counts]))


def sigma_px(recipe: Recipe) -> float:
    """Width of the normalization in pixels of the network's sampling."""
    return recipe.data.normalize_sigma_nm / recipe.engine.nominal_nm_px


def exposures(scene: Scene, seed: Sequence[int], dose_e_angstrom2: float | None = None) -> torch.Tensor:
    """What the camera reports of a scene, (b, k, ny, nx) f4, at its own doses or at one for all.

    The dose is that of every image: a stack has had k times as much.
    """
    conditions, device = scene.conditions, scene.intensity.device
    if dose_e_angstrom2 is not None:
        doses = torch.full((len(conditions),), float(dose_e_angstrom2), device=device)
        conditions = replace(conditions, dose_e_angstrom2=doses)
    sampling = torch.tensor([10 * truth.sampling_nm for truth in scene.truths], device=device)
    return expose(scene.intensity, sampling, conditions, generator_for(*seed, device=device))


def of_step(recipe: Recipe, seed: Sequence[int]) -> Recipe:
    """The recipe as one training step follows it: in `usable_share` of them, conditions are usable ones."""
    imaging = recipe.imaging
    if np.random.default_rng([*seed, 4]).random() >= recipe.data.usable_share:
        return recipe
    least = max(imaging.min_transfer, imaging.usable_transfer)
    return recipe.model_copy(update={"imaging": imaging.model_copy(update={"min_transfer": least})})


class TrainingImages(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Step -> (images (b, k, ny, nx), label maps (b, 1, ny / stride, nx / stride)), f4.

    Step n is the same whenever and by whichever worker it is made, so a resumed training sees what it would have seen.
    """

    def __init__(self, recipe: Recipe, cache: Path, stride: int) -> None:
        self.recipe, self.stride = recipe, stride
        self.paths = [
            cache_path(cache, recipe.specimen, recipe.waves, seed) for seed in range(recipe.data.training)
        ]
        self._waves: list[ExitWave] | None = None  # read by each worker for itself

    def __len__(self) -> int:
        return self.recipe.train.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._waves is None:
            self._waves = [load_wave(path) for path in self.paths]
        seed = [self.recipe.train.seed, step]
        recipe = of_step(self.recipe, seed)
        chosen = np.random.default_rng([*seed, 1]).integers(len(self._waves), size=recipe.data.batch)
        crop = recipe.data.crop_px
        scene = draw_scene([self._waves[i] for i in chosen], recipe, [*seed, 2], crop)
        labels = [
            column_map(
                truth.shown_yx_px,  # what contamination hides is not to be reported
                (crop // self.stride, crop // self.stride),
                recipe.data.label_width_angstrom / (10 * truth.sampling_nm),
                self.stride,
            )
            for truth in scene.truths
        ]
        return photograph(scene, recipe, [*seed, 3]), torch.from_numpy(np.stack(labels))[:, None]


def _move(wave: ExitWave, rng: np.random.Generator, judged_atoms: int) -> tuple[Placing, Truth]:
    """Draw how a periodic exit wave is rolled, turned and mirrored; the columns so moved."""
    side = wave.wave.shape[0]
    shift = rng.integers(side, size=2)
    yx = (wave.column_yx_nm / wave.sampling_nm + shift + 0.5) % side - 0.5
    transposed, *mirrored = (bool(rng.random() < 0.5) for _ in range(3))
    if transposed:
        yx = yx[:, ::-1]
    yx = np.where(mirrored, side - 1 - yx, yx)
    placing = Placing((int(shift[0]), int(shift[1])), transposed, (mirrored[0], mirrored[1]))
    return placing, Truth(yx, wave.column_atoms, wave.sampling_nm, wave.kind, judged_atoms)


def _placed(image: torch.Tensor, placing: Placing) -> torch.Tensor:
    """A square image so moved, wherever it is."""
    image = torch.roll(image, placing.shift_px, (0, 1))
    image = image.T if placing.transposed else image
    return torch.flip(image, [axis for axis in (0, 1) if placing.mirrored[axis]])


def inside(truth: Truth, crop_px: int, side_px: int) -> Truth:
    """The truth about the first `crop_px` rows and columns of a periodic box."""
    within = ((truth.yx_px > -0.5) & (truth.yx_px < crop_px - 0.5)).all(1)
    outside = beyond(truth.yx_px[truth.atoms > 0], crop_px, side_px, truth.sampling_nm)
    return replace(truth, yx_px=truth.yx_px[within], atoms=truth.atoms[within], beyond_yx_px=outside)


def beyond(yx_px: np.ndarray, crop_px: int, side_px: int, sampling_nm: float) -> np.ndarray:
    """Of columns (n, 2) in a box that repeats itself after `side_px`, those centred just outside its first
    `crop_px` rows and columns: (k, 2) f8, where they would be if the image went on."""
    steps = side_px * np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    repeated = (yx_px + steps[:, None]).reshape(-1, 2)
    far = np.maximum(-0.5 - repeated, repeated - (crop_px - 0.5)).max(1)
    return repeated[(far >= 0) & (far <= _BEYOND_NM / sampling_nm)]


def agreements(contrast: torch.Tensor, truths: Sequence[Truth]) -> np.ndarray:
    """Per image the share of the judged columns that shows the commoner sign; 1 where there are none."""
    side = contrast.shape[-1]
    at = [np.rint(truth.yx_px[truth.judged]).astype(int).reshape(-1, 2) % side for truth in truths]
    image = np.repeat(np.arange(len(at)), [len(yx) for yx in at])
    index = torch.from_numpy(np.column_stack([image, np.concatenate(at)])).to(contrast.device)
    bright = (contrast[index[:, 0], index[:, 1], index[:, 2]] > 0).cpu().numpy()
    shares = np.array([bright[image == k].mean() if len(yx) else 1.0 for k, yx in enumerate(at)])
    return np.maximum(shares, 1 - shares)
