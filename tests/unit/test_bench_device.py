"""The card's benchmark, on a card that is the host: what it reports, never how fast."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from engines.files import read_engine
from engines.precision import POSSIBLE
from engines.work import Layer, layers, least_ms, operations
from stream.bench_device import bench_device, compare, measure_ceilings
from stream.bench_table import save, tables
from stream.cli import app
from stream.columns import Columns
from stream.device import DeviceError
from tests.helpers.host_device import HostDevice

NAME = "au-on-oxide-hrtem-fp32"


def test_every_row_it_promises_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "stream.bench_device.measure_ceilings", lambda device: measure_ceilings(device, 1, 64)
    )
    monkeypatch.setattr("engines.build.MOST_BATCHED_PX", 2 * 128**2)
    monkeypatch.setattr("stream.bench_device.REPEATS", 4)
    monkeypatch.setitem(POSSIBLE, "fp32", ("fp32", "bf16"))  # the host computes fp32 whatever is asked for
    rows = list(bench_device(HostDevice(), None, [NAME], [128], seconds=0.01, endurance_frames=2))
    stages = [(r["stage"], r["batch"], r["precision"]) for r in rows if r["what"] == "stage"]
    assert len(stages) == len(set(stages))
    resampled = [
        s for s in stages if s[0] == "resample"
    ]  # of a camera with finer pixels, in the largest batch
    assert len(resampled) == 2
    assert len(stages) - len(resampled) == 4 * 2 * 2  # four stages, batches of one and two, fp32 and bf16
    ends = [r for r in rows if r["what"] == "end to end"]
    assert {r["payload"] for r in ends} == {"bslz4", "plain", "bslz4, picture back"}
    assert all(r["frames_per_s"] > 0 and r["latency_p99_ms"] >= r["latency_p50_ms"] > 0 for r in ends)
    agreed = [r for r in rows if r["what"] == "agreement with the CPU"]
    assert all(r["f1"] == 1.0 and r["apart_max_px"] < 0.05 for r in agreed)
    assert all(r["agrees"] for r in agreed)
    assert all(r["loaded_p99_ms"] >= r["loaded_p50_ms"] > 0 for r in ends)
    for row in (r for r in rows if r["what"] == "stage"):
        if row["stage"] == "network" and row["precision"] == "bf16":
            assert not {"least_ms", "of_roofline"} & set(row), "no product of bf16 was measured"
            assert row["tflop_per_s"] > 0
        else:
            assert 0 < row["of_roofline"] == pytest.approx(row["least_ms"] / row["ms"], rel=1e-2)
    slowest = [r for r in rows if r["what"] == "slowest stage"]
    assert len(slowest) == 4
    for one in slowest:
        place = {k: one[k] for k in ("precision", "side_px", "batch")}
        others = [r["ms"] for r in rows if r["what"] == "stage" and place.items() <= r.items()]
        assert one["ms"] == max(others)
    assert rows[0]["numpy"] == np.__version__
    assert sum(r["what"] == "memory on the card, MiB" for r in rows) == 1
    path = save(rows, tmp_path)
    assert path.name == "bench-host.json"
    save(rows[:3], tmp_path)
    save(rows, tmp_path)  # as it grows
    another = [{**rows[0], "date": "2026-01-01T00:00:00+00:00"}]
    save(another, tmp_path)
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps([rows, another]))
    console = Console(width=200, file=io.StringIO())
    for table in tables(rows):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("bslz4, picture back") == 2
    assert text.count(" *") == len(slowest)
    for title in (
        "stage",
        "end to end",
        "agreement with the CPU",
        "ceilings",
        "machine",
        "memory on the card",
    ):
        assert title in text


def test_an_engine_that_does_not_fit_costs_its_own_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stream.bench_device.measure_ceilings", lambda device: measure_ceilings(device, 1, 64)
    )
    monkeypatch.setitem(POSSIBLE, "fp32", ("fp32",))

    def measured(*about: object) -> Iterator[dict[str, object]]:
        if about[5] == 4096:
            raise MemoryError("out of memory")
        yield {"what": "stage", "side_px": about[5]}

    monkeypatch.setattr("stream.bench_device._bench_side", measured)
    rows = list(bench_device(HostDevice(), None, [NAME], [512, 4096, 1024], endurance_frames=0))
    assert [(r["what"], r.get("side_px")) for r in rows[2:]] == [
        ("stage", 512), ("refused", 4096), ("stage", 1024)
    ]  # fmt: skip
    assert rows[3]["why"] == "out of memory"


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
    assert one / 64**2 * 512**2 == pytest.approx(6.06e9, rel=0.01)  # 1.8e9 of them in the refining blocks


def test_a_roofline_is_the_slower_of_computing_and_moving() -> None:
    work = [Layer(flop=2 * 10**12, values=10**6), Layer(flop=10**6, values=10**9)]
    assert least_ms(work, "fp16", 100.0, 1000.0) == pytest.approx(20 + 2)
    assert least_ms(work, "fp32", 100.0, 1000.0) == pytest.approx(20 + 4)
    assert least_ms(work, "int8", 200.0, 1000.0) == pytest.approx(10 + 1)
    tiny = (Path(__file__).parents[1] / "helpers" / "tiny.onnx").read_bytes()
    (only,) = layers(tiny, (3, 1, 16, 16))
    assert only == Layer(flop=3 * 2 * 2 * 64, values=3 * 64 + 2 + 3 * 2 * 64)


def test_without_a_card_the_command_says_so() -> None:
    from engines.build import find_gpu

    if find_gpu() is not None:
        pytest.skip("there is a GPU here")
    for wanted in ("cuda:0", "cpu"):
        result = CliRunner().invoke(app, ["bench", "--device", wanted])
        assert isinstance(result.exception, DeviceError)
