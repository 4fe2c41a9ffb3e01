"""A training recipe: one TOML file that says everything a network depends on."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.crystals import MONOLAYER_CLASSES, LatticeSettings
from training.exitwave import WaveSettings
from training.imaging import ImagingSettings
from training.kinds import KINDS, SpecimenSettings
from training.networks import NetworkName
from training.sheet import SheetSettings
from training.specimen import ParticleSettings
from training.stem import StemSettings

RECIPES = Path(__file__).parent / "recipes"
_SECTIONS = {**KINDS, "stem": StemSettings}  # those that a type annotation alone does not tell
_OF_WAVES = {"specimen", "validation_specimen", "waves", "imaging"}  # sections that STEM recipes do not read
_OF_STEM = {"lattice", "validation_lattice"}  # sections that the others do not read


class DataSettings(BaseModel):
    """How many specimens, and what becomes of them.

    Attributes
    ----------
    training, validation : number of specimens; their seeds never overlap.
    crop_px, batch : side and number of the images of a step.
    label_width_angstrom : w of the label maps.
    normalize_sigma_nm : width of the local normalization.
    usable_share : of the training steps, those whose images are all of |transfer| `imaging.usable_transfer` or more;
        the others, and the validation images, of `imaging.min_transfer` or more.
    judged_atoms : columns of fewer atoms neither count when found nor when missed.
    doses_e_angstrom2 : at which validation images are taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    training: int = Field(480, ge=1, le=100_000)
    validation: int = Field(60, ge=1)
    crop_px: int = Field(256, ge=64, multiple_of=16)
    batch: int = Field(4, ge=1)
    label_width_angstrom: float = Field(0.5, gt=0)
    normalize_sigma_nm: float = Field(1.0, gt=0)
    usable_share: float = Field(0.0, ge=0, le=1)
    judged_atoms: int = Field(2, ge=1)
    doses_e_angstrom2: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (1000.0, 310.0, 100.0, 30.0, 10.0), min_length=1
    )


class TrainSettings(BaseModel):
    """The descent: AdamW with a one-cycle rate, which rises over the first `warm_up` of the steps.

    Attributes
    ----------
    position_weight : of `losses.misplacement`, which is added to the loss.
    patience : validations in a row without a better F1, averaged over doses, after which to stop and take the best;
        0: never. Only those after the rate has come down to less than half its peak count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: NetworkName = "slim16_s2"
    loss: Literal["cross-entropy", "mean-squared"] = "cross-entropy"
    position_weight: float = Field(0.0, ge=0)
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
    """What is written into the manifest, besides what is measured.

    `nominal_spacing_px` is for an engine that is scaled by the spacing of columns, which it says in pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    nominal_nm_px: float = Field(0.02, gt=0)
    min_distance_nm: float = Field(0.1, gt=0)
    nominal_spacing_px: float | None = Field(None, gt=0)
    licence: str = "Apache-2.0"


class Recipe(BaseModel):
    """The whole recipe; `validation` overrides what a validation specimen is drawn from.

    With a section [stem], images are drawn of `lattice` (and `validation_lattice`); without it, exit waves are
    simulated of `specimen` and imaged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    engine: EngineSettings
    specimen: SpecimenSettings = ParticleSettings()
    validation_specimen: SpecimenSettings = ParticleSettings()
    waves: WaveSettings = WaveSettings()
    imaging: ImagingSettings = ImagingSettings()
    stem: StemSettings | None = None
    lattice: LatticeSettings = LatticeSettings()
    validation_lattice: LatticeSettings = LatticeSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    gpu: GpuSettings = GpuSettings()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of columns, without the background."""
        return MONOLAYER_CLASSES if self.stem is not None and self.lattice.true_scale else ("column",)

    @property
    def input_channels(self) -> int:
        """Images that the network is shown together: 1, or those of a stack, a focal series."""
        return len(self.imaging.focal_series_angstrom)

    @property
    def spacing_px_range(self) -> tuple[float, float] | None:
        """Of an engine that is scaled by the spacing of columns: those it reads."""
        return self.lattice.spacing_px if self.engine.nominal_spacing_px is not None else None

    @model_validator(mode="after")
    def _possible_stem(self) -> Self:
        if self.stem is not None:
            _check_stem(self.stem, self.lattice, self.validation_lattice)
            if self.input_channels > 1:
                raise ValueError(
                    "imaging.focal_series_angstrom means nothing to [stem]: expected one image at a time, got a stack "
                    f"of {self.input_channels}; remove one of the two"
                )
        free = self.stem is not None and not self.lattice.true_scale
        if free != (self.engine.nominal_spacing_px is not None):
            raise ValueError(
                "engine.nominal_spacing_px goes with a [lattice] without a true scale, and with no other: "
                f"{'add' if free else 'remove'} it"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Self:
        stem = () if self.stem is None else (self.stem, self.lattice, self.validation_lattice)
        for section in (self.specimen, self.validation_specimen, self.imaging, *stem):
            for key, value in section:
                numbers = isinstance(value, tuple) and all(isinstance(item, float) for item in value)
                if numbers and key != "focal_series_angstrom" and value[0] > value[1]:
                    raise ValueError(f"{key} is a range from {value[0]} down to {value[1]}: swap the two")
        for key, section in (("specimen", self.specimen), ("validation_specimen", self.validation_specimen)):
            if self.stem is None and self.data.crop_px > section.side_px:
                raise ValueError(f"data.crop_px {self.data.crop_px} exceeds {key}.side_px {section.side_px}")
            if section.sampling_angstrom_px[0] <= 0:
                raise ValueError(f"{key}: sampling_angstrom_px must be positive")
            if isinstance(section, ParticleSettings) and section.diameter_angstrom[0] <= 0:
                raise ValueError(f"{key}: diameter_angstrom must be positive")
            if isinstance(section, SheetSettings) and not 0 <= section.holes[0] <= section.holes[1]:
                raise ValueError(
                    f"{key}: holes are from {section.holes[0]} to {section.holes[1]}: 0 <= fewest <= most"
                )
        if self.specimen.kind != self.validation_specimen.kind:
            raise ValueError(
                f"specimen is a {self.specimen.kind}, validation_specimen a {self.validation_specimen.kind}: "
                "validation is on specimens of the kind that is trained on"
            )
        if self.imaging.dose_e_angstrom2[0] <= 0:
            raise ValueError("imaging.dose_e_angstrom2 must be positive")
        return self

    def followed_on(self, device: Literal["cpu", "cuda"]) -> Recipe:
        """The recipe as it is followed on a device: without the section [gpu], which is taken in or left out."""
        given = self.gpu.model_dump(exclude_none=True) if device == "cuda" else {}
        batch = {key: given.pop(key) for key in ("batch",) if key in given}
        data, train = self.data.model_copy(update=batch), self.train.model_copy(update=given)
        return self.model_copy(update={"data": data, "train": train, "gpu": GpuSettings()})


def _check_stem(stem: StemSettings, lattice: LatticeSettings, validation: LatticeSettings) -> None:
    """Raise ValueError for settings that cannot make an image, or that say two things."""
    positive = (
        "sampling_angstrom_px",
        "fwhm_spacings",
        "dose_e_angstrom2",
        "collected",
        "pixel_ratio",
        "label_px",
    )
    for key in positive:
        if getattr(stem, key)[0] <= 0:
            raise ValueError(f"stem.{key} must be positive")
    if lattice.spacing_px[0] < 4 or validation.spacing_px[0] < 4:
        raise ValueError("spacing_px must be 4 or more: nearer columns are one in the label maps")
    if lattice.true_scale != validation.true_scale:
        raise ValueError("lattice has a true scale and validation_lattice has none, or the reverse")


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
        written = tomllib.loads(path.read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(written)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(
            f"{path} cannot be followed: {'; '.join(_explain(item) for item in error.errors())}"
        ) from error
    unread = sorted((_OF_WAVES if recipe.stem else _OF_STEM) & written.keys())
    if unread:
        raise RecipeError(
            f"{path} cannot be followed: [{unread[0]}] means nothing {'beside' if recipe.stem else 'without'} [stem]; "
            f"{'remove one of the two' if recipe.stem else 'add it, or remove this'}"
        )
    return recipe


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
    path = [part for n, part in enumerate(item["loc"]) if n != 1 or part not in KINDS]  # [specimen] of a kind
    key = ".".join(map(str, path))
    if item["type"] != "extra_forbidden":
        return f"{key + ': ' if key else ''}{item['msg']}, got {item['input']!r:.60}"
    section = Recipe
    for part in item["loc"][:-1]:
        section = _SECTIONS.get(part) or section.model_fields[part].annotation
    near = get_close_matches(str(item["loc"][-1]), section.model_fields, n=1, cutoff=0.0)
    return f"unknown key {key!r}, the nearest known is {near[0]!r}; correct or remove it"
