"""A training recipe: one TOML file that says everything a network depends on."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.exitwave import WaveSettings
from training.imaging import ImagingSettings
from training.networks import NetworkName
from training.specimen import SpecimenSettings

RECIPES = Path(__file__).parent / "recipes"


class DataSettings(BaseModel):
    """How many specimens, and what becomes of them.

    Attributes
    ----------
    training, validation : number of specimens; their seeds never overlap.
    crop_px, batch : side and number of the images of a step.
    label_width_angstrom : w of the label maps.
    normalize_sigma_nm : width of the local normalization.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    training: int = Field(480, ge=1, le=100_000)
    validation: int = Field(60, ge=1)
    crop_px: int = Field(256, ge=64, multiple_of=16)
    batch: int = Field(4, ge=1)
    label_width_angstrom: float = Field(0.5, gt=0)
    normalize_sigma_nm: float = Field(1.0, gt=0)


class TrainSettings(BaseModel):
    """The descent: AdamW with a one-cycle rate, which rises over the first `warm_up` of the steps.

    Attributes
    ----------
    patience : validations in a row without a better F1, averaged over doses, after which to stop and take the best;
        0: never. Only those after the rate has come down to less than half its peak count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: NetworkName = "slim16_s2"
    loss: Literal["cross-entropy", "mean-squared"] = "cross-entropy"
    steps: int = Field(6000, ge=1)
    peak_rate: float = Field(2e-3, gt=0)
    warm_up: float = Field(0.1, gt=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    seed: int = 0
    bf16: bool = True
    validate_every: int = Field(1000, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    patience: int = Field(0, ge=0)


class GpuSettings(BaseModel):
    """What is otherwise on a GPU, which takes more images at once; what is not given is as on a CPU.

    Of several processes each has this `batch`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    peak_rate: float | None = Field(None, gt=0)
    validate_every: int | None = Field(None, ge=1)


class EngineSettings(BaseModel):
    """What is written into the manifest, besides what is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    nominal_nm_px: float = Field(0.02, gt=0)
    min_distance_nm: float = Field(0.1, gt=0)
    licence: str = "Apache-2.0"


class Recipe(BaseModel):
    """The whole recipe; `validation` overrides what a validation specimen is drawn from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    engine: EngineSettings
    specimen: SpecimenSettings = SpecimenSettings()
    validation_specimen: SpecimenSettings = SpecimenSettings()
    waves: WaveSettings = WaveSettings()
    imaging: ImagingSettings = ImagingSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    gpu: GpuSettings = GpuSettings()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for section in (self.specimen, self.validation_specimen, self.imaging):
            for key, value in section:
                numbers = isinstance(value, tuple) and all(isinstance(item, float) for item in value)
                if numbers and value[0] > value[1]:
                    raise ValueError(f"{key} is a range from {value[0]} down to {value[1]}: swap the two")
        for key, section in (("specimen", self.specimen), ("validation_specimen", self.validation_specimen)):
            if self.data.crop_px > section.side_px:
                raise ValueError(f"data.crop_px {self.data.crop_px} exceeds {key}.side_px {section.side_px}")
            if section.sampling_angstrom_px[0] <= 0 or section.diameter_angstrom[0] <= 0:
                raise ValueError(f"{key}: sampling and diameter must be positive")
        if self.imaging.dose_e_angstrom2[0] <= 0:
            raise ValueError("imaging.dose_e_angstrom2 must be positive")
        return self

    def followed_on(self, device: Literal["cpu", "cuda"]) -> Recipe:
        """The recipe as it is followed on a device: without the section [gpu], which is taken in or left out."""
        given = self.gpu.model_dump(exclude_none=True) if device == "cuda" else {}
        batch = {key: given.pop(key) for key in ("batch",) if key in given}
        data, train = self.data.model_copy(update=batch), self.train.model_copy(update=given)
        return self.model_copy(update={"data": data, "train": train, "gpu": GpuSettings()})


class RecipeError(ValueError):
    """A recipe that cannot be followed."""


def load_recipe(path: Path | str) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    RecipeError
        If the file is not TOML, or has an unknown key or an impossible value; the message names it.
    """
    path = Path(path)
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(
            f"{path} cannot be followed: {'; '.join(_explain(item) for item in error.errors())}"
        ) from error


def recipe_named(name: str) -> Path:
    """The shipped recipe that gives engines this name.

    Raises
    ------
    RecipeError
        If none or several do.
    """
    paths = [path for path in sorted(RECIPES.glob("*.toml")) if load_recipe(path).name == name]
    if len(paths) != 1:
        raise RecipeError(
            f"which recipe {name!r} is cannot be told: expected one of that name in {RECIPES}, got "
            f"{', '.join(path.name for path in paths) or 'none'}; give --recipe"
        )
    return paths[0]


def _explain(item) -> str:
    key = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return f"{key + ': ' if key else ''}{item['msg']}, got {item['input']!r:.60}"
    section = Recipe
    for part in item["loc"][:-1]:
        section = section.model_fields[part].annotation
    near = get_close_matches(str(item["loc"][-1]), section.model_fields, n=1, cutoff=0.0)
    return f"unknown key {key!r}, the nearest known is {near[0]!r}; correct or remove it"
