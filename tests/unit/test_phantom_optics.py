"""The phantom's waves: numbers from the textbooks, and another program's multislice."""

import numpy as np
import pytest

from stream.phantom_optics import ColumnImages, Optics, frequencies, interaction_nm, wavelength_nm
from stream.phantom_optics import scattering_factor_nm as scattering_factor
from stream.phantom_particle import SPACING_NM

NO_LENS = Optics(defocus_nm=0, cs_um=0, focal_spread_nm=0, convergence_mrad=0, vibration_nm=0)


@pytest.mark.parametrize(("energy_ev", "pm"), [(80e3, 4.1757), (200e3, 2.5079), (300e3, 1.9687)])
def test_wavelength(energy_ev: float, pm: float) -> None:
    assert 1e3 * wavelength_nm(energy_ev) == pytest.approx(pm, abs=1e-4)


def test_contrast_transfer_has_its_zeros_where_the_textbook_puts_them() -> None:
    """Without Cs, sin χ = 0 at q = sqrt(n / (λ C10)); its first extremum is a factor sqrt(2) before."""
    optics = Optics(defocus_nm=20, cs_um=0, focal_spread_nm=0, convergence_mrad=0, vibration_nm=0)
    q = np.sqrt(np.arange(0.5, 4, 0.5) / (wavelength_nm(300e3) * 20))
    np.testing.assert_allclose(-optics.transfer(q, np.zeros(1)).imag, [1, 0, -1, 0, 1, 0, -1], atol=1e-9)


def test_envelopes_only_ever_damp_and_leave_the_direct_beam_alone() -> None:
    qy, qx = frequencies((64, 64), 0.02)
    transfer = np.abs(Optics().transfer(qy, qx))
    assert transfer[0, 0] == 1
    assert transfer.max() == 1
    q = np.hypot(qy, qx)
    assert transfer[q > 20].max() < 0.01


def test_temporal_envelope_is_the_average_over_defocus() -> None:
    q, spread = np.array([6.0, 9.0]), 3.0
    rng = np.random.default_rng(0)
    drawn = [Optics(defocus_nm=c, cs_um=0, convergence_mrad=0, focal_spread_nm=0, vibration_nm=0)
             for c in rng.normal(5, spread, 20_000)]  # fmt: skip
    mean = np.mean([optics.transfer(q, np.zeros(1)) for optics in drawn], axis=0)
    damped = Optics(defocus_nm=5, cs_um=0, convergence_mrad=0, focal_spread_nm=spread, vibration_nm=0)
    np.testing.assert_allclose(mean, damped.transfer(q, np.zeros(1)), atol=0.02)


def test_one_atom_scatters_as_its_scattering_factor_says() -> None:
    """A single light-bending atom: the wave's transform is i γ λ f(q), to first order."""
    images = ColumnImages(NO_LENS, 0.01, 1, SPACING_NM, rms_displacement_nm=0.03)
    patch = images.patch(1, (0.0, 0.0))
    side = images.side_px
    spectrum = np.fft.fft2(np.fft.ifftshift(patch)) * 0.01**2
    qy, qx = frequencies((side, side), 0.01)
    q = np.hypot(qy, qx)
    ring = (q > 4) & (q < 9)
    expected = interaction_nm(300e3) * scattering_factor("Au", q, 0.03)
    np.testing.assert_allclose(spectrum.imag[ring], expected[ring], rtol=0.2)
    assert np.abs(spectrum.real[ring]).max() < 0.5 * expected[ring].max()


def test_scattering_comes_and_goes_with_height() -> None:
    """Channelling: the wave at the column returns towards the incident one after the extinction distance."""
    images = ColumnImages(NO_LENS, 0.02, 20, SPACING_NM)
    middle = images.side_px // 2
    scattered = np.array([abs(images.patch(n, (0.0, 0.0))[middle, middle]) for n in range(1, 21)])
    first = int(np.argmax(scattered[:9]))
    back = first + int(np.argmin(scattered[first : first + 8]))
    assert 1 <= first <= 6
    assert scattered[back] < 0.75 * scattered[first]
    assert scattered[back:].max() > 1.2 * scattered[back]


def test_patch_moves_with_its_column() -> None:
    images = ColumnImages(Optics(), 0.02, 5, SPACING_NM)
    still, moved = images.patch(5, (0.0, 0.0)), images.patch(5, (0.0, 1.0))
    np.testing.assert_allclose(moved[20:-20, 21:-19], still[20:-20, 20:-20], atol=1e-5)
    weight = np.abs(images.patch(5, (0.25, 0.75))) ** 2
    y, x = np.mgrid[: images.side_px, : images.side_px] - images.side_px // 2
    assert (weight * y).sum() / weight.sum() == pytest.approx(0.25, abs=0.01)
    assert (weight * x).sum() / weight.sum() == pytest.approx(0.75, abs=0.01)
    assert np.abs(still[[8, -8], :]).max() < 0.02


def test_column_agrees_with_abtem() -> None:
    """An isolated column of gold by an independent multislice program, through the same lens."""
    abtem = pytest.importorskip("abtem", reason="abTEM comes with the training extra")
    ase = pytest.importorskip("ase")
    sampling_nm, side = 0.01, 220
    optics = Optics()
    images = ColumnImages(optics, sampling_nm, 14, SPACING_NM, rms_displacement_nm=0.0)
    qy, qx = frequencies((side, side), sampling_nm)
    for height in (2, 6, 10, 14):
        cell = [10 * side * sampling_nm] * 2 + [10 * height * SPACING_NM]
        z = 10 * SPACING_NM * (np.arange(height) + 0.5)
        positions = np.column_stack([np.full((height, 2), cell[0] / 2), z])
        atoms = ase.Atoms(f"Au{height}", positions, cell=cell)
        potential = abtem.Potential(
            atoms, gpts=side, slice_thickness=5 * SPACING_NM, parametrization="peng", projection="infinite"
        )
        exit_wave = abtem.PlaneWave(energy=300e3).multislice(potential).compute(progress_bar=False).array
        to_middle = np.exp(0.5j * np.pi * wavelength_nm(300e3) * height * SPACING_NM * (qy**2 + qx**2))
        wave = np.fft.ifft2(np.fft.fft2(exit_wave / exit_wave[0, 0]) * to_middle * optics.transfer(qy, qx))
        ours = 1 + images.patch(height, (0.0, 0.0))
        core = np.s_[60:-60, 60:-60]
        assert np.corrcoef(np.abs(wave[core]).ravel() ** 2, np.abs(ours[core]).ravel() ** 2)[0, 1] > 0.99
