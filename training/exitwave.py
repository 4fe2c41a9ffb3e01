"""Exit waves of simulated specimens by multislice (abTEM), made once and kept on disk.

abTEM's arrays are (x, y) in Å; they are transposed and converted in `exit_wave` and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import Progress
from scipy.fft import irfft2, rfft2

from training.imaging import wavelength_angstrom
from training.kinds import SpecimenSettings, make_specimen
from training.relax import SETTLING
from training.specimen import ParticleSettings, Specimen

log = logging.getLogger(__name__)
_FORMAT = 3  # raise it when the simulation changes, so that old cache entries are no longer met


class CacheError(ValueError):
    """An exit wave on disk that cannot be what was stored."""


class WaveSettings(BaseModel):
    """Multislice: energy of the electrons, thickness of a slice in Å, and how much finer it is than the exit wave.

    A heavy atom is sharp: at 0.2 Å/px, of which abTEM keeps two thirds of the frequencies, a gold column's contrast
    oscillates with its height only two thirds as fast as it should; at 0.1 Å/px it has converged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy_ev: float = 300e3
    slice_angstrom: float = Field(2.0, gt=0)
    oversampling: int = Field(2, ge=1, le=8)


@dataclass(frozen=True, slots=True)
class ExitWave:
    """The electron wave below a specimen, and the truth about it.

    Attributes
    ----------
    wave : (ny, nx) c8, mean intensity about 1, focused on the particle's middle.
    sampling_nm : of a pixel.
    column_yx_nm : (m, 2) f8; pixel (0, 0)'s centre is the origin.
    column_atoms : (m,) i8.
    kind : in words.
    """

    wave: np.ndarray
    sampling_nm: float
    column_yx_nm: np.ndarray
    column_atoms: np.ndarray
    kind: str


def exit_wave(specimen: Specimen, side_px: int, settings: WaveSettings) -> ExitWave:
    """Multislice with Lobato's potentials; the one boundary between abTEM's (x, y) Å and (y, x) nm.

    The wave leaves the box at its bottom; it is propagated back to the particle's middle, so that a defocus means the
    same for every thickness.
    """
    import abtem
    from ase import Atoms

    abtem.config.set(
        {"device": "cpu", "diagnostics.progress_bar": False, "local_diagnostics.progress_bar": False}
    )
    fine_px = side_px * settings.oversampling
    xy = np.ones((side_px, side_px), np.complex128)
    if len(specimen.numbers):
        atoms = Atoms(specimen.numbers, specimen.xyz_angstrom, cell=specimen.box_angstrom, pbc=True)
        potential = abtem.Potential(
            atoms,
            gpts=fine_px,
            slice_thickness=settings.slice_angstrom,
            parametrization="lobato",
            projection="infinite",
        ).build(lazy=False)
        _vibrate(potential.array, specimen.thermal_angstrom, specimen.box_angstrom[0] / fine_px)
        wave = abtem.PlaneWave(energy=settings.energy_ev).multislice(potential, lazy=False)
        xy = propagate(
            np.asarray(wave.array),
            specimen.focus_z_angstrom - specimen.box_angstrom[2],
            specimen.box_angstrom[0] / fine_px,
            wavelength_angstrom(settings.energy_ev),
        )
        xy = _coarser(xy, side_px)
    return ExitWave(
        wave=np.ascontiguousarray(xy.T, dtype=np.complex64),
        sampling_nm=float(specimen.box_angstrom[0]) / side_px / 10,
        column_yx_nm=specimen.column_yx_nm,
        column_atoms=specimen.column_atoms,
        kind=specimen.kind,
    )


def _vibrate(slices: np.ndarray, rms_angstrom: float, sampling_angstrom: float) -> None:
    """Blur projected potentials (n, nx, ny), in place, by the vibration of the atoms (Debye-Waller)."""
    nx, ny = slices.shape[1:]
    q2 = np.fft.fftfreq(nx)[:, None] ** 2 + np.fft.rfftfreq(ny)[None, :] ** 2
    damping = np.exp(-2 * np.pi**2 * (rms_angstrom / sampling_angstrom) ** 2 * q2).astype(slices.dtype)
    for potential in slices:
        potential[:] = irfft2(rfft2(potential) * damping, s=potential.shape)


def propagate(
    wave: np.ndarray, distance_angstrom: float, sampling_angstrom: float, wavelength: float
) -> np.ndarray:
    """Fresnel: the wave (n, n) as it would be `distance_angstrom` farther in empty space."""
    q = np.fft.fftfreq(len(wave), sampling_angstrom)
    phase = np.exp(-1j * np.pi * wavelength * distance_angstrom * (q[:, None] ** 2 + q[None, :] ** 2))
    return np.fft.ifft2(np.fft.fft2(wave) * phase)


def _coarser(wave: np.ndarray, side_px: int) -> np.ndarray:
    """The lowest frequencies of a wave (n, n), as (side_px, side_px) with the same corner pixel and mean."""
    spectrum = np.fft.fftshift(np.fft.fft2(wave))
    first = len(wave) // 2 - side_px // 2
    kept = spectrum[first : first + side_px, first : first + side_px]
    return np.fft.ifft2(np.fft.ifftshift(kept)) * (side_px / len(wave)) ** 2


def cache_path(cache: Path, specimen: SpecimenSettings, waves: WaveSettings, seed: int) -> Path:
    """Where the exit wave of these settings and this seed lives: its name is the hash of both."""
    drawn_from = specimen.model_dump()
    if isinstance(specimen, ParticleSettings):
        # particles are stored under the names they had before there were other kinds, twins and relaxed ones
        new = {
            "relaxed": False,
            "langevin_k": None,
            "twinned_fraction": 0.0,
            "under_fraction": 0.35,
            "column_disorder_angstrom": (0.0, 0.0),
        }
        drawn_from = {key: value for key, value in drawn_from.items() if key not in new or value != new[key]}
        del drawn_from["kind"]
        if specimen.relaxed:
            drawn_from["settling"] = SETTLING
    content = json.dumps([_FORMAT, drawn_from, waves.model_dump(), seed], sort_keys=True)
    return cache / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.npz"


def load_wave(path: Path) -> ExitWave:
    """Read one cache entry.

    Raises
    ------
    CacheError
        If the file is truncated, altered, or not an exit wave.
    """
    try:
        with np.load(path) as stored:
            entry = ExitWave(
                stored["wave"],
                float(stored["sampling_nm"]),
                stored["column_yx_nm"],
                stored["column_atoms"],
                str(stored["kind"]),
            )
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        raise CacheError(
            f"{path} is not a readable exit wave ({error}); expected the npz written by this program: delete it, "
            "it will be simulated again"
        ) from error
    if entry.wave.ndim != 2 or entry.wave.dtype != np.complex64 or not np.isfinite(entry.wave).all():
        raise CacheError(
            f"{path} holds no finite complex image, got {entry.wave.dtype} {entry.wave.shape}: delete it"
        )
    return entry


def simulate(specimen: SpecimenSettings, waves: WaveSettings, seed: int, path: Path) -> None:
    """Make one exit wave and put it in the cache, whole or not at all."""
    entry = exit_wave(make_specimen(specimen, seed), specimen.side_px, waves)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez(
            file,
            wave=entry.wave,
            sampling_nm=entry.sampling_nm,
            column_yx_nm=entry.column_yx_nm,
            column_atoms=entry.column_atoms,
            kind=entry.kind,
        )
    partial.replace(path)


def exit_waves(
    specimen: SpecimenSettings, waves: WaveSettings, seeds: Sequence[int], cache: Path, workers: int = 2
) -> list[ExitWave]:
    """The exit waves of all seeds, from the cache where they are there, simulated where not.

    What is finished stays when the run is interrupted. A corrupt entry is reported and made anew.
    """
    cache.mkdir(parents=True, exist_ok=True)
    paths = {seed: cache_path(cache, specimen, waves, seed) for seed in seeds}
    found: dict[int, ExitWave] = {}
    for seed, path in paths.items():
        if path.exists():
            try:
                found[seed] = load_wave(path)
            except CacheError as error:
                log.warning("%s; simulating it again", error)
                path.unlink()
    missing = [seed for seed in seeds if seed not in found]
    if missing:
        with Progress(console=Console(stderr=True)) as progress:
            for _ in progress.track(
                _simulate_all(specimen, waves, {seed: paths[seed] for seed in missing}, workers),
                total=len(missing),
                description="exit waves",
            ):
                pass
        found |= {seed: load_wave(paths[seed]) for seed in missing}
    return [found[seed] for seed in seeds]


def _simulate_all(
    specimen: SpecimenSettings, waves: WaveSettings, paths: dict[int, Path], workers: int
) -> Iterator[None]:
    """Simulate all seeds, in this process for one worker; yields as each is done."""
    if workers <= 1:
        for seed, path in paths.items():
            yield simulate(specimen, waves, seed, path)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited: one thread per worker
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(simulate, specimen, waves, seed, path) for seed, path in paths.items()]
        for job in as_completed(jobs):
            yield job.result()
