"""site.toml: every setting of a site, with its unit in its name, validated and frozen.

`deploy/site.toml` is the annotated example: it holds every setting with its default (a test keeps the two
in step). Unknown keys are errors that name the nearest known one.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stream.device import DEVICES
from stream.frame import CalibrationError, SeriesHeader


class SettingsError(Exception):
    """A setting that is unknown, missing or impossible; the message names the file and the key."""


_SAME = 0.01  # relative: what differs by less is taken for the same calibration
PixelSize = Annotated[float, Field(gt=0, le=10)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Camera(_Section):
    """The detector's stream, and what the stream does not say about itself."""

    endpoint: str = "tcp://127.0.0.1:31001"
    pattern: Literal["pull", "sub"] = "pull"
    dialect: Literal["auto", "dectris-v2", "array-1.0"] = "auto"
    buffer_mib: int = Field(default=512, ge=16)
    idle_s: float = Field(default=10.0, gt=0)
    pixel_size_nm: PixelSize | Literal["stream", "auto"] | None = None
    spacing_px: float | None = Field(default=None, gt=0)
    frame_period_s: float | None = Field(default=None, gt=0)
    dose_rate_e_nm2_s: float | None = Field(default=None, gt=0)


class Ring(_Section):
    """Shared memory between acquire and analyse."""

    size_mib: int = Field(default=256, ge=1)


class Record(_Section):
    """Where every frame goes."""

    enabled: bool = True
    directory: Path = Path("recordings")
    min_free_mib: int = Field(default=1024, ge=0)


class EngineSettings(_Section):
    """The network that finds the columns."""

    name: str = "au-on-oxide-hrtem"
    device: str = Field(default="auto", pattern=f"^({DEVICES})$")
    backend: Literal["auto", "openvino", "onnxruntime", "tensorrt", "torch", "onnxruntime-cuda"] = "auto"
    precision: Literal["auto", "fp32", "fp16", "bf16", "fp8", "int8"] = "auto"
    latency_ms: float = Field(default=50.0, gt=0)
    threads: int = Field(default=0, ge=0)
    threshold: float | None = Field(default=None, gt=0, lt=1)


class Tracking(_Section):
    """How columns become sites, occupancy and events."""

    lag_frames: int = Field(default=10, ge=1, le=100)
    checkpoint_s: float = Field(default=1.0, gt=0)


class Page(_Section):
    """The operator's web page."""

    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    max_fps: float = Field(default=30.0, gt=0, le=120)


class Settings(_Section):
    """All of site.toml."""

    camera: Camera = Camera()
    ring: Ring = Ring()
    record: Record = Record()
    engine: EngineSettings = EngineSettings()
    tracking: Tracking = Tracking()
    page: Page = Page()

    def to_toml(self) -> str:
        """The settings in force, as TOML; a copy goes into every recording."""
        lines: list[str] = []
        for section, values in self.model_dump(mode="json").items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
            lines.append("")
        return "\n".join(lines)


def load_settings(path: Path | None) -> Settings:
    """Read a site.toml (None: the defaults).

    Raises
    ------
    SettingsError
        If the file is missing, is not TOML, or holds a key or value that cannot be.
    """
    if path is None:
        return Settings()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"no settings file: expected {path}, found nothing there; copy deploy/site.toml and edit it"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}; mend that line") from None
    return parse_settings(raw, str(path))


def parse_settings(raw: dict[str, Any], where: str) -> Settings:
    """Validate settings read from `where`; raises SettingsError naming every fault at once."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        faults = [_explain(list(e["loc"]), e["type"], e["msg"], e.get("input")) for e in error.errors()]
        raise SettingsError(f"{where}: " + "; ".join(faults)) from None


def calibrated(header: SeriesHeader, camera: Camera) -> SeriesHeader:
    """The header with what the stream did not say filled in from site.toml.

    Raises
    ------
    CalibrationError
        If pixel size or frame period are known from neither.
    """
    site_nm = None if isinstance(camera.pixel_size_nm, str) else camera.pixel_size_nm
    pixel_size_nm = site_nm or header.pixel_size_nm
    period_s = header.frame_period_s or camera.frame_period_s
    for name, value in (("pixel_size_nm", pixel_size_nm), ("frame_period_s", period_s)):
        if value is None:
            raise CalibrationError(
                f"series {header.series_id} cannot be analysed: expected camera.{name} in site.toml or "
                f"{name} in the stream, got neither; set it under [camera] in site.toml"
            )
    dose = header.dose_rate_e_nm2_s or camera.dose_rate_e_nm2_s
    return replace(header, pixel_size_nm=pixel_size_nm, frame_period_s=period_s, dose_rate_e_nm2_s=dose)


def contradictions(header: SeriesHeader, camera: Camera) -> list[str]:
    """Where the stream and the settings both say how large, how fast or how bright, and differ by more than 1 %: a
    sentence each, with what is gone by."""
    told = []
    for name in ("pixel_size_nm", "frame_period_s", "dose_rate_e_nm2_s"):
        announced, here = getattr(header, name), getattr(camera, name)
        if announced is None or here is None or isinstance(here, str):
            continue
        if abs(here - announced) > _SAME * announced:
            chosen = "the settings" if name == "pixel_size_nm" else f"series {header.series_id}"
            told.append(
                f"{name} is {announced:.4g} as series {header.series_id} says, and {here:.4g} by camera.{name} in the "
                f"settings: going by {chosen}; correct whichever is wrong"
            )
    return told


def same_series(a: SeriesHeader, b: SeriesHeader) -> bool:
    """Whether two headers are of one series, calibrated alike: positions, times or doses are wrong under another."""
    same = (a.series_id, a.shape_yx) == (b.series_id, b.shape_yx)
    return same and np.array_equal(calibration(a), calibration(b), equal_nan=True)


def calibration(header: SeriesHeader) -> np.ndarray:
    """(4,) f8, pixel size, period, exposure and dose rate in the header's units, NaN where it does not know."""
    known = header.pixel_size_nm, header.frame_period_s, header.exposure_s, header.dose_rate_e_nm2_s
    return np.array([np.nan if value is None else value for value in known])


def _explain(loc: list[Any], kind: str, message: str, value: object) -> str:
    key = ".".join(str(part) for part in loc)
    if kind != "extra_forbidden":
        return f"{key} = {value!r} cannot be: {message}"
    known = _known_keys(str(loc[0])) if len(loc) > 1 else list(Settings.model_fields)
    near = difflib.get_close_matches(str(loc[-1]), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"unknown setting {key!r}; {hint}"


def _known_keys(section: str) -> list[str]:
    field = Settings.model_fields.get(section)
    if field is None:
        return []
    section_type = field.annotation
    if not (isinstance(section_type, type) and issubclass(section_type, BaseModel)):
        return []
    return list(section_type.model_fields)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
