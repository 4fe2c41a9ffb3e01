"""hopscope bench --device: every stage on a card beside what the card can do, measured in the same run."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from scipy.spatial import KDTree

from engines.files import read_engine
from engines.gpu import is_full
from engines.manifest import EngineMismatch, Manifest
from engines.precision import POSSIBLE, Precision
from engines.runtime import Backend, Engine, open_engine
from engines.work import Layer, layers, least_ms
from stream.codecs import Encoding, encode
from stream.columns import Columns
from stream.find import inputs_at_once
from stream.gpu.finder import DeviceFinder, Payload
from stream.infer import ColumnFinder, Sampling
from stream.phantom import Phantom

Row = dict[str, Any]
SIDES_PX = (512, 1024, 2048, 4096)
REPEATS = 30
FINER = 0.6  # pixels of a camera, of an engine's, for the stage that resamples
TILE_PX = 512  # of the phantom, repeated over larger frames
AGREE_F1, AGREE_PX = 0.998, 0.05  # with the CPU, to be the same columns; of the distances the 99th percentile
MOST_CPU_FLOP = 1e12  # per frame: above, the CPU would take minutes to be compared with
LIBRARIES = ("hopscope", "tensorrt", "tensorrt-rtx", "torch", "onnxruntime-gpu", "onnxruntime", "numpy")


def bench_device(
    device: Any,
    index: int | None,
    engine_names: Sequence[str],
    sides_px: Sequence[int] = SIDES_PX,
    seconds: float = 3.0,
    endurance_frames: int = 10_000,
    backend: Literal["auto"] | Backend = "auto",
) -> Iterator[Row]:
    """Rows of measurements, as they are made.

    Parameters
    ----------
    device : of `stream.device`.
    index : its number, for the engines; None runs them on the CPU (for tests).
    engine_names : engines to measure, each in every precision its file allows.
    sides_px : of the frames.
    seconds : of each end-to-end measurement.
    endurance_frames : of the last one, which looks at memory; 0 for none.
    backend : that runs the engines; as `open_engine` takes it.

    Raises
    ------
    EngineMismatch
        If there is no such engine, or one reads stacks: frames come one by one here.
    """
    for name in engine_names:
        read_engine(name)[0].require_single_images()
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    yield {
        "what": "machine",
        "date": began,
        "host": platform.processor() or platform.machine(),
        **device.facts(),
        **_versions(),
    }
    ceilings = measure_ceilings(device)
    yield {"what": "ceilings", **ceilings}
    endured = endurance_frames < 1
    for name in engine_names:
        manifest, network, _ = read_engine(name)
        for precision in POSSIBLE[manifest.precision]:
            try:
                engine = open_engine(
                    name, backend, device=index, precision=None if index is None else precision
                )
            except EngineMismatch as reason:
                yield {"what": "refused", "engine": name, "precision": precision, "why": str(reason)}
                continue
            with engine:
                for side_px in sides_px:
                    try:
                        yield from _bench_side(
                            device, engine, network, name, precision, side_px, ceilings, seconds
                        )
                    except (EngineMismatch, MemoryError, RuntimeError) as reason:
                        if not (isinstance(reason, EngineMismatch) or is_full(reason)):
                            raise
                        about = {"engine": name, "precision": precision, "side_px": side_px}
                        yield {"what": "refused", **about, "why": str(reason)}
                if not endured:
                    endured = True
                    yield _endurance(device, engine, sides_px[0], endurance_frames)


def measure_ceilings(device: Any, mib: int = 1024, side: int = 8192) -> Row:
    """What the card can do at best: copy (bytes read and written), products in fp16 and fp32, upload, and the bus."""
    copy_ms, host = _copy_ms(device, mib << 20), np.zeros(min(mib, 64) << 20, np.uint8)
    room = device.empty(len(host), "u1")
    device.upload(host, room)
    upload_ms = _wall_ms(device, lambda: device.upload(host, room))
    device.bring(room)()
    bus_ms = min(
        upload_ms, _wall_ms(device, lambda: device.bring(room)())
    )  # the way back needs no copy on the host
    found: Row = {
        "copy_gb_per_s": _figure(2 * (mib << 20) / copy_ms / 1e6),
        "upload_gb_per_s": _figure(host.nbytes / upload_ms / 1e6),
        "bus_gb_per_s": _figure(host.nbytes / bus_ms / 1e6),
    }
    for kind, dtype in (("fp16", "f2"), ("fp32", "f4")):
        rng = np.random.default_rng(0)  # zeros would flatter: they cost less power
        x = device.put(rng.normal(size=(side, side)).astype(dtype))
        y, out = device.put(rng.normal(size=(side, side)).astype(dtype)), device.empty((side, side), dtype)
        ms = _timed(device, lambda x=x, y=y, out=out: device.matmul(x, y, out), 10)
        found[f"matmul_{kind}_tflop_per_s"] = _figure(2 * side**3 / ms / 1e9)
    return found


def _copy_ms(device: Any, size: int) -> float:
    a, b = device.zeros(size, "u1"), device.empty(size, "u1")
    return _timed(device, lambda: device.copy(a, b))


def bench_payload(side_px: int, index: int = 0) -> tuple[np.ndarray, Payload]:
    """A phantom frame of that side (tiled beyond 512 px), and what a camera would send of it."""
    tile = Phantom(seed=5, shape_px=min(side_px, TILE_PX), frames=index + 1).render(index)
    times = -(-side_px // tile.shape[0])
    counts = np.ascontiguousarray(np.tile(tile, (times, times))[:side_px, :side_px])
    return counts, (encode(counts, "bslz4"), Encoding(counts.shape, counts.dtype, "bslz4"))


def _bench_side(
    device: Any, engine: Engine, network: bytes, name: str, precision: Precision, side_px: int, ceilings: Row,
    seconds: float,
) -> Iterator[Row]:  # fmt: skip
    manifest = engine.manifest
    about: Row = {
        "engine": name, "precision": precision, "backend": engine.backend, "side_px": side_px
    }  # fmt: skip
    counts, payload = bench_payload(side_px)
    padded_yx = Sampling(engine, counts.shape, manifest.nominal_nm_px).padded_yx
    most = inputs_at_once(engine, counts.shape, padded_yx)  # as a session does it
    finder = DeviceFinder(engine, device, counts.shape, counts.dtype, manifest.nominal_nm_px, most=most)
    for batch in sorted({1, most}):
        work = layers(network, (batch, 1, *finder.padded_yx))
        yield from _stages(device, finder, payload, batch, work, manifest, ceilings, about)
    finer_nm = FINER * manifest.nominal_nm_px
    resampled = DeviceFinder(engine, device, counts.shape, counts.dtype, finer_nm, most=most)
    work = layers(network, (most, 1, *resampled.padded_yx))
    for row in _stages(device, resampled, payload, most, work, manifest, ceilings, about):
        if row["stage"] == "resample" and row["what"] == "stage":
            yield row | {"pixel_size_nm": _figure(finer_nm)}
    del resampled
    for label, sent in (("bslz4", payload), ("plain", _plain(counts))):
        yield {**about, "what": "end to end", "payload": label, **_through(finder, sent, most, seconds)}
    del finder  # its memory goes to the next
    finder = DeviceFinder(
        engine, device, counts.shape, counts.dtype, manifest.nominal_nm_px, most=most, pictures=True
    )
    followed = _through(finder, payload, most, seconds)
    yield {**about, "what": "end to end", "payload": "bslz4, picture back", **followed}
    if sum(layer.flop for layer in layers(network, (1, 1, *finder.padded_yx))) <= MOST_CPU_FLOP:
        yield {
            **about,
            "what": "agreement with the CPU",
            **_agreement(finder, counts, payload, name, manifest),
        }


def _plain(counts: np.ndarray) -> Payload:
    return counts.tobytes(), Encoding(counts.shape, counts.dtype, "none")


def _stages(
    device: Any, finder: DeviceFinder, payload: Payload, batch: int, work: list[Layer], manifest: Manifest,
    ceilings: Row, about: Row,
) -> Iterator[Row]:  # fmt: skip
    """Each stage's time on the card, and its share of the roofline: the least it could take by the card's ceilings."""
    times: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        marks = [("", device.mark())]
        for stage, step in finder.steps([payload] * batch):
            step()
            marks.append((stage, device.mark()))
        finder.fetch()
        for (_, begun), (stage, ended) in pairwise(marks):
            times.setdefault(stage, []).append(device.elapsed_ms(begun, ended))
    pixels, padded = batch * int(np.prod(payload[1].shape_yx)), batch * int(np.prod(finder.padded_yx))
    maps = padded // manifest.stride**2
    least_bytes = {
        # read compressed, write and read counts, write f4
        "upload and decode": batch * len(payload[0]) + pixels * (2 * payload[1].dtype.itemsize + 4),
        "resample": 4 * (pixels + padded),
        "normalize": 4 * (2 * pixels + 3 * padded),  # read twice, write, scale in place
        "columns": 4 * maps * 4,  # the background read, two marks per pixel written, labels read
    }
    rows: list[Row] = []
    for stage, taken in times.items():
        ms = statistics.median(taken[3:])
        row: Row = {**about, "what": "stage", "stage": stage, "batch": batch, "ms": _figure(ms)}
        if stage == "network":
            row["tflop_per_s"] = _figure(sum(layer.flop for layer in work) / ms / 1e9)
            peak = ceilings.get(f"matmul_{about['precision']}_tflop_per_s")
            least = peak and least_ms(work, about["precision"], peak, ceilings["copy_gb_per_s"])
        else:
            row["gb_per_s"] = _figure(least_bytes[stage] / ms / 1e6)
            least = least_bytes[stage] / ceilings["copy_gb_per_s"] / 1e6
            if stage == "upload and decode":  # what is compressed comes over the bus before
                least += batch * len(payload[0]) / ceilings["bus_gb_per_s"] / 1e6
        if least is not None:  # products of bf16, fp8 and int8 are not measured, and not guessed
            row |= {"least_ms": _figure(least), "of_roofline": _figure(least / ms)}
        rows.append(row)
    yield from rows
    yield {**max(rows, key=lambda row: row["ms"]), "what": "slowest stage"}


def _through(finder: DeviceFinder, payload: Payload, most: int, seconds: float) -> Row:
    """Payloads to columns, both in host memory: throughput, and how late a frame is, with two batches under way;
    and the latency of one frame by itself."""
    finder.start([payload] * most)
    frames, loaded = 0, []
    began = started = time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds or frames == 0:
        before, started = started, time.perf_counter()
        finder.start([payload] * most)
        frames += len(finder.fetch())
        loaded.append((time.perf_counter() - before) * 1e3)
    finder.fetch()
    finder.start([payload])
    finder.fetch()  # made ready for one frame, whatever came between
    latencies = []
    for _ in range(max(20, min(1000, int(seconds * frames / max(taken, 1e-9) / most / 4)))):
        at = time.perf_counter()
        finder.start([payload])
        finder.fetch()
        latencies.append((time.perf_counter() - at) * 1e3)
    fps = frames / taken
    return {
        "batch": most,
        "frames_per_s": round(fps, 1),
        "counts_gb_per_s": round(fps * payload[1].frame_bytes / 1e9, 3),
        "latency_p50_ms": _percentile(latencies, 50),
        "latency_p99_ms": _percentile(latencies, 99),
        "loaded_p50_ms": _percentile(loaded, 50),
        "loaded_p99_ms": _percentile(loaded, 99),
    }


def _agreement(
    finder: DeviceFinder, counts: np.ndarray, payload: Payload, name: str, manifest: Manifest
) -> Row:
    """The card's columns beside those of the same engine on the CPU."""
    finder.start([payload])
    (got,) = finder.fetch()
    with open_engine(name) as engine:
        wanted, _ = ColumnFinder(engine, counts.shape, manifest.nominal_nm_px).find(counts)
    if got is None:
        raise EngineMismatch("the card could not decode its own benchmark frame")
    found = compare(got.columns, wanted, manifest.min_distance_nm / manifest.nominal_nm_px)
    return found | {"agrees": found["f1"] >= AGREE_F1 and found.get("apart_p99_px", 0.0) <= AGREE_PX}


def compare(got: Columns, wanted: Columns, within_px: float) -> Row:
    """F1 of one set of columns against the other, and how far partners lie apart, in pixels."""
    found: Row = {"columns": len(got), "columns_cpu": len(wanted), "f1": float(len(got) == len(wanted))}
    if len(got) and len(wanted):
        apart, partner = KDTree(wanted.yx_px).query(got.yx_px, distance_upper_bound=within_px)
        _, back = KDTree(got.yx_px).query(wanted.yx_px, distance_upper_bound=within_px)
        paired = np.isfinite(apart) & (
            np.append(back, -1)[partner] == np.arange(len(got))
        )  # each other's nearest
        found["f1"] = round(2 * int(paired.sum()) / (len(got) + len(wanted)), 5)
        if paired.any():
            found["apart_p99_px"] = round(float(np.percentile(apart[paired], 99)), 4)
            found["apart_max_px"] = round(float(apart[paired].max()), 4)
    return found


def _endurance(device: Any, engine: Engine, side_px: int, frames: int) -> Row:
    """Memory on the card after a tenth of the frames, and after all."""
    counts, payload = bench_payload(side_px)
    finder = DeviceFinder(engine, device, counts.shape, counts.dtype, engine.manifest.nominal_nm_px)
    used = []
    for count in (frames // 10, frames - frames // 10):
        for _ in range(count):
            finder.start([payload])
            finder.fetch()
        used.append(round(device.used_bytes() / 2**20, 1))
    return {
        "what": "memory on the card, MiB",
        "side_px": side_px,
        "frames": frames,
        "early": used[0],
        "late": used[1],
    }


def _versions() -> Row:
    """Of what has a part in the figures, as far as it is installed."""
    found: Row = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _percentile(taken_ms: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(taken_ms, percent)), 3)


def _figure(value: float) -> float:
    """Four digits: more is noise, and fewer decimals would make a slow card's rates zero."""
    return float(f"{value:.4g}")


def _timed(device: Any, work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time on the card, ms, after three that do not count."""
    taken = []
    for _ in range(repeats + 3):
        begun = device.mark()
        work()
        taken.append(device.elapsed_ms(begun, device.mark()))
    return statistics.median(taken[3:])


def _wall_ms(device: Any, work: Callable[[], object], repeats: int = 10) -> float:
    """Median time on the host's clock until the card is done."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        mark = device.mark()
        work()
        device.elapsed_ms(mark, device.mark())
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)
