"""Every command explains itself with an example, and refuses in one line what it cannot do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stream.cli import app

COMMANDS = [
    "demo", "live", "publish", "replay", "simulate", "detect", "export", "track", "rates", "compare", "doctor",
    "train", "evaluate", "bench", "calibrate mtf",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"Example: hopscope {command}" in " ".join(result.output.split())


def hopscope(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stream.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_an_image_without_a_pixel_size_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((64, 64), np.uint16))
    done = hopscope("detect", "a.npy", "--csv", "out.csv", folder=tmp_path)
    assert done.returncode == 3
    assert "--pixel-size-nm" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy"]


def test_an_engine_that_does_not_fit_names_both_samplings(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((64, 64), np.uint16))
    done = hopscope("detect", "a.npy", "--csv", "out.csv", "--pixel-size-nm", "0.3", folder=tmp_path)
    assert done.returncode == 3
    assert "0.3 nm/px" in done.stderr
    assert "0.018 to 0.022 nm/px" in done.stderr


def test_a_pixel_size_of_nothing_is_refused_although_the_file_says_one(tmp_path: Path) -> None:
    hopscope("simulate", "--out", "m.h5", "--frames", "1", "--shape", "256", folder=tmp_path)
    done = hopscope("detect", "m.h5", "--csv", "out.csv", "--pixel-size-nm", "0", folder=tmp_path)
    assert done.returncode == 3
    assert "above 0, got 0" in done.stderr


def test_simulate_replay_export_hang_together(tmp_path: Path) -> None:
    made = hopscope(
        "simulate", "--out", "m.h5", "--frames", "40", "--shape", "256", "--json", folder=tmp_path
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["frames"] == 40
    done = hopscope("replay", "m.h5", "--out", "r.h5", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["frames"] == summary["analysed"] == 40
    assert summary["gaps"] == {}
    exported = hopscope("export", "r.h5", "--csv", "t", "--png", "p", folder=tmp_path)
    assert exported.returncode == 0, exported.stderr
    shown = hopscope("export", "r.h5", "--movie", "m.webm", "--recording", "m.h5", "--json", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["written"] == ["m.webm"]
    assert (tmp_path / "m.webm").read_bytes()[:4] == b"\x1aE\xdf\xa3"
    alone = hopscope("export", "r.h5", "--movie", "m.webm", folder=tmp_path)
    assert alone.returncode == 2
    assert "--recording" in alone.stderr
    header = (tmp_path / "t" / "columns.csv").read_text().splitlines()[0]
    assert {"y", "x", "frame", "particle"} <= set(header.split(","))
    assert (tmp_path / "p" / "events.png").stat().st_size > 1000

    told = hopscope(
        "rates", "r.h5", "--by", "coordination", "--per", "e", "--csv", "k.csv",
        "--survival", "d.csv", "--json", folder=tmp_path,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout)
    assert {row["kind"] for row in report["rates"]} == {"event", "arrival", "departure", "hop"}
    assert report["dose_e_nm2"] == pytest.approx(40 * 31000, rel=1e-6)
    assert len((tmp_path / "k.csv").read_text().splitlines()) == len(report["rates"]) + 1
    curves = (tmp_path / "d.csv").read_text().splitlines()
    assert curves[0] == "state,time_s,survival,low,high,at_risk"
    assert len(curves) == len(report["survival"]) + 1
    halves = ("r.h5", "--first", "0:0.6", "--second", "0.6:")
    compared = hopscope("compare", *halves, "--json", folder=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert all(0 <= row["p_adjusted"] <= 1 for row in json.loads(compared.stdout)["rates"])
    overlap = hopscope("compare", "r.h5", "--first", "0:0.6", "--second", "0.5:", folder=tmp_path)
    assert overlap.returncode == 3
    assert "do not overlap" in overlap.stderr

    again = hopscope("replay", "m.h5", "--out", "r.h5", folder=tmp_path)
    assert again.returncode == 3
    assert "never overwritten" in again.stderr


def test_detect_writes_columns_in_pixels_of_the_image(tmp_path: Path) -> None:
    from stream.phantom import Phantom

    phantom = Phantom(seed=4, shape_px=256, frames=1)
    np.save(tmp_path / "a.npy", phantom.render(0))
    done = hopscope("detect", "a.npy", "--csv", "out.csv", "--pixel-size-nm", "0.02", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    table = np.genfromtxt(tmp_path / "out.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    found = np.column_stack([table["y"], table["x"]])
    truth = phantom.truth.columns(0)
    apart = np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1)).min(axis=0)
    assert (apart < 3).mean() > 0.9


def test_a_pixel_size_can_be_read_off_the_lattice(tmp_path: Path) -> None:
    from stream.phantom import Phantom

    phantom = Phantom(seed=4, shape_px=384, frames=2, pixel_size_nm=0.016)
    np.save(tmp_path / "a.npy", np.stack([phantom.render(0), phantom.render(1)]))
    done = hopscope(
        "detect", "a.npy", "--csv", "out.csv", "--pixel-size-nm", "auto", "--json", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    scale = json.loads(done.stdout)["scales"]["a.npy"]
    assert abs(scale["pixel_size_nm"] / 0.016 - 1) < 0.02
    assert 0 < scale["relative_error"] < 0.02
    assert f"{scale['pixel_size_nm']:.4g} nm/px" in " ".join(done.stderr.split())
    table = np.genfromtxt(tmp_path / "out.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert np.unique(table["pixel_size_nm"]) == pytest.approx(scale["pixel_size_nm"], rel=1e-5)

    np.save(tmp_path / "noise.npy", np.random.default_rng(0).poisson(9, (128, 128)).astype(np.uint16))
    refused = hopscope("detect", "noise.npy", "--csv", "no.csv", "--pixel-size-nm", "auto", folder=tmp_path)
    assert refused.returncode == 3
    assert "no peak above the noise" in refused.stderr
    assert not (tmp_path / "no.csv").exists()
    wrong = hopscope("detect", "a.npy", "--csv", "no.csv", "--pixel-size-nm", "two", folder=tmp_path)
    assert wrong.returncode == 2


def test_a_sender_that_cannot_bind_says_what_is_expected(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 64, 64), np.uint16))
    done = hopscope("publish", "a.npy", "--to", "tcp://nonsense", folder=tmp_path)
    assert done.returncode == 3
    assert "tcp://127.0.0.1:31001" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_evaluation_never_overwrites_another(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("abtem")
    (tmp_path / "report.json").write_text("{}")
    done = hopscope("evaluate", "au-on-oxide-hrtem", "--out", ".", folder=tmp_path)
    assert done.returncode == 3
    assert "never overwritten" in done.stderr
    assert (tmp_path / "report.json").read_text() == "{}"


def test_an_evaluation_without_the_training_extra_names_it(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    done = hopscope("evaluate", "au-on-oxide-hrtem", folder=tmp_path)
    assert done.returncode == 3
    assert "torch is missing" in done.stderr
    assert "hopscope[training]" in done.stderr
