"""Which diffraction patterns specimens show: the ruler that an engine's manifest carries."""

from __future__ import annotations

import numpy as np

from engines.manifest import ZoneAxis
from training.crystals import LatticeSettings
from training.growth import ZoneAxis as Direction
from training.growth import lattice_constant_angstrom
from training.honeycomb import BOND_ANGSTROM
from training.kinds import SpecimenSettings
from training.lattices import LATTICES
from training.sheet import SheetSettings
from training.support import CERIA_LATTICE_ANGSTROM

# Two shortest reflections of a face-centred cubic crystal, which span all others along that axis.
_SPANNED_BY = {
    "100": ((0, 2, 0), (0, 0, 2)),
    "110": ((1, -1, 1), (1, -1, -1)),
    "111": ((2, -2, 0), (2, 0, -2)),
}


def known_zone_axes(settings: SpecimenSettings | LatticeSettings) -> tuple[ZoneAxis, ...]:
    """Those of the metal, whose columns are found, and of ceria, where there are supports; a sheet's are graphene's.

    Monolayers of dichalcogenides are one net of a range of constants. Lattices without a true scale are no ruler.
    """
    if isinstance(settings, LatticeSettings):
        return _monolayers(settings)
    if isinstance(settings, SheetSettings):
        spacing_nm = round(1.5 * BOND_ANGSTROM / 10, 5)  # 10 and 01 of graphene
        return (ZoneAxis(name="graphene", spacings_nm=(spacing_nm, spacing_nm), angle_deg=60),)
    metal_angstrom = lattice_constant_angstrom(settings.element)
    axes = [_fcc(settings.element, metal_angstrom, axis, True) for axis in settings.zone_axes]
    if settings.support_fraction > 0:
        axes += [_fcc("CeO2", CERIA_LATTICE_ANGSTROM, axis, False) for axis in _SPANNED_BY]
    return tuple(axes)


def _monolayers(settings: LatticeSettings) -> tuple[ZoneAxis, ...]:
    constants = [LATTICES[name].constant_angstrom for name in dict.fromkeys(settings.names)]
    known = np.array([constant for constant in constants if constant is not None])
    if len(known) == 0:
        return ()
    middle = float(np.sqrt(known.min() * known.max()))
    spacing_nm = round(middle * np.sqrt(3) / 20, 5)  # {100}
    smallest, largest = (round(float(a / middle), 4) for a in (known.min(), known.max()))
    return (
        ZoneAxis(
            name="MX2 monolayer",
            spacings_nm=(spacing_nm, spacing_nm),
            angle_deg=60.0,
            constant_range=(smallest, largest),
        ),
    )


def _fcc(name: str, lattice_angstrom: float, axis: Direction, columns: bool) -> ZoneAxis:
    first, second = (np.array(hkl, float) for hkl in _SPANNED_BY[axis])
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    angle_deg = np.rad2deg(np.arccos(first @ second / (lengths[0] * lengths[1])))
    return ZoneAxis(
        name=f"{name} <{axis}>",
        spacings_nm=tuple(round(lattice_angstrom / 10 / length, 5) for length in lengths),
        angle_deg=round(float(angle_deg), 3),
        columns=columns,
    )
