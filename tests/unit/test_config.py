from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from stream.config import Camera, Settings, SettingsError, contradictions, load_settings, parse_settings
from stream.frame import SeriesHeader

EXAMPLE = Path(__file__).parents[2] / "deploy" / "site.toml"


def test_the_example_holds_every_setting_with_its_default() -> None:
    assert load_settings(EXAMPLE) == Settings()
    uncommented = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.M)
    raw = tomllib.loads(uncommented)
    assert {k: set(v) for k, v in raw.items()} == {k: set(v) for k, v in Settings().model_dump().items()}
    parse_settings(raw, "site.toml")


def test_an_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"camera\.pixel_size_mn.*did you mean 'pixel_size_nm'"):
        parse_settings({"camera": {"pixel_size_mn": 0.02}}, "site.toml")
    with pytest.raises(SettingsError, match=r"unknown setting 'recrod'; did you mean 'record'"):
        parse_settings({"recrod": {}}, "site.toml")


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"engine\.backend = 'abacus' cannot be.*page\.port = 99999"):
        parse_settings({"page": {"port": 99999}, "engine": {"backend": "abacus"}}, "site.toml")


def test_a_missing_file_says_what_to_copy(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"deploy/site\.toml"):
        load_settings(tmp_path / "none.toml")


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[camera]\nendpoint = tcp\n")
    with pytest.raises(SettingsError, match="line 2"):
        load_settings(tmp_path / "s.toml")


def test_settings_survive_their_own_toml() -> None:
    settings = parse_settings({"camera": {"pixel_size_nm": 0.0123}, "record": {"directory": 'a "b" c'}}, "x")
    assert parse_settings(tomllib.loads(settings.to_toml()), "x") == settings


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().page.port = 1  # type: ignore[misc]


def test_what_the_stream_and_the_settings_say_otherwise_is_told() -> None:
    header = SeriesHeader(3, (8, 8), np.dtype("u2"), 0.1, pixel_size_nm=0.02, dose_rate_e_nm2_s=500.0)
    assert contradictions(header, Camera()) == []
    assert contradictions(header, Camera(pixel_size_nm="stream", frame_period_s=0.1005)) == []
    assert contradictions(SeriesHeader(3, (8, 8), np.dtype("u2")), Camera(pixel_size_nm=0.03)) == []
    other = Camera(pixel_size_nm=0.0203, frame_period_s=0.2, dose_rate_e_nm2_s=550.0)
    size, period, dose = contradictions(header, other)
    assert "pixel_size_nm is 0.02 as series 3 says, and 0.0203 by camera.pixel_size_nm" in size
    assert "going by the settings" in size
    assert "frame_period_s is 0.1 as series 3 says, and 0.2" in period
    assert "going by series 3" in period
    assert "dose_rate_e_nm2_s is 500 as series 3 says, and 550" in dose
