"""Training images made where the network is: the same as `dataset.TrainingImages`, in batched torch throughout.

The exit waves are loaded once and stay on the device (1 GB for 1280 of 320 pixels to a side); optics, camera,
normalization and labels follow them there, so that a GPU waits for nothing but a few random numbers. On the CPU, numpy
and numba are faster; there this is the test that both ways make the same images.

Only for recipes of exit waves: STEM images (`stem_images.StemImages`) are made in numpy by workers on the CPU, whatever
the network is on, and moved to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from stream.normalize import FAINT, FLAT, ROWS_PER_SIGMA, blur_matrices
from training.dataset import Truth, draw_scene, exposures, of_step, sigma_px
from training.exitwave import ExitWave
from training.recipe import Recipe


class DeviceImages:
    """Number -> (images (b, k, ny, nx), label maps (b, 1, ny / stride, nx / stride)), f4 on the device.

    Number n is the same whenever it is made on one kind of device; a GPU draws other random numbers than a CPU.
    """

    def __init__(self, recipe: Recipe, waves: Sequence[ExitWave], stride: int, device: torch.device) -> None:
        self.recipe, self.waves, self.stride, crop = recipe, waves, stride, recipe.data.crop_px
        self._resident = torch.stack([torch.from_numpy(wave.wave).to(device) for wave in waves])
        self._normalizer = DeviceNormalizer((crop, crop), sigma_px(recipe), device)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        seed = [self.recipe.train.seed, number]
        recipe, crop = of_step(self.recipe, seed), self.recipe.data.crop_px
        chosen = np.random.default_rng([*seed, 1]).integers(len(self.waves), size=recipe.data.batch)
        resident = self._resident[torch.from_numpy(chosen).to(self._resident.device)]
        scene = draw_scene([self.waves[i] for i in chosen], recipe, [*seed, 2], crop, resident)
        labels = column_maps(
            scene.truths, crop // self.stride, recipe.data.label_width_angstrom, self.stride, resident.device
        )
        return self._normalizer(exposures(scene, [*seed, 3])), labels[:, None]


class DeviceNormalizer:
    """`stream.normalize.Normalizer` for whole batches: the same bands and modes, all as products of matrices.

    Every pixel must be a measurement: there are no bad pixels in simulated images.

    Parameters
    ----------
    shape_yx, sigma_px : of the images and of the Gaussian window, in pixels.
    """

    def __init__(self, shape_yx: tuple[int, int], sigma_px: float, device: torch.device) -> None:
        ny = shape_yx[0]
        bands = max(1, round(ny * ROWS_PER_SIGMA / sigma_px)) if sigma_px > ROWS_PER_SIGMA else ny
        edges = np.linspace(0, ny, bands + 1).round().astype(np.int64)
        rows, band = np.arange(ny), np.repeat(np.arange(bands), np.diff(edges))
        t = (rows + 0.5 - edges[band]) / np.diff(edges)[band]
        sums, lines = np.zeros((bands, ny)), np.zeros((ny, bands + 1))
        sums[band, rows] = 1
        lines[rows, band], lines[rows, band + 1] = 1 - t, t
        to_edges, to_modes, from_modes = blur_matrices(shape_yx, sigma_px, edges, ny / bands)
        matrices = to_edges @ sums, to_modes, from_modes, lines
        self._to_edges, self._to_modes, self._from_modes, self._to_rows = (
            torch.from_numpy(matrix.astype("f4")).to(device) for matrix in matrices
        )

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(b, k, ny, nx) f4 -> (b, k, ny, nx) f4: zero mean and unit variance under the window, shared by a stack."""
        level = images.mean((1, 2, 3), keepdim=True)  # taken out first: products round what varies
        centred = images - level
        mean = self._at_edges(centred)
        centred = centred - self._to_rows @ mean
        squares = centred**2
        deviation = self._at_edges(squares).clamp_min(0).sqrt()
        overall = squares.mean((1, 2, 3), keepdim=True).sqrt()
        seen = deviation > torch.maximum(FLAT * (mean + level).abs(), FAINT * overall)
        return centred * (self._to_rows @ torch.where(seen, 1 / deviation, torch.zeros_like(deviation)))

    def _at_edges(self, images: torch.Tensor) -> torch.Tensor:
        """The mean of each stack, blurred, at the edges of the bands of rows: (b, 1, bands + 1, nx)."""
        return (self._to_edges @ (images.mean(1, keepdim=True) @ self._to_modes)) @ self._from_modes


def column_maps(
    truths: Sequence[Truth], side_px: int, width_angstrom: float, stride: int, device: torch.device
) -> torch.Tensor:
    """`labels.column_map` of several images at once, of what they show: (b, side, side) f4."""
    at = pad_sequence(  # columns that are not there lie far away
        [torch.from_numpy(np.ascontiguousarray(t.shown_yx_px, np.float32)) for t in truths],
        batch_first=True,
        padding_value=-1e6,
    ).to(device)
    sampling = torch.tensor([10 * truth.sampling_nm for truth in truths], device=device)
    narrowness = (sampling**2 / (2 * width_angstrom**2))[:, None, None]
    place = (torch.arange(side_px, device=device) + 0.5) * stride - 0.5
    along_y, along_x = (torch.exp(-((at[:, :, k, None] - place) ** 2) * narrowness) for k in (0, 1))
    return (along_y.mT @ along_x).clamp_max(1)
