"""hopscope bench: what this machine does, as ratios from one run wherever a ratio will do."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engines.files import read_engine
from engines.manifest import EngineMismatch
from engines.runtime import Backend, open_engine
from stream.codecs import decode, encode
from stream.columns import find_columns, find_columns_watershed
from stream.demo import demo_settings, simulated_detector
from stream.frame import Encoding, Frame, SeriesEnd
from stream.infer import ColumnFinder
from stream.normalize import Normalizer, normalize_exact
from stream.phantom import Phantom
from stream.processes import Supervisor
from stream.record import Recorder
from stream.tracking import Tracker

Row = dict[str, Any]
REPEATS = 15


def median_ms(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time of one call, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - began)
    return statistics.median(times) / 1e6


def bench_stages(engine_name: str, side_px: int) -> Iterator[Row]:
    """Each stage on a phantom frame, beside the way it replaces."""
    phantom = Phantom(seed=5, shape_px=side_px, frames=64)
    counts = phantom.render(0)
    encoding = Encoding(counts.shape, counts.dtype, "bslz4")
    payload = memoryview(encode(counts, "bslz4"))
    room = memoryview(bytearray(counts.nbytes))
    yield _row("decode bslz4", side_px, median_ms(lambda: decode(payload, encoding, room)))

    with open_engine(engine_name) as engine:
        manifest = engine.manifest
        sigma_px = manifest.normalize_sigma_nm / manifest.nominal_nm_px
        fast = Normalizer(counts.shape, sigma_px)
        exact_ms = median_ms(lambda: normalize_exact(counts, sigma_px))
        yield _row("normalize", side_px, median_ms(lambda: fast(counts)), "exact DCT", exact_ms)

        batch = np.ascontiguousarray(fast(counts))[None, None]
        times = dict(_backend_times(engine_name, batch))
        yield _row(
            "network", side_px, times[engine.backend], *_other(times, engine.backend), backend=engine.backend
        )

        maps = engine.run(batch)[0].copy()
        watershed_ms = median_ms(lambda: find_columns_watershed(maps, manifest.stride), 5)
        columns_ms = median_ms(lambda: find_columns(maps, manifest.stride, manifest.threshold))
        yield _row("columns", side_px, columns_ms, "watershed", watershed_ms)

        finder = ColumnFinder(engine, counts.shape, manifest.nominal_nm_px)
        tracker = Tracker(counts.shape, manifest.nominal_nm_px, 1.0)
        found = [finder.find(phantom.render(i))[0] for i in range(40)]
        tracking_ms = []
        for i, columns in enumerate(found):
            began = time.perf_counter_ns()
            tracker.update(i, i * 10**9, columns.yx_px, columns.score)
            tracking_ms.append((time.perf_counter_ns() - began) / 1e6)
        yield _row("track", side_px, statistics.median(tracking_ms[10:]))
        yield _row("find columns, whole", side_px, median_ms(lambda: finder.find(counts)))


def bench_recording(frames: int = 2000, side_px: int = 512) -> Iterator[Row]:
    """Recording alone, payloads as received, beside writing the same bytes to a plain file."""
    counts = Phantom(seed=5, shape_px=side_px, frames=1).render(0)
    with tempfile.TemporaryDirectory(prefix="hopscope-bench-") as folder:
        for algorithm in ("none", "bslz4"):
            payload = memoryview(encode(counts, algorithm))
            encoding = Encoding(counts.shape, counts.dtype, algorithm)
            plain = Path(folder) / "plain"
            began = time.perf_counter()
            with plain.open("wb", buffering=0) as file:
                for _ in range(frames):
                    file.write(payload)
            plain_s = time.perf_counter() - began
            plain.unlink()

            out = Path(folder) / algorithm
            recorder = Recorder(out, min_free_mib=0)
            recorder.put(Phantom(seed=5, shape_px=side_px, frames=1).header)
            began = time.perf_counter()
            for index in range(frames):
                recorder.put(Frame(1, index, index, time.monotonic_ns(), payload, encoding))
            recorder.put(SeriesEnd(1))
            recorder.close()
            seconds = time.perf_counter() - began
            shutil.rmtree(out)
            gb = frames * len(payload) / 1e9
            yield {
                "what": f"recording, {algorithm}",
                "side_px": side_px,
                "gb_per_s": round(gb / seconds, 3),
                "counts_gb_per_s": round(frames * counts.nbytes / 1e9 / seconds, 3),
                "frames_per_s": round(frames / seconds, 1),
                "of_plain_file": round(plain_s / seconds, 3),
            }


def bench_live(engine_name: str, fps: float, seconds: float, side_px: int = 512) -> Row:
    """A whole session over a real socket: detector, acquire, analyse, serve."""
    with tempfile.TemporaryDirectory(prefix="hopscope-bench-", ignore_cleanup_errors=True) as folder:
        settings = demo_settings(Path(folder), engine=engine_name, port=0)
        detector = (simulated_detector, (settings.camera.endpoint, fps, side_px, 5, None))
        supervisor = Supervisor(settings, detector)
        try:
            supervisor.start()
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                supervisor.tick(0.1)
        finally:
            summary = supervisor.stop()
    keys = (
        "sent", "received", "recorded", "analysed", "skipped", "gaps", "unaccounted",
        "frames_per_s", "latency_ms", "rss_mib", "alarms",
    )  # fmt: skip
    return {"what": f"live at {fps:g} frames/s", "side_px": side_px, **{k: summary[k] for k in keys}}


def bench_memory(engine_name: str, frames: tuple[int, int] = (1_000, 10_000), fps: float = 100) -> Row:
    """Resident memory of each process after few and after many analysed frames, MiB."""
    held: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="hopscope-bench-", ignore_cleanup_errors=True) as folder:
        settings = demo_settings(Path(folder), engine=engine_name, port=0)
        detector = (simulated_detector, (settings.camera.endpoint, fps, 512, 5, None))
        supervisor = Supervisor(settings, detector)
        try:
            supervisor.start()
            for count in frames:
                while supervisor.session.counter("analysed") < count:
                    supervisor.tick(0.1)
                held[count] = supervisor.session.rss_mib()
        finally:
            summary = supervisor.stop()
    return {"what": "memory, MiB", "after_frames": held, "unaccounted": summary["unaccounted"]}


def bench(engine_name: str, seconds: float, sides_px: tuple[int, ...] = (512, 1024)) -> Iterator[Row]:
    """Everything, row by row as it is measured.

    Raises
    ------
    EngineMismatch
        If there is no such engine, or it reads stacks: frames come one by one here.
    """
    manifest, *_ = read_engine(engine_name)
    manifest.require_single_images()
    yield {"what": "machine", "cores": os.cpu_count(), "engine": engine_name}
    for side_px in sides_px:
        yield from bench_stages(engine_name, side_px)
    yield from bench_recording()
    if seconds:
        yield bench_live(engine_name, 30, seconds)
        yield bench_live(engine_name, 80, seconds)
        yield bench_memory(engine_name)


def _row(what: str, side_px: int, ms: float, beside: str = "", beside_ms: float = 0.0, **more: Any) -> Row:
    row: Row = {"what": what, "side_px": side_px, "ms": round(ms, 3), **more}
    if beside:
        row |= {"beside": beside, "beside_ms": round(beside_ms, 3), "ratio": round(beside_ms / ms, 2)}
    return row


def _backend_times(engine_name: str, batch: np.ndarray) -> Iterator[tuple[str, float]]:
    backends: tuple[Backend, ...] = ("openvino", "onnxruntime")
    for backend in backends:
        try:
            with open_engine(engine_name, backend) as engine:
                yield backend, median_ms(lambda: engine.run(batch))
        except EngineMismatch:
            continue  # not installed here: no row for it


def _other(times: dict[str, float], chosen: str) -> tuple[str, float]:
    return next(((name, ms) for name, ms in times.items() if name != chosen), ("", 0.0))
