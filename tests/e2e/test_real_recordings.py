"""Real recordings through the whole live path: published as a camera would, received, recorded, analysed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stream.files import open_recording
from stream.frame import Frame, Gap
from stream.processes import free_port
from tests.helpers.data import data_path

RECORDINGS = [
    pytest.param(("si_walk_movie.h5",), 0.02, 30, id="si_walk"),
    pytest.param(("au_particles_750C_movie.tif",), 0.02, 60, id="au_particles", marks=pytest.mark.slow),
    pytest.param(
        ("graphene_hrtem", "graphene_731px_0.01196nm.tif"), 0.01196, 10, id="graphene", marks=pytest.mark.slow
    ),
    pytest.param(("wse2_ti", "1028_ADF1_2.dm4"), 0.0399, 10, id="wse2"),
]
HOPSCOPE = [sys.executable, "-m", "stream.cli"]


@pytest.mark.data
@pytest.mark.parametrize(("parts", "pixel_size_nm", "fps"), RECORDINGS)
def test_a_real_recording_is_received_recorded_and_analysed(
    parts: tuple[str, ...], pixel_size_nm: float, fps: int, tmp_path: Path
) -> None:
    source = data_path(*parts)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    site = tmp_path / "site.toml"
    site.write_text(
        f'[camera]\nendpoint = "{endpoint}"\npixel_size_nm = {pixel_size_nm}\nframe_period_s = {1 / fps}\n'
        f'[record]\ndirectory = "{(tmp_path / "out").as_posix()}"\nmin_free_mib = 16\n[page]\nport = 0\n'
    )
    live = subprocess.Popen(
        [*HOPSCOPE, "live", "--config", str(site), "--headless", "--json", "--idle-exit"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        sent = subprocess.run(
            [*HOPSCOPE, "publish", str(source), "--to", endpoint, "--fps", str(fps), "--json"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        out, err = live.communicate(timeout=120)
    finally:
        live.kill()
    assert live.returncode == 0, err
    summary = json.loads(out)
    frames = json.loads(sent.stdout)["frames"]
    assert summary["received"] == summary["recorded"] == frames
    assert summary["unaccounted"] == 0
    assert summary["analysed"] > 0

    (recorded,) = (tmp_path / "out").glob("*.nxs")
    with open_recording(source) as before, open_recording(recorded) as after:
        assert len(before) == len(after) == frames
        begin = before.indices[0]  # frames of the series from before the file began are a gap on the wire
        assert _gaps(before) == [gap for gap in _gaps(after) if gap[0] > begin]
        for one, other in zip(_frames(before), _frames(after), strict=True):
            assert one.index == other.index
            assert np.array_equal(one.counts, other.counts)


def _gaps(recording: object) -> list[tuple[int, int]]:
    return [(item.first, item.count) for item in recording if isinstance(item, Gap)]  # type: ignore[attr-defined]


def _frames(recording: object) -> list[Frame]:
    return [item for item in recording if isinstance(item, Frame)]  # type: ignore[attr-defined]
