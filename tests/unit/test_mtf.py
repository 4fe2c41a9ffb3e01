"""An MTF is read from the noise of vacuum, and from nothing else."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stream.cli import app
from stream.frame import CalibrationError
from stream.mtf import fit_mtf, modulation_transfer

CAMERAS = [(0.0, 0.4, 2.0), (0.05, 0.5, 2.5), (0.1, 0.35, 3.0), (0.03, 0.8, 2.2)]
DOSES = [0.1, 3.0, 3000.0]  # electrons per pixel


def vacuum(
    rng: np.random.Generator, shape: tuple[int, int], dose: float, c: tuple[float, float, float] | None
) -> np.ndarray:
    """Counted electrons under uneven light, blurred by a scintillator; c of None: a counting camera."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    light = dose * (1 + 0.3 * (x / shape[1] - 0.5) - 0.4 * (y / shape[0] - 0.4) ** 2)
    electrons = rng.poisson(light).astype(float)
    if c is None:
        return electrons
    q = 2 * np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    return np.fft.irfft2(np.fft.rfft2(electrons) * modulation_transfer(q, *c), s=shape)


def test_known_cameras_are_recovered_within_the_intervals_claimed() -> None:
    rng = np.random.default_rng(0)
    q = np.linspace(0, 1, 50)
    held = []
    for c in CAMERAS:
        for dose in DOSES:
            fit = fit_mtf([vacuum(rng, (256, 320), dose, c)])
            held += [low <= true <= high for true, (low, high) in zip(c, fit.intervals, strict=True)]
            assert not fit.white
            fitted = modulation_transfer(q, fit.c1, fit.c2, fit.c3)
            assert np.abs(fitted - modulation_transfer(q, *c)).max() < 0.05, (c, dose)
            assert fit.at_nyquist == pytest.approx(fitted[-1])
    assert np.mean(held) > 0.85  # 95 % of 36, which come three together


def test_more_vacuum_tells_more() -> None:
    rng = np.random.default_rng(1)
    frames = [vacuum(rng, (192, 192), 50, (0.1, 0.35, 3.0)) for _ in range(12)]
    few, many = fit_mtf(frames[:1]), fit_mtf(frames)
    widths = [np.diff(fit.intervals, axis=1)[:, 0] for fit in (few, many)]
    assert (widths[1] < 0.6 * widths[0]).all()
    assert many.frames == 12
    assert many.c2 == pytest.approx(0.35, abs=0.02)


@pytest.mark.parametrize("dose", [0.05, 1.0, 400.0])
def test_the_noise_of_a_counting_camera_is_white(dose: float) -> None:
    fit = fit_mtf([vacuum(np.random.default_rng(2), (256, 256), dose, None)])
    assert fit.white
    assert fit.at_nyquist == pytest.approx(1, abs=0.05)
    assert tomllib.loads("\n".join(fit.recipe_lines())) == {"counting_fraction": 1.0}


def test_dead_pixels_and_x_rays_do_no_harm() -> None:
    rng = np.random.default_rng(3)
    image = vacuum(rng, (256, 256), 50, (0.05, 0.4, 2.5))
    spoilt, bad = image.copy(), np.zeros(image.shape, bool)
    bad[100] = True
    spoilt[100] = 1e6
    spoilt[30, 40], spoilt[200, 10] = 5000, np.nan
    clean, fit = fit_mtf([image]), fit_mtf([spoilt], bad)
    assert fit.at_nyquist == pytest.approx(clean.at_nyquist, abs=0.02)


def specimen(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Relative intensity (256, 256) of something that is no vacuum."""
    y, x = np.mgrid[:256, :256]
    if kind == "lattice":
        return 1 + 0.1 * np.cos(2 * np.pi * x / 10) + 0.1 * np.cos(2 * np.pi * y / 12)
    if kind == "particle":
        return 1 - 0.5 * (np.hypot(y - 100, x - 120) < 60)
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))  # a film's ring of one frequency
    ring = np.fft.ifft2(np.fft.fft2(rng.normal(size=(256, 256))) * np.exp(-((radius - 0.1) ** 2) / 2e-3))
    return 1 + np.abs(ring)


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("lattice", r"a lattice or a fixed pattern of (9\.9|10\.0|11\.9|12\.0)\d pixels"),
        ("particle", r"one part of it varies \d+\.\d times as much"),
        ("film", "off the form of a camera's noise"),
    ],
)
def test_what_is_not_vacuum_is_refused_by_name(kind: str, complaint: str) -> None:
    rng = np.random.default_rng(4)
    with pytest.raises(CalibrationError, match=complaint):
        fit_mtf([rng.poisson(200 * specimen(kind, rng))])


def test_what_is_not_a_cameras_noise_is_refused() -> None:
    white = np.random.default_rng(5).normal(size=(256, 256))
    around = sum(np.roll(white, step, axis) for step in (1, -1) for axis in (0, 1))
    low = np.fft.fft2(white) * (np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)) < 0.3)
    for image, complaint in (
        (white - 0.2 * around, "sharpened"),
        (np.fft.ifft2(low).real, "filtered or enlarged"),
        (np.ones((256, 256)), "there is no noise"),
        (white[:64], r"at least 128 pixels to a side, got \(64, 256\)"),
    ):
        with pytest.raises(CalibrationError, match=complaint):
            fit_mtf([image])


def test_the_command_prints_lines_for_a_recipe(tmp_path: Path) -> None:
    image = vacuum(np.random.default_rng(5), (256, 400), 80, (0.05, 0.4, 2.5))
    image[:, :140] += 300 * (np.arange(140) % 7 == 0)  # a specimen beside the vacuum
    np.save(tmp_path / "vacuum.npy", image.astype("f4"))
    runner, call = CliRunner(), ["calibrate", "mtf", str(tmp_path / "vacuum.npy")]
    done = runner.invoke(app, [*call, "--region", "0:256,144:400", "--png", str(tmp_path / "mtf.png")])
    assert done.exit_code == 0, done.output
    lines = tomllib.loads(done.stdout)
    assert lines["mtf_c2"][0] < 0.4 < lines["mtf_c2"][1]
    assert lines["counting_fraction"] == 0
    assert (tmp_path / "mtf.png").read_bytes()[:4] == b"\x89PNG"
    told = json.loads(runner.invoke(app, [*call, "--region", "0:256,144:400", "--json"]).stdout)
    assert told["c2_95"] == pytest.approx(lines["mtf_c2"], abs=1e-4)
    refused = runner.invoke(app, call)
    assert isinstance(refused.exception, CalibrationError)
    assert "vacuum.npy: not an image of vacuum" in str(refused.exception)
    assert runner.invoke(app, [*call, "--region", "0:256"]).exit_code == 2
