"""The card's benchmark, on a card that is the host: what it reports, never how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engines.precision import operations
from engines.runtime import read_engine
from stream.bench_device import bench_device, compare, measure_ceilings, save
from stream.cli import app
from stream.columns import Columns
from stream.device import DeviceError
from tests.helpers.host_device import HostDevice

NAME = "au-on-oxide-hrtem-fp32"


def test_every_row_it_promises_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "stream.bench_device.measure_ceilings", lambda device: measure_ceilings(device, 1, 64)
    )
    monkeypatch.setattr("stream.bench_device.BATCHED_PX", 2 * 128**2)
    monkeypatch.setattr("stream.bench_device.REPEATS", 4)
    rows = list(bench_device(HostDevice(), None, [NAME], [128], seconds=0.01, endurance_frames=10))
    stages = [(r["stage"], r["batch"], r["precision"]) for r in rows if r["what"] == "stage"]
    assert len(stages) == len(set(stages)) == 4 * 2 * 2  # four stages, batches of one and two, fp32 and fp16
    ends = [r for r in rows if r["what"] == "end to end"]
    assert {r["payload"] for r in ends} == {"bslz4", "plain", "bslz4, picture back"}
    assert all(r["frames_per_s"] > 0 and r["latency_p99_ms"] >= r["latency_p50_ms"] > 0 for r in ends)
    agreed = [r for r in rows if r["what"] == "agreement with the CPU"]
    assert all(r["f1"] == 1.0 and r["apart_max_px"] < 0.05 for r in agreed)
    assert all(r["of_ceiling"] > 0 for r in rows if r["what"] == "stage")
    assert sum(r["what"] == "memory on the card, MiB" for r in rows) == 1
    path = save(rows, tmp_path)
    assert path.name == "bench-host.json"
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(rows))


def test_columns_are_compared() -> None:
    def columns(yx: list[tuple[float, float]]) -> Columns:
        one = np.ones(len(yx), np.float32)
        return Columns(np.array(yx, np.float32).reshape(-1, 2), one, one, one.astype(np.uint8))

    truth = columns([(10, 10), (20, 20), (30, 30)])
    assert compare(truth, truth, 5)["f1"] == 1
    off = compare(columns([(10, 10.5), (20, 20), (40, 40)]), truth, 5)
    assert off["f1"] == pytest.approx(2 / 3, abs=1e-4)
    assert off["apart_max_px"] == pytest.approx(0.5)
    assert compare(columns([]), truth, 5)["f1"] == 0
    assert compare(columns([]), columns([]), 5)["f1"] == 1
    assert compare(columns([(10, 10), (10, 11)]), columns([(10, 10.4)]), 5)["f1"] == pytest.approx(
        2 / 3, abs=1e-4
    )


def test_the_work_of_a_network_is_counted() -> None:
    """3x3 convolutions of the tiny network by hand, and a shipped one in proportion."""
    tiny = (Path(__file__).parents[1] / "helpers" / "tiny.onnx").read_bytes()
    assert operations(tiny, (1, 1, 16, 16)) == 2 * 2 * 8 * 8
    _, network, _ = read_engine(NAME)
    one = operations(network, (1, 1, 64, 64))
    assert operations(network, (3, 1, 64, 128)) == 6 * one
    assert one / 64**2 * 512**2 == pytest.approx(3.9e9, rel=0.01)


def test_without_a_card_the_command_says_so() -> None:
    from engines.build import find_gpu

    if find_gpu() is not None:
        pytest.skip("there is a GPU here")
    for wanted in ("cuda:0", "cpu"):
        result = CliRunner().invoke(app, ["bench", "--device", wanted])
        assert isinstance(result.exception, DeviceError)
