"""Simulated sheets of graphene and of what resembles it. Lengths in Å."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BOND_ANGSTROM = 1.42


class SheetSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["sheet"] = "sheet"
    side_px: int = Field(320, ge=64, multiple_of=8)
    sampling_angstrom_px: tuple[float, float] = (0.18, 0.22)


def make_sheet(settings, seed):
    raise NotImplementedError
