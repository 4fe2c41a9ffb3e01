from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stream import doctor
from stream.config import Camera, EngineSettings, Page, Record, Ring, Settings
from stream.device import Choice, DeviceError
from stream.doctor import PACKAGES, Finding, check_calibration, examine, foreign_owners
from stream.frame import CalibrationError
from tests.helpers.tiny_engine import make_tiny_engine


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


def finding(settings: Settings, check: str) -> Finding:
    return next(f for f in examine(settings) if f.check == check)


def test_the_device_is_named_with_why_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = str(make_tiny_engine(tmp_path))
    monkeypatch.setitem(sys.modules, "cupy", None)
    on_cpu = finding(Settings(engine=EngineSettings(name=tiny)), "device")
    assert on_cpu.verdict == "ok"
    assert "the CPU, because CuPy does not import" in on_cpu.text
    assert "pip install 'hopscope[gpu]'" in on_cpu.text
    wanted = Settings(engine=EngineSettings(name=tiny, device="cuda:0"))
    for check in ("device", "engine"):
        assert finding(wanted, check).verdict == "fault"
        assert "cuda:0 cannot be used: CuPy does not import" in finding(wanted, check).text


def test_a_card_is_named_with_its_driver_and_what_runs_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "card": "NVIDIA H200", "capability": "9.0", "memory_gib": 139.8, "driver_cuda": 13010, "cupy": "14.0"
    }  # fmt: skip
    monkeypatch.setattr(doctor, "open_device", lambda wanted: Choice((0,), "a GPU can be used"))
    monkeypatch.setattr(doctor, "Device", lambda index: SimpleNamespace(facts=lambda: facts))
    there = {"tensorrt": object()}
    monkeypatch.setattr(importlib.util, "find_spec", there.get)
    monkeypatch.setattr(doctor, "_version", lambda name: "10.14")
    good = doctor._device(Settings())
    assert good.verdict == "ok"
    assert "cuda:0 NVIDIA H200 (sm_90, 139.8 GiB), driver for CUDA 13.1, CuPy 14.0" in good.text
    assert good.text.endswith("engines by tensorrt 10.14")
    there.clear()
    bare = doctor._device(Settings())
    assert bare.verdict == "warning"
    assert "tensorrt: pip install 'hopscope[gpu]'" in bare.text

    def broken(index: int) -> None:
        raise DeviceError("no libnvrtc")

    monkeypatch.setattr(doctor, "Device", broken)
    assert doctor._device(Settings()).verdict == "warning"  # live would take the CPU
    assert doctor._device(Settings(engine=EngineSettings(device="cuda:0"))).verdict == "fault"
