"""Electron waves of the phantom: from atoms to the image wave, the short way.

A column of atoms scatters almost on its own (channelling: D. Van Dyck, M. Op de Beeck,
Ultramicroscopy 64 (1996) 99; P. Geuens, D. Van Dyck, Ultramicroscopy 93 (2002) 179), so the exit
wave is 1 plus the sum of the columns' scattered waves, each periodic with its height. A column's
wave comes from a multislice calculation of that column alone, once per height. Waves add, so the
image wave, too, is a sum over columns.

Lengths in nm, spatial frequencies q in 1/nm, in `numpy.fft` order; arrays are (y, x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

# L.-M. Peng, G. Ren, S. L. Dudarev, M. J. Whelan, Acta Cryst. A 52 (1996) 257, table for 0 to 6 1/Å:
# f(s) = sum a exp(-b s²), s = q / 2; a in Å, b in Å².
_SCATTERING_FACTORS = {
    "Au": ((0.3055, 1.3945, 2.9617, 3.899, 2.0026), (0.0596, 0.5827, 3.1035, 11.9693, 47.9106)),
    "Ce": ((0.2227, 1.076, 2.9482, 5.8496, 7.1834), (0.0571, 0.5946, 3.2022, 16.4253, 95.703)),
    "O": ((0.0365, 0.1729, 0.5805, 0.8814, 0.3121), (0.0652, 0.6184, 2.9449, 9.6298, 28.2194)),
    "C": ((0.0489, 0.2091, 0.7537, 1.142, 0.3555), (0.114, 1.0825, 5.4281, 17.8811, 51.1341)),
}
_ELECTRON_REST_EV = 510_998.95
_HC_EV_NM = 1239.841984


def wavelength_nm(energy_ev: float) -> float:
    """Relativistic wavelength of electrons of `energy_ev`, in nm."""
    return _HC_EV_NM / np.sqrt(energy_ev * (energy_ev + 2 * _ELECTRON_REST_EV))


def scattering_factor_nm(element: str, q: np.ndarray, rms_displacement_nm: float = 0.0) -> np.ndarray:
    """Electron scattering factor of an atom at rest energy, in nm, damped by its thermal motion.

    Parameters
    ----------
    element : "Au", "Ce", "O" or "C".
    q : spatial frequencies, 1/nm, any shape.
    rms_displacement_nm : thermal displacement along one axis (Debye-Waller, B = 8 π² u²).
    """
    a, b = _SCATTERING_FACTORS[element]
    s2 = (q * q)[..., None] * 0.01 / 4  # (q / 2)² in 1/Å²
    f_angstrom = (np.array(a) * np.exp(-np.array(b) * s2)).sum(axis=-1)
    return 0.1 * f_angstrom * np.exp(-2 * (np.pi * rms_displacement_nm * q) ** 2)


def interaction_nm(energy_ev: float) -> float:
    """Phase per scattering factor: an atom's projected phase has the transform γ λ f(q), in rad nm²."""
    return (1 + energy_ev / _ELECTRON_REST_EV) * wavelength_nm(energy_ev)


def frequencies(shape_yx: tuple[int, int], pixel_size_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """(qy (ny, 1), qx (1, nx)) in 1/nm."""
    ny, nx = shape_yx
    return np.fft.fftfreq(ny, pixel_size_nm)[:, None], np.fft.fftfreq(nx, pixel_size_nm)[None, :]


@dataclass(frozen=True)
class Optics:
    """The objective lens and what blurs it, as one transfer function for the wave.

    Attributes
    ----------
    energy_ev : of the electrons.
    defocus_nm : C10, positive is overfocus. Columns of 2 to 14 atoms of gold are all dark near -4.5 nm
        and all bright near +15; at the optimum for thin objects, +6, they are bright, dark and bright
        again as they get taller.
    cs_um : C30, spherical aberration.
    focal_spread_nm : δ, rms of the fluctuating focus.
    convergence_mrad : β, rms semi-angle of illumination.
    vibration_nm : σ, rms image motion and camera blur along one axis.
    """

    energy_ev: float = 300e3
    defocus_nm: float = -4.5
    cs_um: float = -13.0
    focal_spread_nm: float = 3.0
    convergence_mrad: float = 0.2
    vibration_nm: float = 0.02

    def transfer(self, qy: np.ndarray, qx: np.ndarray) -> np.ndarray:
        """Complex transfer function exp(-iχ) E_t E_s E_d over (qy, qx), 1 at q = 0.

        χ = π λ C10 q² + π/2 Cs λ³ q⁴;
        E_t = exp(-½ (π λ δ q²)²): a Gaussian spread of focus of rms δ, averaged over exp(-i π λ C10 q²);
        E_s = exp(-½ (θ_rms ∂χ/∂q / λ)²), a Gaussian spread of illumination angle of rms θ: tilting by θ
        moves q by θ/λ;
        E_d = exp(-2 π² σ² q²), the transform of a Gaussian of rms σ.
        Envelopes on the wave hold for interference with the undiffracted beam, the leading term
        (K. Ishizuka, Ultramicroscopy 5 (1980) 55).
        """
        wavelength = wavelength_nm(self.energy_ev)
        q2 = qy * qy + qx * qx
        cs_nm = 1e3 * self.cs_um
        chi = np.pi * wavelength * q2 * (self.defocus_nm + 0.5 * cs_nm * wavelength**2 * q2)
        slope = 2 * np.pi * wavelength * np.sqrt(q2) * (self.defocus_nm + cs_nm * wavelength**2 * q2)
        blur = (
            0.5 * (np.pi * wavelength * self.focal_spread_nm * q2) ** 2
            + 0.5 * (1e-3 * self.convergence_mrad / wavelength * slope) ** 2
            + 2 * (np.pi * self.vibration_nm) ** 2 * q2
        )
        return np.exp(-1j * chi - blur)


class ColumnImages:
    """The image waves of single gold columns, by height and exact position.

    Parameters
    ----------
    optics : the lens.
    pixel_size_nm : of the image.
    max_height : atoms in the tallest column.
    spacing_nm : between atoms along the column.
    rms_displacement_nm : thermal, along one axis (Au at room temperature: 8.5 pm).
    side_nm : width of a patch; beyond it the wave has died down.
    """

    def __init__(
        self,
        optics: Optics,
        pixel_size_nm: float,
        max_height: int,
        spacing_nm: float,
        rms_displacement_nm: float = 0.0085,
        side_nm: float = 2.2,
    ) -> None:
        self.side_px = 2 * int(np.ceil(side_nm / pixel_size_nm / 2))
        finer = int(np.ceil(pixel_size_nm / 0.016))  # the multislice wants a finer grid than the camera
        fine_px = finer * self.side_px
        qy, qx = frequencies((fine_px, fine_px), pixel_size_nm / finer)
        q = np.hypot(qy, qx)
        energy = optics.energy_ev
        inside = q < 2 / 3 * np.abs(qy).max()  # against aliasing (Kirkland)
        phase_q = interaction_nm(energy) * scattering_factor_nm("Au", q, rms_displacement_nm) * inside
        phase = np.fft.ifft2(phase_q).real * (finer / pixel_size_nm) ** 2
        through_atom = np.exp(1j * phase)
        # half a spacing at a time, so that every wave is seen at its column's middle
        half_step = np.exp(-0.5j * np.pi * wavelength_nm(energy) * spacing_nm * q * q)
        keep = np.r_[0 : self.side_px // 2, fine_px - self.side_px // 2 : fine_px]
        self._qy, self._qx = frequencies((self.side_px, self.side_px), pixel_size_nm)
        lens = optics.transfer(self._qy, self._qx)
        self._pixel_size_nm = pixel_size_nm
        self._scattered: list[np.ndarray] = []
        wave = np.ones((fine_px, fine_px), complex)
        for height in range(1, max_height + 1):
            spectrum = np.fft.fft2(np.fft.ifft2(np.fft.fft2(wave) * half_step) * through_atom)
            spectrum *= inside * half_step
            wave = np.fft.ifft2(spectrum)
            seen = spectrum * half_step.conj() ** height
            seen[0, 0] -= fine_px**2  # the undiffracted wave
            self._scattered.append((seen[np.ix_(keep, keep)] * lens / finer**2).astype(np.complex64))
        ramp = np.clip((self.side_px / 2 - np.abs(np.arange(self.side_px) - self.side_px // 2)) / 8, 0, 1)
        edge = np.sin(0.5 * np.pi * ramp) ** 2
        self._window = (edge[:, None] * edge[None, :]).astype(np.float32)

    def patch(self, height: int, offset_yx_px: tuple[float, float]) -> np.ndarray:
        """Image wave scattered by a column of `height` atoms, (side_px, side_px) c8.

        The column is at pixel side_px // 2 + offset_yx_px, in both directions.
        """
        dy, dx = np.add(offset_yx_px, self.side_px // 2) * self._pixel_size_nm
        ramp_y = np.exp(-2j * np.pi * dy * self._qy).astype(np.complex64)
        ramp_x = np.exp(-2j * np.pi * dx * self._qx).astype(np.complex64)
        image = scipy.fft.ifft2(self._scattered[height - 1] * ramp_y * ramp_x)
        return np.asarray(image) * self._window


def oxide_wave(
    shape_yx: tuple[int, int],
    pixel_size_nm: float,
    depth_nm: np.ndarray,
    optics: Optics,
    rng: np.random.Generator,
) -> np.ndarray:
    """Image wave scattered by an oxide support with a trace of amorphous carbon, complex (ny, nx).

    The oxide is CeO2 turned off its zone axis, so that only the {111} planes along its surface
    are resolved (0.312 nm): a phase object with the mean inner potential and the Fourier components
    111 and 222 of fluorite (F111 = 4 f_Ce, F222 = 4 f_Ce - 8 f_O), thicker further in. Carbon atoms
    lie at random on it.

    Parameters
    ----------
    shape_yx, pixel_size_nm : of the image.
    depth_nm : (ny, nx), how far below the support's surface a pixel is; negative in vacuum.
    optics : the lens.
    rng : draws the carbon.
    """
    lattice_nm, plane_nm = 0.5411, 0.5411 / np.sqrt(3)
    phase_per_f = interaction_nm(optics.energy_ev)
    qy, qx = frequencies(shape_yx, pixel_size_nm)
    inside = 0.5 * (1 + np.tanh(depth_nm / 0.08))
    thickness_nm = inside * (1.0 + 1.8 * -np.expm1(-np.maximum(depth_nm, 0) / 2.5))
    orders = np.array([0, 1, 2]) / plane_nm
    ce, o = scattering_factor_nm("Ce", orders, 0.007), scattering_factor_nm("O", orders, 0.008)
    f = 4 * ce + 8 * np.array([1, 0, -1]) * o
    fringes = 2 * np.pi / plane_nm * depth_nm
    cell = f[0] + 2 * f[1] * np.cos(fringes) + 2 * f[2] * np.cos(2 * fringes)
    phase = phase_per_f / lattice_nm**3 * thickness_nm * cell
    carbon_nm = 2.5 * np.exp(-np.maximum(-depth_nm, 0) / 0.15)
    atoms = rng.poisson(100.0 * pixel_size_nm**2 * carbon_nm)  # 2 g/cm³ are 100 atoms per nm³
    f_c = scattering_factor_nm("C", np.hypot(qy, qx), 0.01) / pixel_size_nm**2
    phase += phase_per_f * np.fft.ifft2(np.fft.fft2(atoms) * f_c).real
    return np.fft.ifft2(np.fft.fft2(np.exp(1j * phase) - 1) * optics.transfer(qy, qx))
