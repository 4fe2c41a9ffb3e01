"""Recording against a plain file that takes the same bytes, in one run, on the same disk."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from stream.codecs import encode
from stream.frame import Encoding, Frame, SeriesEnd, SeriesHeader
from stream.record import Recorder

pytestmark = pytest.mark.bench

SHAPE = (512, 512)
DTYPE = np.dtype("<u2")
PUT_BYTES = 512 << 20


def payloads(algorithm):
    rng = np.random.default_rng(3)
    counts = [rng.poisson(12.4, SHAPE).astype(DTYPE) for _ in range(16)]
    return [memoryview(encode(image, algorithm)) for image in counts]


def record(directory: Path, ring: list[memoryview], count: int, algorithm) -> float:
    encoding = Encoding(SHAPE, DTYPE, algorithm)
    recorder = Recorder(directory, min_free_mib=16)
    recorder.put(SeriesHeader(1, SHAPE, DTYPE, frame_period_s=1e-3, pixel_size_nm=0.02))
    start = time.perf_counter()
    for i in range(count):
        recorder.put(Frame(1, i, i * 1_000_000, time.monotonic_ns(), ring[i % len(ring)], encoding))
    recorder.put(SeriesEnd(1))
    seconds = time.perf_counter() - start
    recorder.close()
    assert (recorder.frames, recorder.alarm) == (count, None)
    assert recorder.path is not None
    recorder.path.unlink()
    return seconds


def write_plain(directory: Path, ring: list[memoryview], count: int) -> float:
    path = directory / "plain"
    start = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for i in range(count):
            file.write(ring[i % len(ring)])
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


@pytest.mark.parametrize("algorithm", ["none", "bslz4"])
def test_recording_keeps_up_with_a_plain_file(tmp_path, algorithm, record_property):
    directory = Path(os.environ.get("HOPSCOPE_BENCH_DIR", tmp_path))
    ring = payloads(algorithm)
    count = PUT_BYTES // max(len(payload) for payload in ring)
    size = sum(len(ring[i % len(ring)]) for i in range(count))
    pairs = []
    for _ in range(5):
        plain = write_plain(directory, ring, count)
        pairs.append((plain, record(directory, ring, count, algorithm)))
    plain, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    decoded = count * SHAPE[0] * SHAPE[1] * DTYPE.itemsize
    print(
        f"\n{algorithm}: recording {size / ours / 1e9:.2f} GB/s of payload ({decoded / ours / 1e9:.2f} GB/s of "
        f"counts, {count / ours:.0f} frames/s), plain file {size / plain / 1e9:.2f} GB/s; "
        f"ratio {plain / ours:.2f}"
    )
    record_property("gb_per_s", size / ours / 1e9)
    record_property("ratio_to_plain_file", plain / ours)
    assert plain / ours > 0.4, "recording must run at nearly the speed of the disk"
