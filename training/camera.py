"""What a camera makes of light: electrons, their noise and its colour. Batched torch, on a CPU or a GPU.

Mean intensity × dose × pixel area is the mean number of electrons. A scintillator counts first and
blurs after (signal and noise both filtered: coloured noise); a counting camera localizes each electron (signal
blurred, noise white). M(q) = (1 - c1) / (1 + (q / 2 c2 q_N)^c3) + c1 (Madsen's thesis, eq. 2.21). Gain and dark level
are left out: the normalization takes any straight line out again.
"""

from __future__ import annotations

import torch

from training.imaging import Conditions


def modulation_transfer(conditions: Conditions, ny: int, nx: int) -> torch.Tensor:
    """M(q) of the camera (b, ny, nx // 2 + 1) f4 at the frequencies of rfft2, q in units of the pixel."""
    device = conditions.mtf_c1.device
    qy = torch.fft.fftfreq(ny, device=device)[:, None]
    qx = torch.fft.rfftfreq(nx, device=device)[None, :]
    relative = torch.sqrt(qy**2 + qx**2) / 0.5  # of the Nyquist frequency
    c1, c2, c3 = (getattr(conditions, f"mtf_c{i}")[:, None, None] for i in (1, 2, 3))
    return (1 - c1) / (1 + (relative / (2 * c2)) ** c3) + c1


def expose(
    intensity: torch.Tensor,
    sampling_angstrom: torch.Tensor,
    conditions: Conditions,
    generator: torch.Generator,
) -> torch.Tensor:
    """What the camera reports, (b, k, ny, nx) f4 in electrons per pixel, of mean intensities (b, k, ny, nx).

    Every image gets the dose, and has its own noise.
    """
    ny, nx = intensity.shape[-2:]
    electrons = intensity * (conditions.dose_e_angstrom2 * sampling_angstrom**2)[:, None, None, None]
    mtf = modulation_transfer(conditions, ny, nx)[:, None]
    counting = conditions.counting[:, None, None, None]

    def blur(image: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(image) * mtf, s=(ny, nx))

    counted = torch.poisson(
        torch.where(counting, blur(electrons).clamp_min(0), electrons), generator=generator
    )
    return torch.where(counting, counted, blur(counted))
