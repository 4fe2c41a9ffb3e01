"""From exit waves to the light on a camera (`camera`: what that makes of it): batched torch, the same on a CPU and on a
GPU. Lengths in Å, q in 1/Å.

The optics, per image and spatial frequency q (with azimuth φ; λ the wavelength):

    χ(q) = (2π/λ) [C10 (λq)²/2 + C12 (λq)² cos(2(φ - φ12))/2 + C30 (λq)⁴/4 + C50 (λq)⁶/6],  C10 = -defocus
    ψ_image(q) = ψ_exit(q) · exp(-iχ) · E_s · E_t · E_d

Envelopes, all to first order in the scattered wave (transfer functions, no transmission cross-coefficients):

* E_s: the source is spread in angle as exp(-(λq₀/β)²), β the half width at 1/e. A beam tilted by q₀ shifts the
  phase by q₀·∇χ; averaging exp(i q₀·∇χ) over the source gives E_s = exp(-(β/2λ)² |∇χ|²), ∇ taken over q.
* E_t: the focus is spread as exp(-(Δf/δ)²), δ the half width at 1/e; Δf adds the phase πλq²Δf, and the average is
  E_t = exp(-(δ²/4) (πλq²)²).
* E_d: the image is deflected at random by a Gaussian of rms σ along each axis, which multiplies its spectrum
  by E_d = exp(-2π²σ²q²).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

Range = tuple[float, float]
_CARBON_PER_ANGSTROM3 = 0.1  # 2 g/cm³
_BLOB_ANGSTROM = 0.45, 1.0  # standard deviations of a column and of its surroundings
_ROUNDS = 16  # of drawing conditions, before none are called usable


class ImagingSettings(BaseModel):
    """Ranges drawn anew for every image, or stack; uniform, the dose uniform in its logarithm.

    Attributes
    ----------
    focal_series_angstrom : defocus of each image of a stack relative to the first, which has the one that is drawn; one
        image unless told.
    dose_e_angstrom2 : of each image; a stack of three gets three times as much.
    min_transfer : conditions whose `transfer` is nearer to zero than this are not usable, and not drawn: the contrast
        of some spacings is at its reversal.
    min_coarsest_transfer : the same for the coarsest spacing alone, where the finest ones may be weak.
    usable_transfer : an image is called usable only from this |`transfer`| on: in evaluations, to choose thresholds,
        and in the training steps of `data.usable_share`.
    spacings_angstrom : the finest and the coarsest that make the columns, over which `transfer` is taken. The default
        holds gold's 111, 200 and 220.
    min_agreement : share of an image's judged columns that must show one sign of contrast.
    deflection_angstrom : rms image vibration along each axis.
    amorphous_angstrom : thickness of a carbon film seen as a weak phase object, in `amorphous_fraction` of the images.
    counting_fraction : of the images, those from a counting camera.
    unevenness : largest relative change of the illumination across the image, along and at second order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    defocus_angstrom: Range = (-200.0, 200.0)
    focal_series_angstrom: tuple[float, ...] = (0.0,)
    cs_um: Range = (-20.0, 20.0)
    c5_mm: Range = (0.0, 5.0)
    astigmatism_angstrom: Range = (0.0, 30.0)
    convergence_mrad: Range = (0.05, 0.4)
    focal_spread_angstrom: Range = (20.0, 40.0)
    deflection_angstrom: Range = (0.05, 0.35)
    dose_e_angstrom2: Range = (10.0, 5000.0)
    mtf_c1: Range = (0.0, 0.1)
    mtf_c2: Range = (0.35, 0.8)
    mtf_c3: Range = (2.0, 3.0)
    counting_fraction: float = Field(0.4, ge=0, le=1)
    amorphous_angstrom: Range = (5.0, 60.0)
    amorphous_fraction: float = Field(0.4, ge=0, le=1)
    unevenness: float = Field(0.2, ge=0, lt=1)
    min_transfer: float = Field(0.1, gt=0, lt=1)
    min_coarsest_transfer: float = Field(0.0, ge=0, lt=1)
    usable_transfer: float = Field(0.3, ge=0, lt=1)
    spacings_angstrom: Range = (1.4, 2.5)
    min_agreement: float = Field(0.9, ge=0.5, le=1)

    @field_validator("focal_series_angstrom")
    @classmethod
    def _a_series(cls, series: tuple[float, ...]) -> tuple[float, ...]:
        if series[:1] != (0.0,) or len(set(series)) < len(series) or not np.isfinite(series).all():
            raise ValueError(
                "expected the defocus of each image relative to the first: 0.0 first, then others, finite and all "
                "different, such as [0.0, 60.0, 120.0]"
            )
        return series


@dataclass(slots=True)
class Conditions:
    """The microscope and camera of a batch of images: (b,) f4 tensors, units in the names (see ImagingSettings).

    Of stacks, those of their first images; the others differ from them in defocus alone.
    """

    defocus_angstrom: torch.Tensor
    cs_um: torch.Tensor
    c5_mm: torch.Tensor
    astigmatism_angstrom: torch.Tensor
    astigmatism_rad: torch.Tensor
    convergence_mrad: torch.Tensor
    focal_spread_angstrom: torch.Tensor
    deflection_angstrom: torch.Tensor
    dose_e_angstrom2: torch.Tensor
    mtf_c1: torch.Tensor
    mtf_c2: torch.Tensor
    mtf_c3: torch.Tensor
    counting: torch.Tensor
    amorphous_angstrom: torch.Tensor
    uneven: torch.Tensor

    def __len__(self) -> int:
        return len(self.defocus_angstrom)

    def __getitem__(self, index: torch.Tensor) -> Conditions:
        return Conditions(*(getattr(self, field.name)[index] for field in fields(self)))


def join(parts: Sequence[Conditions]) -> Conditions:
    """Conditions of several batches as those of one."""
    return Conditions(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Conditions)))


def draw_conditions(
    settings: ImagingSettings, count: int, energy_ev: float, generator: torch.Generator
) -> Conditions:
    """Draw conditions for `count` images, all with |transfer| of at least `min_transfer`; on the generator's device.

    Raises
    ------
    ValueError
        If next to none of the conditions in these ranges transfers contrast.
    """

    surplus, found, rounds = 16 * count + 128, [], 0
    while (there := sum(map(len, found))) < count:
        if rounds == _ROUNDS:
            raise ValueError(
                f"of {rounds * surplus} imaging conditions drawn only {there} transfer at least "
                f"{settings.min_transfer}, expected {count}: move "
                "defocus_angstrom and cs_um away from the contrast reversal, or lower min_transfer "
                "(usable_transfer, in training steps of data.usable_share)"
            )
        drawn = _draw(settings, surplus, generator)
        _, coarsest = settings.spacings_angstrom
        usable = transfer(drawn, energy_ev, settings.spacings_angstrom).abs() >= settings.min_transfer
        usable &= transfer(drawn, energy_ev, (coarsest, coarsest)).abs() >= settings.min_coarsest_transfer
        found.append(drawn[torch.nonzero(usable)[: count - there, 0]])
        rounds += 1
    return join(found)


def _draw(settings: ImagingSettings, count: int, generator: torch.Generator) -> Conditions:
    """Conditions anywhere in the ranges."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=device)

    device = generator.device
    dose = settings.dose_e_angstrom2
    return Conditions(
        defocus_angstrom=uniform(*settings.defocus_angstrom),
        cs_um=uniform(*settings.cs_um),
        c5_mm=uniform(*settings.c5_mm),
        astigmatism_angstrom=uniform(*settings.astigmatism_angstrom),
        astigmatism_rad=uniform(0, 2 * math.pi),
        convergence_mrad=uniform(*settings.convergence_mrad),
        focal_spread_angstrom=uniform(*settings.focal_spread_angstrom),
        deflection_angstrom=uniform(*settings.deflection_angstrom),
        dose_e_angstrom2=uniform(math.log(dose[0]), math.log(dose[1])).exp(),
        mtf_c1=uniform(*settings.mtf_c1),
        mtf_c2=uniform(*settings.mtf_c2),
        mtf_c3=uniform(*settings.mtf_c3),
        counting=uniform(0, 1) < settings.counting_fraction,
        amorphous_angstrom=uniform(*settings.amorphous_angstrom)
        * (uniform(0, 1) < settings.amorphous_fraction),
        uneven=settings.unevenness * (2 * torch.rand(count, 5, generator=generator, device=device) - 1),
    )


def wavelength_angstrom(energy_ev: float) -> float:
    """Relativistic wavelength of an electron, h / sqrt(2 m e U (1 + eU / 2mc²))."""
    return 12.264259661581 / math.sqrt(energy_ev * (1 + 0.978475598e-6 * energy_ev))


def contrast_transfer(
    conditions: Conditions, qx: torch.Tensor, qy: torch.Tensor, energy_ev: float
) -> torch.Tensor:
    """exp(-iχ) E_s E_t E_d at the frequencies q in 1/Å, which broadcast against (b, 1, 1): (b, ny, nx) c8."""
    c, wavelength = conditions, wavelength_angstrom(energy_ev)

    def column(values: torch.Tensor) -> torch.Tensor:
        return values.float()[:, None, None]

    q2 = qx**2 + qy**2
    a2 = (wavelength**2) * q2
    c10, c30, c50 = -column(c.defocus_angstrom), column(c.cs_um) * 1e4, column(c.c5_mm) * 1e7
    # C12 cos(2(φ - φ12)) q² = C12a (qx² - qy²) + C12b 2 qx qy: no angles needed
    c12a = column(c.astigmatism_angstrom * torch.cos(2 * c.astigmatism_rad))
    c12b = column(c.astigmatism_angstrom * torch.sin(2 * c.astigmatism_rad))
    radial = c10 + c30 * a2 + c50 * a2**2  # ∇χ = 2πλ (radial q + astigmatism)
    astigmatic = c12a * (qx**2 - qy**2) + 2 * c12b * qx * qy
    chi = math.pi * wavelength * ((c10 + c30 * a2 / 2 + c50 * a2**2 / 3) * q2 + astigmatic)
    slope_x = radial * qx + c12a * qx + c12b * qy
    slope_y = radial * qy - c12a * qy + c12b * qx
    spatial = (math.pi * column(c.convergence_mrad) * 1e-3) ** 2 * (slope_x**2 + slope_y**2)
    temporal = (column(c.focal_spread_angstrom) / 2 * math.pi * wavelength * q2) ** 2
    deflection = 2 * math.pi**2 * column(c.deflection_angstrom) ** 2 * q2
    return torch.polar(torch.exp(-spatial - temporal - deflection), -chi)


def transfer(conditions: Conditions, energy_ev: float, spacings_angstrom: Range) -> torch.Tensor:
    """The weakest contrast transfer over the spacings that make the columns, and its sign: (b,), 1 at the most.

    A weak phase object is imaged with sin χ · E_s E_t E_d. Over the spatial frequencies of
    these spacings (finest, coarsest), this is the value nearest to zero; 0 where the sign changes in between, for then
    some spacings show atoms bright and others dark, and no one can say which dots are columns. Positive: bright atoms.
    Usable conditions are those away from 0.
    """
    finest, coarsest = spacings_angstrom
    q = torch.linspace(1 / coarsest, 1 / finest, 24, device=conditions.defocus_angstrom.device)[None, None, :]
    across = torch.zeros_like(q)
    # the phase of a scattered wave is +90°: i · exp(-iχ) has the real part sin χ. Two directions for the astigmatism.
    along = [contrast_transfer(conditions, *axes, energy_ev) for axes in ((q, across), (across, q))]
    sine = torch.cat([(1j * ctf).real.flatten(1) for ctf in along], 1)
    low, high = sine.min(1).values, sine.max(1).values
    return torch.where(low > 0, low, torch.where(high < 0, high, torch.zeros_like(low)))


def atom_contrast(intensity: torch.Tensor, sampling_angstrom: torch.Tensor) -> torch.Tensor:
    """How much brighter than its surroundings a blob of a column's width would be around each pixel, (b, ny, nx).

    The blob's mean, not the pixel's own value: a thick column near its reversal is a dark ring with a bright point in
    the middle, which noise hides.
    """
    (ny, nx), device = intensity.shape[-2:], intensity.device
    q2 = torch.fft.fftfreq(ny, device=device)[:, None] ** 2 + torch.fft.rfftfreq(nx, device=device) ** 2
    q2 = q2 / sampling_angstrom[:, None, None] ** 2
    blob, surroundings = (torch.exp(-2 * math.pi**2 * width**2 * q2) for width in _BLOB_ANGSTROM)
    return torch.fft.irfft2(torch.fft.rfft2(intensity) * (blob - surroundings), s=(ny, nx))


def optics(
    waves: torch.Tensor,
    sampling_angstrom: torch.Tensor,
    conditions: Conditions,
    energy_ev: float,
    generator: torch.Generator,
    focal_series_angstrom: Sequence[float] = (0.0,),
) -> torch.Tensor:
    """Mean intensity (b, k, ny, nx) f4 at the camera of exit waves (b, ny, nx) c8; periodic borders.

    An image for each of the `focal_series_angstrom`, all of one specimen: also the amorphous film is the same.
    """
    (ny, nx), device = waves.shape[-2:], waves.device
    qy = torch.fft.fftfreq(ny, device=device)[None, :, None] / sampling_angstrom[:, None, None]
    qx = torch.fft.fftfreq(nx, device=device)[None, None, :] / sampling_angstrom[:, None, None]
    if torch.any(conditions.amorphous_angstrom > 0):
        phase = _amorphous_phase(
            conditions.amorphous_angstrom, qx, qy, sampling_angstrom, energy_ev, generator
        )
        waves = waves * torch.polar(torch.ones_like(phase), phase)
    spectrum, images = torch.fft.fft2(waves), []
    for further in focal_series_angstrom:
        there = replace(conditions, defocus_angstrom=conditions.defocus_angstrom + further)
        images.append(torch.fft.ifft2(spectrum * contrast_transfer(there, qx, qy, energy_ev)))
    image = torch.stack(images, 1)
    intensity = image.real**2 + image.imag**2
    y = torch.linspace(-0.5, 0.5, ny, device=device)[:, None]
    x = torch.linspace(-0.5, 0.5, nx, device=device)[None, :]
    u = conditions.uneven[:, :, None, None]
    light = 1 + u[:, 0] * y + u[:, 1] * x + u[:, 2] * y**2 + u[:, 3] * x * y + u[:, 4] * x**2
    return intensity * light[:, None]


def _amorphous_phase(
    thickness_angstrom: torch.Tensor,
    qx: torch.Tensor,
    qy: torch.Tensor,
    sampling_angstrom: torch.Tensor,
    energy_ev: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Phase in rad, (b, ny, nx), of randomly placed carbon atoms.

    An atom's phase has the spectrum γ λ f(q); f of carbon is 2.51 Å / (1 + (q / 0.44)²) within 5 % up to 1 /Å.
    Independent atoms, n per area: white noise of variance n times that spectrum.
    """
    gamma = 1 + energy_ev / 510998.95
    atom = gamma * wavelength_angstrom(energy_ev) * 2.51 / (1 + (qx**2 + qy**2) / 0.44**2)
    per_area = torch.sqrt(thickness_angstrom * _CARBON_PER_ANGSTROM3) / sampling_angstrom
    white = torch.randn(atom.shape, generator=generator, device=atom.device)
    return torch.fft.ifft2(torch.fft.fft2(white) * atom * per_area[:, None, None]).real


def generator_for(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by any number of integers, well mixed; a GPU's draws other numbers than a CPU's."""
    state = np.random.SeedSequence(list(key)).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 32 | int(state[1]))
