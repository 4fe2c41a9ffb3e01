"""Simulated specimens: metal nanoparticles in a zone axis, in vacuum, on and beside supports.

Lengths are in Å here (the unit of ASE and abTEM); what leaves for the rest of the program, the
positions of the atomic columns, is (y, x) in nm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

import numpy as np
from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.growth import (
    ZoneAxis,
    columns_of,
    grow_particle,
    lattice_constant_angstrom,
    stir_columns,
    twin,
    zone_rotation,
)
from training.support import Slab, SupportKind, make_support

EMT_METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")  # those that effective medium theory is good for
MARGIN_ANGSTROM = 2.0  # of empty box above and below the atoms


class ParticleSettings(BaseModel):
    """What is drawn for every particle; ranges are uniform unless said otherwise.

    Attributes
    ----------
    element : a face-centred cubic metal ("Au", "Pt", ...).
    side_px : side of the (square, periodic) box in pixels of the exit wave.
    sampling_angstrom_px : size of a pixel; drawn per specimen, it is the jitter of the magnification.
    diameter_angstrom : of the particle before roughening.
    tilt_deg : of the particle away from its zone axis.
    thermal_angstrom : rms vibration of an atom along each axis; it blurs the potential (Debye-Waller), for an exposure
        sees the average of very many vibrations.
    disorder_angstrom : rms displacement of an atom along each axis that stays; a relaxed particle loses it.
    column_disorder_angstrom : that of a whole column of the particle, across the beam, on top of its atoms'. A network
        that has only seen columns on their lattice sites draws others there: it took a third off every displacement.
    supports : which, each as likely as it is named often.
    support_fraction, empty_fraction : of all specimens, those with a support, and those without a particle.
    under_fraction : of the particles with a support, those that have it under or over them in the beam, not beside.
    stirred_fraction : of the particles, those whose columns are taken away and added (`stir_columns`).
    twinned_fraction : of the particles seen along <110>, those with a twin plane along the beam (`twin`).
    relaxed : whether a particle's atoms go where their forces bring them (`relax.settle`); for `EMT_METALS`.
    langevin_k : temperature in K at which a relaxed particle is then shaken; its atoms are those of one moment, not
        blurred. The support's are then displaced at random by `thermal_angstrom`, and not blurred either.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["particle"] = "particle"
    element: str = "Au"
    zone_axes: tuple[ZoneAxis, ...] = ("100", "110", "111")
    side_px: int = Field(320, ge=64, multiple_of=8)
    sampling_angstrom_px: tuple[float, float] = (0.18, 0.22)
    diameter_angstrom: tuple[float, float] = (18.0, 46.0)
    tilt_deg: tuple[float, float] = (0.0, 5.0)
    thermal_angstrom: tuple[float, float] = (0.07, 0.11)
    disorder_angstrom: tuple[float, float] = (0.0, 0.03)
    column_disorder_angstrom: tuple[float, float] = (0.0, 0.0)
    supports: tuple[SupportKind, ...] = Field(("ceria", "titania", "carbon"), min_length=1)
    support_fraction: float = Field(0.7, ge=0, le=1)
    under_fraction: float = Field(0.35, ge=0, le=1)
    empty_fraction: float = Field(0.08, ge=0, le=1)
    stirred_fraction: float = Field(0.0, ge=0, le=1)
    twinned_fraction: float = Field(0.0, ge=0, le=1)
    relaxed: bool = False
    langevin_k: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(le=1300)]] | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.relaxed and self.element not in EMT_METALS:
            raise ValueError(
                f"no forces are known for {self.element}: expected one of {', '.join(EMT_METALS)}; remove relaxed, or "
                "take another element"
            )
        if self.langevin_k is not None and not self.relaxed:
            raise ValueError("langevin_k shakes relaxed particles: add relaxed = true, or remove it")
        return self


@dataclass(frozen=True, slots=True)
class Specimen:
    """Atoms in a box, the beam along z, and the columns a network is to find.

    Attributes
    ----------
    numbers : (n,) i8, atomic numbers.
    xyz_angstrom : (n, 3) f8.
    box_angstrom : (3,) f8, periodic in x and y.
    thermal_angstrom : rms vibration of the atoms along each axis.
    focus_z_angstrom : height of the particle's middle, to which a defocus refers; the box's without a particle.
    column_yx_nm : (m, 2) f8, mean position of each particle column's atoms.
    column_atoms : (m,) i8, atoms in each; 0 where contamination hides it, and no one is to report it.
    kind : in words ("Au <110>, ceria beside").
    zone_axis, tilt_deg : along the beam, and how far from it; None and 0 without a particle.
    column_lattice_nm : (m, 2) f8, where each column is in the untilted, unturned crystal of a particle.
    column_place : (m,) i8, in a sheet, what is around each atom (`facts.PLACES`).
    support_atoms : how many of the atoms, the last ones, belong to a support or to contamination.
    atom_column : (n - support_atoms,) i8, the column of each atom of a particle.
    """

    numbers: np.ndarray
    xyz_angstrom: np.ndarray
    box_angstrom: np.ndarray
    thermal_angstrom: float
    focus_z_angstrom: float
    column_yx_nm: np.ndarray
    column_atoms: np.ndarray
    kind: str
    zone_axis: ZoneAxis | None = None
    tilt_deg: float = 0.0
    column_lattice_nm: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    column_place: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    support_atoms: int = 0
    atom_column: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def make_particle(settings: ParticleSettings, seed: int) -> Specimen:
    """Draw one particle on its lattice sites; the same settings and seed give the same atoms.

    What settings say of relaxing is done by `relax.settle` (`kinds.make_specimen` does both).
    """
    rng = np.random.default_rng([seed, 0x5EC])
    sampling = rng.uniform(*settings.sampling_angstrom_px)
    side = settings.side_px * sampling
    number = atomic_numbers[settings.element]

    supported = rng.random() < settings.support_fraction
    empty = rng.random() < settings.empty_fraction
    kind, xyz, column = "vacuum", np.zeros((0, 3)), np.zeros(0, int)
    zone, tilt_deg, in_lattice = None, 0.0, np.zeros((0, 2))
    if not empty:
        zone = settings.zone_axes[rng.integers(len(settings.zone_axes))]
        lattice = lattice_constant_angstrom(settings.element)
        sites, occupied = grow_particle(rng, lattice, rng.uniform(*settings.diameter_angstrom))
        if rng.random() < settings.stirred_fraction:
            occupied = stir_columns(rng, sites, occupied, zone)
        in_plane_rad, tilt_deg = rng.uniform(0, 2 * np.pi), rng.uniform(*settings.tilt_deg)
        turn = zone_rotation(zone, in_plane_rad, np.deg2rad(tilt_deg), rng.uniform(0, 2 * np.pi))
        crystal, unit, kind = sites[occupied], lattice / 2, f"{settings.element} <{zone}>"
        if zone == "110" and settings.twinned_fraction and rng.random() < settings.twinned_fraction:
            crystal, unit, kind = twin(rng, crystal), unit / 3, f"{kind} twin"
        column = columns_of(crystal, zone)
        xyz = turn.apply(crystal * unit)
        upright = zone_rotation(zone, 0.0, 0.0, 0.0)
        in_lattice = upright.apply(crystal * unit)[:, :2] / 10
        xyz -= (xyz.max(0) + xyz.min(0)) / 2
    else:
        supported = supported or rng.random() < 0.8

    slab = None
    if supported:
        support = settings.supports[rng.integers(len(settings.supports))]
        slab, keep = _place_support(rng, support, xyz, side, settings.under_fraction)
        xyz, column, in_lattice = xyz[keep], column[keep], in_lattice[keep]
        kind += f", {slab.kind}"

    numbers = np.full(len(xyz), number)
    atoms = xyz if slab is None else np.concatenate([xyz, slab.xyz_angstrom])
    if slab is not None:
        numbers = np.concatenate([numbers, slab.numbers])
    atoms = atoms + rng.normal(0, rng.uniform(*settings.disorder_angstrom), atoms.shape)

    low = atoms[:, 2].min() if len(atoms) else 0.0
    high = atoms[:, 2].max() if len(atoms) else 4.0
    offset = np.array([side / 2, side / 2, MARGIN_ANGSTROM - low])
    offset[:2] += rng.uniform(-0.06, 0.06, 2) * side
    atoms = atoms + offset
    particle = atoms[: len(xyz)]
    _, first, index, counts = np.unique(column, return_index=True, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    thermal = float(rng.uniform(*settings.thermal_angstrom))
    if settings.column_disorder_angstrom[1] > 0:
        moved = rng.normal(0, rng.uniform(*settings.column_disorder_angstrom), (len(counts), 2))
        particle[:, :2] += moved[index]
    if settings.langevin_k is not None:
        atoms[len(xyz) :] += rng.normal(0, thermal, atoms[len(xyz) :].shape)
        thermal = 0.0
    return Specimen(
        numbers=numbers,
        xyz_angstrom=atoms,
        box_angstrom=np.array([side, side, high - low + 2 * MARGIN_ANGSTROM]),
        thermal_angstrom=thermal,
        focus_z_angstrom=float(particle[:, 2].mean())
        if len(particle)
        else (high - low + 2 * MARGIN_ANGSTROM) / 2,
        column_yx_nm=column_means_nm(particle, index),
        column_atoms=counts.astype(np.int64),
        kind=kind,
        zone_axis=zone,
        tilt_deg=tilt_deg,
        column_lattice_nm=in_lattice[first],
        support_atoms=0 if slab is None else len(slab.numbers),
        atom_column=index,
    )


def column_means_nm(xyz_angstrom: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Mean (y, x) in nm of the atoms (n, 3) of each column, numbered from 0."""
    counts = np.bincount(column)
    xy = np.stack([np.bincount(column, xyz_angstrom[:, i], len(counts)) for i in (0, 1)], -1)
    return (xy / counts[:, None])[:, ::-1] / 10


def _place_support(
    rng, support: SupportKind, particle, side, under_fraction: float
) -> tuple[Slab, np.ndarray]:
    """A slab beside the particle or under it (in the beam), and which particle atoms it leaves."""
    keep, empty = np.ones(len(particle), bool), len(particle) == 0
    thickness = rng.uniform(12, 45)
    if empty or rng.random() < 1 - under_fraction:
        angle = rng.uniform(0, 2 * np.pi)
        outward = np.array([np.cos(angle), np.sin(angle)])
        depth = particle[:, :2] @ outward
        edge = rng.uniform(-0.4, 0.4) * side if empty else depth.max() * rng.uniform(0.3, 0.95)
        keep = depth <= edge
        centre_z = rng.uniform(-8, 8)
        slab = make_support(
            support, rng, side, (centre_z - thickness / 2, centre_z + thickness / 2), outward, edge + 2.2
        )
        return slab._replace(kind=f"{slab.kind} beside"), keep
    thickness *= 0.6
    bottom = particle[:, 2].max() + 2.2 if rng.random() < 0.5 else particle[:, 2].min() - 2.2 - thickness
    outward, edge = np.array([1.0, 0.0]), -side
    if rng.random() < 0.5:  # the support ends somewhere in the picture
        angle = rng.uniform(0, 2 * np.pi)
        outward, edge = np.array([np.cos(angle), np.sin(angle)]), rng.uniform(-0.4, 0.1) * side
    slab = make_support(support, rng, side, (bottom, bottom + thickness), outward, edge)
    return slab._replace(kind=f"{slab.kind} under"), keep
