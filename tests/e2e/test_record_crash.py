"""A recording survives whatever ends it: kill -9 at any moment, a full disk, a file that may not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the filters
import numpy as np
import pytest

from stream.crashsafe import repair
from stream.nexus import read_ledger
from stream.record import Recorder
from tests.helpers.endless_recording import COUNTS, PROGRESS

ROOT = Path(__file__).resolve().parents[2]
WRITER = ROOT / "tests" / "helpers" / "endless_recording.py"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill -9, RLIMIT_FSIZE and mount are POSIX")


@contextmanager
def writer(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, WRITER, folder, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_after(folder: Path, seconds: float) -> tuple[list[tuple[int, int]], int]:
    """Kill a writer that long after its first frame: what it had put, and when it was killed."""
    with writer(folder) as process:
        assert process.stdout is not None
        progress = process.stdout.read(PROGRESS.size)
        assert len(progress) == PROGRESS.size, "the writer did not start"
        until = time.monotonic() + seconds
        os.set_blocking(process.stdout.fileno(), False)
        while time.monotonic() < until:
            progress += process.stdout.read() or b""
            time.sleep(min(0.01, max(0.0, until - time.monotonic())))
        killed_ns = time.monotonic_ns()
        process.kill()
        process.wait()
        os.set_blocking(process.stdout.fileno(), True)
        progress += process.stdout.read()
    whole = len(progress) // PROGRESS.size * PROGRESS.size
    return [put for put in PROGRESS.iter_unpack(progress[:whole])], killed_ns


def check_survivor(folder: Path, put: list[tuple[int, int]], killed_ns: int) -> None:
    (path,) = folder.glob("*.nxs")
    repair(path)  # needed after one kill in some ten thousand
    ledger = read_ledger(path)
    with h5py.File(path, "r") as file:
        frames = file["entry/data/frames"]
        recorded = ledger[ledger["row"] >= 0]
        assert recorded["row"].tolist() == list(range(len(recorded)))
        for row in recorded["row"]:
            assert np.array_equal(frames[row], COUNTS)  # pyright: ignore
        assert file["entry/end_time"][()] == b""  # pyright: ignore
    covered = int((ledger["index"] + ledger["count"]).max(initial=0))
    assert ledger["index"].tolist() == list(range(covered)), "every index, in order, once"
    lost = [at_ns for index, at_ns in put if index >= covered]
    assert not lost or killed_ns - min(lost) < 1_000_000_000, "more than the last second is lost"
    Recorder(folder).close()  # the dead hold no lock


@pytest.mark.parametrize("seconds", [0.02, 0.61, 0.97, 1.43])
def test_a_killed_recording_opens_and_has_all_but_the_last_second(tmp_path: Path, seconds: float) -> None:
    put, killed_ns = kill_after(tmp_path, seconds)
    check_survivor(tmp_path, put, killed_ns)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", np.random.default_rng(8).uniform(0, 3, 30).round(4).tolist())
def test_a_killed_recording_opens_whenever_it_was_killed(tmp_path: Path, seconds: float) -> None:
    put, killed_ns = kill_after(tmp_path, seconds)
    check_survivor(tmp_path, put, killed_ns)


def record_until_it_stops(folder: Path, *arguments: object) -> dict:
    with writer(folder, *arguments) as process:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()[-2000:]
    return json.loads(errors.decode().splitlines()[-1])


def check_stopped(said: dict, reason: str) -> None:
    assert reason in said["alarm"]
    assert said["put"] == said["frames"] + said["unrecorded"]
    assert said["unrecorded"] >= 11  # the frame that did not fit, and those that came later
    if said["path"] is None:
        assert said["frames"] == 0
        return
    with h5py.File(said["path"], "r") as file:
        frames = file["entry/data/frames"]
        assert len(frames) == said["frames"]  # pyright: ignore
        assert all(np.array_equal(image, COUNTS) for image in frames)  # pyright: ignore
        assert reason in file["entry/stopped"][()].decode()  # pyright: ignore
        ledger = file["entry/ledger"][:]  # pyright: ignore
    assert np.count_nonzero(ledger["row"] >= 0) == said["frames"]


@pytest.mark.parametrize("limit_bytes", [3_000, 70_000, 2_200_000, 3_333_333])
def test_a_file_that_may_not_grow_is_closed_whole(tmp_path: Path, limit_bytes: int) -> None:
    said = record_until_it_stops(tmp_path, limit_bytes)
    check_stopped(said, "File too large")
    assert (said["frames"] > 20) == (limit_bytes > 2_500_000)


def test_a_full_disk_leaves_a_whole_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"a small disk can be made by root only: {error}")
    try:
        said = record_until_it_stops(disk)
        check_stopped(said, "No space left on device")
        assert said["frames"] > 20
    finally:
        subprocess.run(["umount", str(disk)], check=True)
