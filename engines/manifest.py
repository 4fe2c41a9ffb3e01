"""What a network needs, what it was trained for, and how to know that it is the one that was tested.

A manifest is a small TOML file beside each ONNX file, the same name with another ending. Nothing about a
network is assumed elsewhere: whoever runs it reads the sampling, stride and classes from here.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LEAST_SPACING_PX = 2.0  # nearer columns are above the camera's Nyquist frequency
LEAST_CONSTANT = 0.8  # of a zone axis's: materials that differ more need zone axes of their own
FileName = Annotated[str, Field(pattern=r"^[\w.+-]+$")]


class EngineMismatch(Exception):
    """An engine, its manifest, its file and the data it shall read do not fit together."""


class ZoneAxis(BaseModel):
    """A crystal seen along an axis: two sets of planes that span its diffraction pattern.

    Any net in the plane can be said so, a sheet's too: graphene has two sets of planes 0.2131 nm apart at 60°.

    Attributes
    ----------
    name : material and axis, for people.
    spacings_nm : between the planes of each set, in nm.
    angle_deg : between the two sets' normals (their reciprocal vectors).
    columns : whether its columns are what the engine finds; if not, it may lie beside them in a picture.
    constant_range : (smallest, largest) lattice constant of all materials that this net stands for, relative to the
        one of `spacings_nm`, where the engine was made for several: (0.94, 1.06). (1, 1) for one material.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    spacings_nm: tuple[PositiveFloat, PositiveFloat]
    angle_deg: Annotated[float, Field(gt=0, lt=180)]
    columns: bool = True
    constant_range: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        smallest, largest = self.constant_range
        if not LEAST_CONSTANT <= smallest <= 1 <= largest <= 1 / LEAST_CONSTANT:
            raise ValueError(
                f"constant_range ({smallest}, {largest}) must hold 1, and no constant may be less than "
                f"{LEAST_CONSTANT} of another: a ruler that stretches farther measures nothing"
            )
        return self


class Manifest(BaseModel):
    """The facts of one engine.

    Attributes
    ----------
    name : as given to `open_engine`; the manifest is `<name>.toml`.
    description : one line for people: material, microscope mode, what it is good for.
    onnx, golden : file names beside the manifest: the network, and an npz whose `input` (b, c, ny, nx) f4
        must give `output` (b, k, ny/stride, nx/stride) f4.
    golden_tolerance : largest difference of a probability from the golden output that is still the same
        network; kernels round differently from backend to backend, int8 the most.
    sha256 : of the ONNX file, 64 lower-case hexadecimal digits.
    classes : names of the output channels; channel 0 is the background.
    nominal_nm_px : pixel size at the specimen that the network was trained at, in nm.
    sampling_nm_px : (finest, coarsest) pixel size it reads equally well, in nm, as drawn in training.
    normalize_sigma_nm : width of the local normalization of its input, in nm.
    input_channels : images per input (more than one for a focal series).
    stride : input pixels per pixel of the output maps.
    multiple_of : the sides of the input must be multiples of this, in pixels.
    threshold : default score from which a maximum counts as a column.
    usual_sigma_px : width of a usual column's peak in the maps, in pixels of the input; scores are weighed by it
        (`stream.columns.weighed`). None: a score is the probability at the maximum.
    min_distance_nm : two columns nearer than this are one, in nm.
    precision : arithmetic written into the ONNX file.
    recipe, commit : training recipe, and the commit of this project it was trained with.
    begun_with : trainings whose weights it was begun with, the first of them first; empty for one from nothing.
    licence : of the weights.
    zone_axes : of the material, and of what lies beside it: the ruler where a picture has no pixel size. Empty for an
        engine that was not made for a material.
    nominal_spacing_px, spacing_px_range : for an engine that finds columns of any material: the distance between
        nearest columns, in pixels of its input, that it was trained for, and the (smallest, largest) it reads as well.
        Such an engine knows no nanometres: those of the other fields are meant for columns
        `nominal_spacing_px * nominal_nm_px` apart. None for an engine that is scaled by the pixel size.
    metrics : measured on data never seen in training, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: FileName
    description: str
    onnx: FileName
    golden: FileName
    golden_tolerance: PositiveFloat = 0.05
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    nominal_nm_px: PositiveFloat
    sampling_nm_px: tuple[PositiveFloat, PositiveFloat]
    normalize_sigma_nm: PositiveFloat
    input_channels: Annotated[int, Field(ge=1)] = 1
    stride: Annotated[int, Field(ge=1)]
    multiple_of: Annotated[int, Field(ge=1)]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    usual_sigma_px: PositiveFloat | None = None
    min_distance_nm: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    precision: Literal["fp32", "fp16", "int8"]
    recipe: str
    commit: str
    begun_with: tuple[str, ...] = ()
    licence: str
    zone_axes: tuple[ZoneAxis, ...] = ()
    nominal_spacing_px: PositiveFloat | None = None
    spacing_px_range: tuple[PositiveFloat, PositiveFloat] | None = None
    metrics: dict[str, float] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        finest, coarsest = self.sampling_nm_px
        if not finest <= self.nominal_nm_px <= coarsest:
            raise ValueError(
                f"nominal_nm_px {self.nominal_nm_px} lies outside sampling_nm_px ({finest}, {coarsest})"
            )
        if self.multiple_of % self.stride:
            raise ValueError(f"multiple_of {self.multiple_of} is not a multiple of stride {self.stride}")
        self._check_spacing()
        return self

    def _check_spacing(self) -> None:
        nominal, accepted = self.nominal_spacing_px, self.spacing_px_range
        if nominal is None and accepted is None:
            return
        if nominal is None or accepted is None:
            raise ValueError("nominal_spacing_px and spacing_px_range belong together: give both, or none")
        if not LEAST_SPACING_PX <= accepted[0] <= nominal <= accepted[1]:
            raise ValueError(
                f"nominal_spacing_px {nominal} lies outside spacing_px_range {accepted}, or columns nearer than "
                f"{LEAST_SPACING_PX:g} px are asked for, which no image can show"
            )
        if self.zone_axes:
            raise ValueError(
                "an engine is scaled by the spacing of columns (nominal_spacing_px) or by zone_axes, not by both"
            )

    @property
    def reads_nm_px(self) -> tuple[float, float]:
        """(finest, coarsest) pixel size that goes in as it is; where spacing scales an engine, by `own_nm_px`."""
        if self.spacing_px_range is None:
            return self.sampling_nm_px
        nearest, farthest = self.spacing_px_range
        return self.own_nm_px(farthest), self.own_nm_px(nearest)

    def own_nm_px(self, spacing_px: float) -> float:
        """The pixel size that gives columns spacing_px apart the distance in nm that the engine was made for.

        Raises
        ------
        EngineMismatch
            If the engine is not scaled by spacing.
        """
        if self.nominal_spacing_px is None:
            raise EngineMismatch(
                f"engine {self.name} is scaled by the pixel size: expected none but that, got a spacing of columns of "
                f"{spacing_px:g} px; leave it out"
            )
        return self.nominal_nm_px * self.nominal_spacing_px / spacing_px

    def require_single_images(self) -> None:
        """Raise EngineMismatch for an engine for stacks: who goes frame by frame cannot use one."""
        if self.input_channels != 1:
            raise EngineMismatch(
                f"engine {self.name} does not read single images: expected 1 input channel, got a stack of "
                f"{self.input_channels}; choose another engine, or give hopscope detect files of such stacks"
            )

    @classmethod
    def load(cls, path: Path | str) -> Manifest:
        """Read and check a manifest.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        EngineMismatch
            If it is not TOML, or a key is missing, unknown or has an impossible value.
        """
        path = Path(path)
        try:
            facts = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise EngineMismatch(
                f"manifest unreadable: {path} should be TOML in UTF-8, got: {error}; restore the file that "
                "came with the engine, or export the engine again"
            ) from error
        try:
            return cls.model_validate(facts)
        except ValidationError as error:
            raise EngineMismatch(
                f"manifest does not describe an engine: {path}: {_explain(error)}; restore the file that "
                "came with the engine, or export the engine again"
            ) from error

    def to_toml(self) -> str:
        """The manifest as TOML, which `load` reads back equal."""
        facts = self.model_dump()
        metrics = facts.pop("metrics")
        lines = [f"{key} = {_toml(value)}" for key, value in facts.items() if value is not None]
        if metrics:
            lines += ["", "[metrics]", *(f"{_toml(key)} = {_toml(value)}" for key, value in metrics.items())]
        return "\n".join(lines) + "\n"

    def save(self, path: Path | str) -> None:
        """Write the manifest to a file."""
        Path(path).write_text(self.to_toml(), encoding="utf-8")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)  # int and float: Python's shortest form is TOML's


def _explain(error: ValidationError) -> str:
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            fields = ZoneAxis.model_fields if item["loc"][0] == "zone_axes" else Manifest.model_fields
            near = get_close_matches(str(item["loc"][-1]), fields, n=1, cutoff=0.0)[0]
            problems.append(f"unknown key {key!r}, the nearest known is {near!r}")
        elif item["type"] == "missing":
            problems.append(f"key {key!r} is missing")
        else:
            problems.append(f"{key + ': ' if key else ''}{item['msg']}, got {item['input']!r:.80}")
    return "; ".join(problems)
