from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from stream.config import Settings, SettingsError, load_settings, parse_settings

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
