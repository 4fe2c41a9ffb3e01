"""Particles away from their lattice sites: relaxed by a metal's own forces, then shaken by heat. Lengths in Å.

The forces are effective medium theory's, with ASE's parameters. Its gold crystal has 4.06 Å, ASE's table 4.08 Å: a
particle starts on the table's lattice and shrinks freely. Nothing here knows of a support: a particle is relaxed as
if it were in vacuum.
"""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt
from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import beta, parameters
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.optimize import FIRE
from scipy.spatial import cKDTree

from training.specimen import MARGIN_ANGSTROM, ParticleSettings, Specimen, column_means_nm


class Settling(NamedTuple):
    """How long and how: part of an exit wave's name in the cache, so that a change makes new ones."""

    relax_steps: int = 200
    force_ev_angstrom: float = 0.02  # the largest on any atom, at which to stop earlier
    heat_steps: int = 100
    step_fs: float = 5.0
    friction_per_fs: float = 0.005


SETTLING = Settling()


class PairwiseEMT(Calculator):
    """Energy and forces of one metal by effective medium theory, all pairs at once.

    The same as ASE's `EMT` (Jacobsen, Stoltze, Nørskov, Surf. Sci. 366, 394 (1996)), which goes from atom to atom and
    takes over a hundred times as long. For atoms without a periodic cell.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's way)

    def __init__(self, element: str) -> None:
        super().__init__()
        e0, s0, v0, eta2, kappa, lambda_, _ = parameters[element]
        s0 *= units.Bohr
        self.e0, self.s0, self.v0 = e0, s0, v0
        self.eta2, self.kappa, self.lambda_ = eta2 / units.Bohr, kappa / units.Bohr, lambda_ / units.Bohr
        nearest = beta * units.Bohr * max(row[1] for row in parameters.values())
        self.cutoff = nearest * (sqrt(3) + 2) / 2  # between third and fourth neighbours of the largest atom
        self.slope = log(1e4 - 1) / (2 * nearest - self.cutoff)
        r = beta * s0 * np.sqrt([1, 2, 3])
        weight = np.array([12, 6, 24]) / 12 / (1 + np.exp(self.slope * (r - self.cutoff)))
        self.gamma1 = weight @ np.exp(-self.eta2 * (r - beta * s0))
        self.gamma2 = weight @ np.exp(-self.kappa / beta * (r - beta * s0))

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """For ASE, which asks for it and takes `results`."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        xyz = self.atoms.positions
        n = len(xyz)
        i, j = cKDTree(xyz).query_pairs(self.cutoff + 0.5, output_type="ndarray").T
        d = xyz[j] - xyz[i]
        r = np.sqrt((d**2).sum(1))
        weight = 1 / (1 + np.exp(self.slope * (r - self.cutoff)))
        weight_slope = self.slope * (weight - 1)  # of its logarithm

        density = weight * np.exp(-self.eta2 * (r - beta * self.s0))
        sigma = np.bincount(i, density, n) + np.bincount(j, density, n)
        sigma = np.maximum(sigma, 1e-200)  # an atom alone: its energy is none
        s = -np.log(sigma / (12 * self.gamma1)) / (beta * self.eta2)
        cohesion = self.e0 * np.exp(-self.lambda_ * s)
        repulsion = 6 * self.v0 * np.exp(-self.kappa * s)
        by_sigma = (cohesion * self.lambda_**2 * s + self.kappa * repulsion) / (beta * self.eta2 * sigma)
        pair = -self.v0 / self.gamma2 * weight * np.exp(-self.kappa * (r / beta - self.s0))

        self.results["energy"] = float(
            (cohesion * (1 + self.lambda_ * s) + repulsion - self.e0).sum() + pair.sum()
        )
        along = (by_sigma[i] + by_sigma[j]) * density * (weight_slope - self.eta2)
        along += pair * (weight_slope - self.kappa / beta)
        pull = (along / r)[:, None] * d
        self.results["forces"] = np.stack(
            [np.bincount(i, pull[:, k], n) - np.bincount(j, pull[:, k], n) for k in range(3)], -1
        )


def relax(element: str, xyz_angstrom: np.ndarray, settling: Settling = SETTLING) -> tuple[np.ndarray, float]:
    """Let atoms (n, 3) go where their forces bring them, by FIRE in a bounded number of steps.

    Returns
    -------
    Where they are, and the largest force left on any of them in eV/Å.
    """
    atoms = _atoms(element, xyz_angstrom)
    FIRE(atoms, logfile=None).run(  # pyright: ignore[reportArgumentType]
        fmax=settling.force_ev_angstrom, steps=settling.relax_steps
    )
    return atoms.positions, float(np.sqrt((atoms.get_forces() ** 2).sum(1).max()))


def snapshot(
    element: str,
    xyz_angstrom: np.ndarray,
    temperature_k: float,
    rng: np.random.Generator,
    settling: Settling = SETTLING,
) -> np.ndarray:
    """Relaxed atoms (n, 3) at one moment of their vibration, by Langevin dynamics.

    They start where they rest, with twice the kinetic energy that the temperature has, of which vibration takes half.
    """
    atoms = _atoms(element, xyz_angstrom)
    speed = np.sqrt(units.kB * 2 * temperature_k / atoms.get_masses()[:, None])  # Maxwell and Boltzmann's
    atoms.set_velocities(rng.normal(0, speed, (len(atoms), 3)))
    Stationary(atoms)
    ZeroRotation(atoms)
    heat = Langevin(
        atoms,
        settling.step_fs * units.fs,
        temperature_K=temperature_k,
        friction=settling.friction_per_fs / units.fs,
        fixcm=False,
        rng=rng,
        logfile=None,
    )
    heat.run(settling.heat_steps)
    return atoms.positions


def settle(specimen: Specimen, settings: ParticleSettings, seed: int) -> Specimen:
    """The specimen with its particle relaxed, and shaken by heat where the settings say so; the rest stays.

    A column is then where its atoms are on average, at that moment.
    """
    n = len(specimen.atom_column)
    if n < 2:
        return specimen
    rng = np.random.default_rng([seed, 0x4EA7])
    moved, _ = relax(settings.element, specimen.xyz_angstrom[:n])
    if settings.langevin_k is not None:
        moved = snapshot(settings.element, moved, rng.uniform(*settings.langevin_k), rng)
    xyz = np.concatenate([moved, specimen.xyz_angstrom[n:]])
    xyz[:, 2] += MARGIN_ANGSTROM - xyz[:, 2].min()  # an atom may have left the box above or below
    return replace(
        specimen,
        xyz_angstrom=xyz,
        box_angstrom=np.array([*specimen.box_angstrom[:2], xyz[:, 2].max() + MARGIN_ANGSTROM]),
        focus_z_angstrom=float(xyz[:n, 2].mean()),
        column_yx_nm=column_means_nm(moved, specimen.atom_column),
    )


def _atoms(element: str, xyz_angstrom: np.ndarray) -> Atoms:
    atoms = Atoms(f"{element}{len(xyz_angstrom)}", positions=xyz_angstrom)
    atoms.calc = PairwiseEMT(element)
    return atoms
