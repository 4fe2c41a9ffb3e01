"""Whole sessions, through real sockets, processes and files, with real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers the filters the recordings use)
import numpy as np
import pytest
import zmq
from typer.testing import CliRunner

from engines.build import find_gpu
from stream.cli import app
from stream.config import Camera, EngineSettings, Page, Record, Settings
from stream.demo import demo_phantom, simulated_detector
from stream.device import DeviceError
from stream.files import open_recording
from stream.frame import Frame, Gap
from stream.phantom import Phantom
from stream.processes import Refused, Supervisor, free_port
from stream.wire import dectris_v2

PATIENCE_S = 90.0
SHAPE = 256


def settings_for(directory: Path, **record: object) -> Settings:
    return Settings(
        camera=Camera(endpoint=f"tcp://127.0.0.1:{free_port()}", pixel_size_nm="stream", idle_s=3),
        record=Record(directory=directory, min_free_mib=record.pop("min_free_mib", 64), **record),  # type: ignore[arg-type]
        page=Page(port=0),
    )


@contextmanager
def session(
    settings: Settings, *, fps: float = 60, frames: int | None = None, shape_px: int = SHAPE
) -> Iterator[Supervisor]:
    detector = (simulated_detector, (settings.camera.endpoint, fps, shape_px, 3, frames))
    supervisor = Supervisor(settings, detector)
    try:
        supervisor.start()
        yield supervisor
    finally:
        supervisor.stop()


def wait_until(supervisor: Supervisor, condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S} s for: {what}; {supervisor.status()}"
        supervisor.tick(0.05)


def count(supervisor: Supervisor, key: str) -> int:
    return int(supervisor.status()["counters"][key])


def recordings(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.nxs"))


def test_every_frame_sent_is_recorded_and_accounted_for(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with session(settings, fps=100, frames=150) as supervisor:
        wait_until(supervisor, lambda: supervisor.finished, "the detector to finish")
        analysis = supervisor.status()["analysis"]
        assert analysis["device"] == supervisor.analyse.arguments[0].engine.device, "and so after a restart"
        assert analysis["reason"]
        summary = supervisor.stop()
    assert summary["sent"] == summary["received"] == summary["recorded"] == 150
    assert summary["unaccounted"] == 0
    assert summary["analysed"] + sum(summary["gaps"].values()) == 150
    assert summary["columns"] > 20
    assert summary["alarms"] == []
    assert summary["latency_ms"]["p50"] > 0

    phantom = demo_phantom(seed=3, shape_px=SHAPE, frames=150, fps=100)
    (path,) = recordings(tmp_path)
    with open_recording(path) as recording:
        frames = [item for item in recording if isinstance(item, Frame)]
        assert [f.index for f in frames] == list(range(150))
        for frame in frames[::10]:
            assert np.array_equal(frame.counts, phantom.render(frame.index))


def test_a_killed_analysis_comes_back_within_three_seconds_and_costs_no_recording(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with session(settings, fps=60) as supervisor:
        wait_until(supervisor, lambda: count(supervisor, "analysed") > 100, "a hundred analysed frames")
        sites_before = count(supervisor, "sites")
        victim = supervisor.analyse.process
        assert victim is not None
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        before = count(supervisor, "analysed")
        wait_until(supervisor, lambda: supervisor.analyse.restarts == 1, "a restart")
        wait_until(supervisor, lambda: count(supervisor, "analysed") > before, "frames analysed again")
        away_s = time.monotonic() - killed_s
        assert any("analyse died" in a["text"] for a in supervisor.status()["alarms"])
        assert count(supervisor, "sites") >= 0.9 * sites_before  # the map was restored, not begun anew
        summary = supervisor.stop()
    assert summary["sent"] == summary["received"] == summary["recorded"]
    assert summary["gaps"]["restart"] > 0
    assert summary["unaccounted"] == 0
    print(f"analysis was away for {away_s:.2f} s")


def test_a_killed_acquire_leaves_a_whole_file_and_says_so(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with session(settings, fps=60) as supervisor:
        wait_until(supervisor, lambda: count(supervisor, "recorded") > 150, "frames on disk")
        victim = supervisor.acquire.process
        assert victim is not None
        assert victim.pid is not None
        recorded = count(supervisor, "recorded")
        os.kill(victim.pid, signal.SIGKILL)
        wait_until(supervisor, lambda: supervisor.acquire.restarts == 1, "a restart")
        (first,) = recordings(tmp_path)[:1]
        with h5py.File(first, "r") as file:  # plain h5py, no repair by hand
            rows = file["/entry/data/frames"].shape[0]
            assert rows >= recorded - 60  # the last second at most
            assert file["/entry/data/frames"][rows - 61].any()
        assert any("acquire died" in a["text"] for a in supervisor.status()["alarms"])
        again, seen = count(supervisor, "recorded"), count(supervisor, "analysed")
        wait_until(supervisor, lambda: count(supervisor, "recorded") > again + 30, "recording to go on")
        wait_until(supervisor, lambda: count(supervisor, "analysed") > seen + 30, "analysis to go on")
        summary = supervisor.stop()
    assert len(recordings(tmp_path)) == 2
    assert summary["unaccounted"] == 0
    assert any("acquire died" in text for text in summary["alarms"])


def test_a_full_disk_stops_the_recording_but_not_the_analysis(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, min_free_mib=10**9)
    with session(settings, fps=60) as supervisor:
        wait_until(supervisor, lambda: count(supervisor, "analysed") > 30, "analysis to go on")
        wait_until(supervisor, lambda: bool(supervisor.status()["alarms"]), "an alarm")
        summary = supervisor.stop()
    assert summary["unrecorded"] > 0
    assert summary["unaccounted"] == 0
    assert any("disk" in text or "free" in text for text in summary["alarms"])
    for path in recordings(tmp_path):
        h5py.File(path, "r").close()


def test_a_second_writer_on_the_same_output_is_refused(tmp_path: Path) -> None:
    with session(settings_for(tmp_path), fps=30) as first:
        wait_until(first, lambda: count(first, "recorded") > 5, "the first to record")
        with pytest.raises(Refused, match="record"), session(settings_for(tmp_path), fps=30):
            pass
        received = count(first, "received")
        wait_until(first, lambda: count(first, "received") > received + 10, "the first to go on")
        assert first.stop()["alarms"] == []


def test_where_the_engine_cannot_run_the_camera_is_not_called(tmp_path: Path) -> None:
    if find_gpu() is not None:
        pytest.skip("there is a GPU here")
    settings = settings_for(tmp_path)
    settings = settings.model_copy(update={"engine": EngineSettings(device="cuda:0")})
    supervisor = Supervisor(settings)
    try:
        with pytest.raises(Refused, match=r"cuda:0 cannot be used: CuPy.*or choose device cpu"):
            supervisor.start()
        assert not supervisor.acquire.ready
    finally:
        supervisor.stop()
    toml = tmp_path / "site.toml"
    toml.write_text('[camera]\npixel_size_nm = 0.02\n[engine]\ndevice = "cuda:0"\n', encoding="utf-8")
    result = CliRunner().invoke(app, ["live", "--config", str(toml)])
    assert isinstance(result.exception, DeviceError)
    assert "starting" not in result.output


def test_rubbish_on_the_wire_is_counted_and_the_stream_goes_on(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    phantom = Phantom(seed=3, shape_px=SHAPE, frames=40)
    supervisor = Supervisor(settings, None)
    done = threading.Event()

    def send() -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as push:
            push.bind(settings.camera.endpoint)
            push.send(dectris_v2.encode_start(phantom.header))
            for item in phantom:
                if not isinstance(item, Frame):
                    continue
                good = dectris_v2.encode_image(
                    item.series_id, item.index, item.t_ns, item.encoding, item.payload
                )
                push.send(good[: len(good) // 2])  # truncated
                push.send(b"GET / HTTP/1.0\r\n\r\n")  # a network scanner
                push.send(b"\xd9\xd9\xf7" + b"\xff" * 64)
                push.send(good)
            push.send(dectris_v2.encode_end(phantom.header.series_id))
            done.wait(PATIENCE_S)

    sender = threading.Thread(target=send)
    try:
        supervisor.start()
        sender.start()
        wait_until(supervisor, lambda: count(supervisor, "received") == 40, "all good frames")
    finally:
        summary = supervisor.stop()
        done.set()
        sender.join()
    assert summary["received"] == summary["recorded"] == 40
    assert sum(summary["faults"].values()) >= 120
    assert summary["unaccounted"] == 0


def test_ctrl_c_ends_in_good_order_with_a_summary(tmp_path: Path) -> None:
    options = ["--shape", "256", "--port", "0", "--json", "--keep", str(tmp_path)]
    command = [sys.executable, "-m", "stream.cli", "demo", *options]
    demo = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert demo.stderr is not None
    for line in demo.stderr:
        if "the page is at" in line:
            break
    deadline_s = time.monotonic() + PATIENCE_S
    while not recordings(tmp_path) and time.monotonic() < deadline_s:
        time.sleep(0.05)  # no event to wait for: another program's file appears
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 0, err
    summary = json.loads(out)
    assert summary["sent"] == summary["received"] == summary["recorded"]
    assert summary["unaccounted"] == 0
    (path,) = recordings(tmp_path)
    with open_recording(path) as recording:
        assert not [item for item in recording if isinstance(item, Gap)]


def test_live_without_a_pixel_size_is_refused_with_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("[page]\nport = 0\n")
    for command in ("live", "doctor"):
        done = subprocess.run(
            [sys.executable, "-m", "stream.cli", command, "--config", str(tmp_path / "site.toml")],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 3
        assert "camera.pixel_size_nm" in done.stderr + done.stdout
