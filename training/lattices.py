"""Lattices seen along a zone axis: a cell, and in it columns of atoms.

Letters that are no elements are drawn for every specimen: A heavy, B any, C light. A lattice with a lattice constant
has a true scale; the others are scaled to a spacing between columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers

Vectors = tuple[tuple[float, float], tuple[float, float]]
Site = tuple[float, float, tuple[str, ...]]  # place in the cell, and the atoms of the column

_LETTERS = {"A": (22, 83), "B": (12, 57), "C": (6, 17)}  # atomic numbers


class Lattice(NamedTuple):
    """A cell (y, x) and its columns; `constant_angstrom` is None where the scale is free."""

    vectors: Vectors
    sites: tuple[Site, ...]
    constant_angstrom: float | None = None


def _upright(y: float, x: float) -> Vectors:
    return (y, 0.0), (0.0, x)


def _monolayer(metal: str, chalcogen: str, constant_angstrom: float) -> Lattice:
    sites = ((0.0, 0.0, (metal,)), (1 / 3, 1 / 3, (chalcogen, chalcogen)))
    return Lattice(_HEXAGONAL, sites, constant_angstrom)


_HEXAGONAL: Vectors = ((1.0, 0.0), (0.5, 0.75**0.5))
_A, _B, _C = ("A",), ("B",), ("C",)
_110 = _upright(1.0, 0.5**0.5)  # cubic along <110>: [001] and [1-10]
_1120 = _upright(1.633, 0.75**0.5)  # hexagonal along <11-20>: c and across

LATTICES: dict[str, Lattice] = {
    "fcc100": Lattice(_upright(1.0, 1.0), ((0, 0, _A),)),
    "fcc110": Lattice(_110, ((0, 0, _A), (0.5, 0.5, _A))),
    "fcc111": Lattice(_HEXAGONAL, ((0, 0, _A),)),
    "bcc110": Lattice(_upright(1.0, 2**0.5), ((0, 0, _A), (0.5, 0.5, _A))),
    "hcp0001": Lattice(_HEXAGONAL, ((0, 0, _A), (1 / 3, 1 / 3, _A))),
    "hcp1120": Lattice(_1120, ((0, 0, _A), (0.5, 1 / 3, _A))),
    "diamond110": Lattice(_110, ((0, 0, _A), (0.25, 0, _A), (0.5, 0.5, _A), (0.75, 0.5, _A))),
    "zincblende110": Lattice(_110, ((0, 0, _A), (0.25, 0, _B), (0.5, 0.5, _A), (0.75, 0.5, _B))),
    "wurtzite1120": Lattice(_1120, ((0, 0, _A), (0.375, 0, _C), (0.5, 1 / 3, _A), (0.875, 1 / 3, _C))),
    "rocksalt110": Lattice(_110, ((0, 0, _A), (0.5, 0.5, _A), (0.5, 0, _C), (0, 0.5, _C))),
    "fluorite110": Lattice(
        _110, ((0, 0, _A), (0.5, 0.5, _A), *((y, x, _C) for y in (0.25, 0.75) for x in (0, 0.5)))
    ),
    "perovskite100": Lattice(
        _upright(1.0, 1.0), ((0, 0, _A), (0.5, 0.5, ("B", "C")), (0.5, 0, _C), (0, 0.5, _C))
    ),
    "perovskite110": Lattice(_110, ((0, 0, ("A", "C")), (0.5, 0, _B), (0.5, 0.5, _C))),
    "rutile001": Lattice(
        _upright(1.0, 1.0),
        (
            (0, 0, _A), (0.5, 0.5, _A), (0.305, 0.305, _C), (0.695, 0.695, _C), (0.805, 0.195, _C), (0.195, 0.805, _C),
        ),
    ),
    "layered0001": Lattice(_HEXAGONAL, ((0, 0, _B), (1 / 3, 1 / 3, ("C", "C")))),
    "MoS2": _monolayer("Mo", "S", 3.16),
    "MoSe2": _monolayer("Mo", "Se", 3.29),
    "MoTe2": _monolayer("Mo", "Te", 3.52),
    "WS2": _monolayer("W", "S", 3.15),
    "WSe2": _monolayer("W", "Se", 3.28),
}  # fmt: skip


def elements_of(lattice: Lattice, rng: np.random.Generator) -> list[np.ndarray]:
    """Atomic numbers of every site's atoms; a letter means the same element throughout."""
    drawn = {letter: int(rng.integers(low, high + 1)) for letter, (low, high) in _LETTERS.items()}
    return [np.array([drawn.get(a) or atomic_numbers[a] for a in site[2]]) for site in lattice.sites]


def closest(place: np.ndarray, cell: np.ndarray) -> float:
    """The smallest distance between columns of a periodic lattice."""
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2) @ cell
    between = (place[:, None, None] - place[None, :, None] - steps).reshape(-1, 2)
    distance = np.hypot(*between.T)
    return float(distance[distance > 1e-6].min())
