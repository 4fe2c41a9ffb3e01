# ruff: noqa: E402  (what needs torch is imported after asking for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")
abtem = pytest.importorskip("abtem")

from abtem.mtf import default_mtf_func

from stream.mtf import fit_mtf
from training.camera import expose, modulation_transfer
from training.imaging import (
    Conditions,
    ImagingSettings,
    contrast_transfer,
    draw_conditions,
    generator_for,
    optics,
    transfer,
    wavelength_angstrom,
)

ENERGY_EV = 300e3
SPACINGS = ImagingSettings().spacings_angstrom


def conditions(count: int = 1, **changes) -> Conditions:
    values = {name: 0.0 for name in Conditions.__slots__} | {
        "mtf_c2": 0.5,
        "mtf_c3": 2.5,
        "dose_e_angstrom2": 100.0,
    }
    tensors = {name: torch.full((count,), float(value)) for name, value in (values | changes).items()}
    tensors["counting"] = tensors["counting"].bool()
    tensors["uneven"] = torch.zeros(count, 5)
    return Conditions(**tensors)


def abtems(lens: dict[str, float]) -> "abtem.CTF":
    return abtem.CTF(
        energy=ENERGY_EV,
        focal_spread=lens.get("focal_spread_angstrom", 0.0),
        angular_spread=lens.get("convergence_mrad", 0.0),
        aberration_coefficients={
            "C10": -lens.get("defocus_angstrom", 0.0),
            "C12": lens.get("astigmatism_angstrom", 0.0),
            "phi12": lens.get("astigmatism_rad", 0.0),
            "C30": lens.get("cs_um", 0.0) * 1e4,
            "C50": lens.get("c5_mm", 0.0) * 1e7,
        },
    )


@pytest.mark.parametrize(
    "lens",
    [  # every factor alone, then together
        {"defocus_angstrom": 120.0},
        {"cs_um": -15.0},
        {"c5_mm": 4.0},
        {"astigmatism_angstrom": 60.0, "astigmatism_rad": 2.5},
        {"focal_spread_angstrom": 35.0},
        {"defocus_angstrom": 120.0, "convergence_mrad": 0.4},
        {"defocus_angstrom": 120.0, "cs_um": -15.0, "c5_mm": 3.0},
        {
            "defocus_angstrom": -80.0,
            "astigmatism_angstrom": 60.0,
            "astigmatism_rad": 0.4,
            "convergence_mrad": 0.4,
        },
        {
            "defocus_angstrom": 50.0,
            "cs_um": 20.0,
            "c5_mm": 5.0,
            "focal_spread_angstrom": 35.0,
            "convergence_mrad": 0.6,
        },
    ],
)
def test_the_lens_is_abtems(lens):
    assert wavelength_angstrom(ENERGY_EV) == pytest.approx(
        abtem.core.energy.energy2wavelength(ENERGY_EV), rel=1e-6
    )
    theirs = abtems(lens)
    q = torch.linspace(-0.8, 0.8, 41)
    qx, qy = q[None, None, :], q[None, :, None]
    alpha = torch.hypot(qx, qy)[0].numpy() * wavelength_angstrom(ENERGY_EV)
    phi = torch.atan2(qy, qx)[0].numpy() * np.ones_like(alpha)
    expected = theirs._evaluate_from_angular_grid(alpha.astype("f4"), phi.astype("f4"))
    ours = contrast_transfer(conditions(**lens), qx, qy, ENERGY_EV)[0].numpy()
    assert np.abs(ours - expected).max() < 1e-4


def test_the_image_is_abtems():
    """A whole image through the lens: their wave function, their transfer, their intensity."""
    rng = np.random.default_rng(0)
    phase = 0.3 * np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(64, 64))) * (np.hypot(
        np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)) < 0.2)))  # fmt: skip
    xy = np.exp(1j * phase).astype(np.complex64)
    lens = {"defocus_angstrom": 70.0, "cs_um": -12.0, "c5_mm": 2.0, "astigmatism_angstrom": 30.0,
            "astigmatism_rad": 0.9, "focal_spread_angstrom": 30.0, "convergence_mrad": 0.3}  # fmt: skip
    theirs = abtem.Waves(xy, energy=ENERGY_EV, sampling=0.2).apply_ctf(abtems(lens)).intensity()
    theirs = np.asarray(theirs.compute(progress_bar=False).array).T  # abTEM's arrays are (x, y)
    waves = torch.from_numpy(np.ascontiguousarray(xy.T))[None]
    ours = optics(waves, torch.tensor([0.2]), conditions(**lens), ENERGY_EV, generator_for(0))[0, 0].numpy()
    assert theirs.std() > 0.05
    assert np.abs(ours - theirs).max() < 1e-4


def test_the_camera_is_abtems():
    """The form of the MTF, and how many electrons a dose is."""
    camera = conditions(mtf_c1=0.07, mtf_c2=0.45, mtf_c3=2.2)
    ours = modulation_transfer(camera, 32, 32)[0].numpy()
    relative = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)) / 0.5
    assert np.abs(ours - default_mtf_func(relative, 1.0, 0.07, 0.45, 2.2)).max() < 1e-4
    image = abtem.measurements.Images(np.full((256, 256), 1.5, np.float32), sampling=0.2)
    theirs = image.poisson_noise(dose_per_area=100.0, seed=1).array
    counting = conditions(counting=True)
    mine = expose(torch.full((1, 1, 256, 256), 1.5), torch.tensor([0.2]), counting, generator_for(5))[
        0, 0
    ].numpy()
    assert theirs.mean() == pytest.approx(1.5 * 100 * 0.2**2, abs=0.04)  # 4 standard errors
    assert mine.mean() == pytest.approx(theirs.mean(), abs=0.06)
    assert mine.var() == pytest.approx(theirs.var(), rel=0.05)


def test_the_calibration_reads_the_camera_that_was_drawn():
    """From simulated vacuum `stream.mtf` finds the MTF it was simulated with, and a counting camera."""
    sampling, light = torch.tensor([0.2]), torch.ones(1, 1, 384, 384)
    for seed, c in enumerate([(0.08, 0.35, 2.8), (0.03, 0.5, 2.2)]):
        drawn = dict(zip(("mtf_c1", "mtf_c2", "mtf_c3"), c, strict=True))
        for dose in (20.0, 2000.0):
            camera = conditions(**drawn, dose_e_angstrom2=dose)
            fit = fit_mtf([expose(light, sampling, camera, generator_for(6, seed))[0, 0].numpy()])
            for true, (low, high) in zip(c, fit.intervals, strict=True):
                assert low <= true <= high
            counting = conditions(**drawn, dose_e_angstrom2=dose, counting=True)
            assert fit_mtf([expose(light, sampling, counting, generator_for(7, seed))[0, 0].numpy()]).white


def test_deflection_blurs_like_a_gaussian_of_its_rms():
    q = torch.linspace(0, 0.8, 9)[None, None, :]
    seen = (
        contrast_transfer(conditions(deflection_angstrom=0.3), q, torch.zeros_like(q), ENERGY_EV)
        .real[0, 0]
        .numpy()
    )
    x = np.linspace(-3, 3, 6001)
    gauss = np.exp(-(x**2) / (2 * 0.3**2))
    blurred = [(gauss * np.cos(2 * np.pi * f * x)).sum() / gauss.sum() for f in q.flatten().numpy()]
    assert seen == pytest.approx(blurred, abs=1e-4)


def test_atoms_are_bright_or_dark_as_transfer_says():
    """A weak phase object's atom, imaged on both sides of the contrast reversal."""
    y, x = np.mgrid[:64, :64]
    potential = 0.05 * np.exp(-((y - 32) ** 2 + (x - 32) ** 2) / (2 * 2.0**2))
    wave = torch.from_numpy(np.exp(1j * potential).astype(np.complex64))[None]
    signs = set()
    for defocus in (-60.0, 60.0):
        lens = conditions(defocus_angstrom=defocus, focal_spread_angstrom=20.0)
        image = optics(wave, torch.tensor([0.2]), lens, ENERGY_EV, generator_for(0))[0, 0]
        sign = float(transfer(lens, ENERGY_EV, SPACINGS))
        assert np.sign(sign) == np.sign(float(image[32, 32]) - 1)
        assert abs(sign) > 0.3
        signs.add(np.sign(sign))
    assert signs == {-1.0, 1.0}


def test_noise_takes_its_colour_from_the_camera():
    """A scintillator filters its shot noise with the MTF; a counting camera's stays white."""
    n, count = 64, 200
    flat = torch.ones(count, 1, n, n)
    expected_counts = 100.0 * 0.2**2
    sampling = torch.full((count,), 0.2)
    for counting in (False, True):
        camera = conditions(count, mtf_c1=0.05, counting=counting)
        images = expose(flat, sampling, camera, generator_for(1))[:, 0]
        assert float(images.mean()) == pytest.approx(expected_counts, rel=0.01)
        power = torch.fft.rfft2(images - images.mean()).abs().square().mean(0) / n**2
        mtf = modulation_transfer(camera, n, n)[0]
        shape = torch.ones_like(mtf) if counting else mtf**2
        ratio = (power / (shape * expected_counts)).numpy()
        for ring in np.array_split(np.argsort(mtf.numpy().ravel())[:-1], 6):
            assert ratio.ravel()[ring].mean() == pytest.approx(1, abs=0.03)


def test_both_cameras_blur_the_signal_alike():
    n = 64
    edge = torch.full((64, 1, n, n), 0.5)
    edge[..., n // 2 :] = 2.0
    sampling = torch.full((64,), 0.2)
    profiles = [
        expose(
            edge, sampling, conditions(64, dose_e_angstrom2=1e4, counting=counting), generator_for(2)
        ).mean((0, 1, 2))
        for counting in (False, True)
    ]
    assert float((profiles[0] - profiles[1]).abs().max()) < 3.0  # of 200 to 800 electrons per pixel


def test_conditions_keep_away_from_the_reversal_and_hold_both_contrasts():
    settings = ImagingSettings()
    drawn = draw_conditions(settings, 300, ENERGY_EV, generator_for(3))
    sign = transfer(drawn, ENERGY_EV, SPACINGS)
    assert len(drawn) == 300
    assert float(sign.abs().min()) >= settings.min_transfer
    assert (
        float(transfer(conditions(defocus_angstrom=150.0), ENERGY_EV, SPACINGS)) == 0
    )  # reversed within the band
    assert 0.2 < float((sign > 0).float().mean()) < 0.8
    dose = drawn.dose_e_angstrom2
    assert 10 <= float(dose.min()) < 20
    assert 2500 < float(dose.max()) <= 5000
    with pytest.raises(ValueError, match="contrast reversal"):
        draw_conditions(
            ImagingSettings(defocus_angstrom=(0.0, 0.0), cs_um=(0.0, 0.0), c5_mm=(0.0, 0.0)),
            4,
            ENERGY_EV,
            generator_for(4),
        )
