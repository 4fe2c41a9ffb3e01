"""The kinds of specimen: a recipe's `[specimen]` says which with `kind`, a particle where it says nothing."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from training.relax import settle
from training.sheet import SheetSettings, make_sheet
from training.specimen import ParticleSettings, Specimen, make_particle

KINDS = {"particle": ParticleSettings, "sheet": SheetSettings}


def _kind(settings: Any) -> Any:
    if isinstance(settings, dict):
        return settings.get("kind", "particle")
    return getattr(settings, "kind", None)


SpecimenSettings = Annotated[
    Annotated[ParticleSettings, Tag("particle")] | Annotated[SheetSettings, Tag("sheet")],
    Discriminator(
        _kind,
        custom_error_type="kind_of_specimen",
        custom_error_message=f"no such kind of specimen: expected {' or '.join(map(repr, KINDS))}",
    ),
]


def make_specimen(settings: ParticleSettings | SheetSettings, seed: int) -> Specimen:
    """Draw one specimen; the same settings and seed give the same atoms."""
    specimen = draw_specimen(settings, seed)
    if isinstance(settings, ParticleSettings) and settings.relaxed:
        return settle(specimen, settings, seed)
    return specimen


def draw_specimen(settings: ParticleSettings | SheetSettings, seed: int) -> Specimen:
    """The same specimen before its particle is relaxed, which takes a thousand times as long as the rest."""
    if isinstance(settings, SheetSettings):
        return make_sheet(settings, seed)
    return make_particle(settings, seed)
