from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from stream.config import Camera, Page, Record, Ring, Settings
from stream.doctor import PACKAGES, check_calibration, examine, foreign_owners
from stream.frame import CalibrationError


def verdicts(settings: Settings) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in examine(settings)}


def test_nobody_else_owns_our_import_names() -> None:
    assert foreign_owners() == {}


def test_a_foreign_owner_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {name: ["hopscope"] for name in PACKAGES} | {"stream": ["hopscope", "stream-python"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    assert foreign_owners() == {"stream": ["stream-python"]}
    finding = next(f for f in examine(Settings()) if f.check == "import names")
    assert finding.verdict == "fault"
    assert "stream-python" in finding.text


def test_a_site_in_order_has_no_fault(tmp_path: Path) -> None:
    settings = Settings(
        camera=Camera(pixel_size_nm=0.02),
        record=Record(directory=tmp_path, min_free_mib=1),
        page=Page(port=0),
    )
    assert "fault" not in verdicts(settings).values()


def test_each_fault_is_found(tmp_path: Path) -> None:
    settings = Settings(
        record=Record(directory=tmp_path, min_free_mib=10**9), ring=Ring(size_mib=10**9), page=Page(port=0)
    )
    found = verdicts(settings)
    assert found["pixel size"] == found["recording"] == found["shared memory"] == "fault"


def test_a_missing_pixel_size_says_what_to_set_and_where() -> None:
    with pytest.raises(CalibrationError, match=r"camera\.pixel_size_nm in site\.toml"):
        check_calibration(Settings())
    check_calibration(Settings(camera=Camera(pixel_size_nm="stream")))
