"""Running a network, on the CPU or on a GPU, behind the same three lines, and only after a check.

Opening an engine proves three things: the file is the one the manifest speaks of (SHA-256), the backend takes it,
and it still gives the golden output that was written when the engine was exported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from engines.build import MOST_FRAMES, build_plan, check_card, find_gpu, load_library, plans_folder, read_plan
from engines.compile import Profile
from engines.cpu import OPENERS, Run
from engines.files import read_engine, read_golden
from engines.gpu import (
    Bound,
    Kept,
    Network,
    OnnxRuntimeNetwork,
    TensorRtNetwork,
    import_cupy,
    largest_batch,
)  # fmt: skip
from engines.manifest import EngineMismatch, Manifest
from engines.precision import Precision, in_precision, possible_precision, tolerance

Backend = Literal["openvino", "onnxruntime", "tensorrt", "torch", "onnxruntime-cuda"]
Bind = Callable[[tuple[int, ...]], Bound]

BACKENDS: tuple[Backend, ...] = (
    "openvino",
    "onnxruntime",
)  # of the CPU, in the order in which "auto" tries them
GPU_BACKENDS: tuple[Backend, ...] = ("tensorrt", "torch", "onnxruntime-cuda")  # and of a GPU

log = logging.getLogger("hopscope.engine")


class Engine:
    """An opened network; a context manager. One thread at a time may use it.

    Attributes
    ----------
    manifest : what the network needs and was trained for.
    backend : what runs it.
    precision : of the arithmetic.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        run: Run,
        bind: Bind | None = None,
        precision: Precision | None = None,
        profiles: Sequence[Profile] = (),
    ) -> None:
        self.manifest = manifest
        self.backend = backend
        self.precision: Precision = precision or manifest.precision
        self._run: Run | None = run
        self._bind = bind
        self._profiles = profiles

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Probability maps of a batch of normalized images.

        Parameters
        ----------
        batch : (b, c, ny, nx) f4, C-ordered; both sides multiples of `manifest.multiple_of`.

        Returns
        -------
        (b, k, ny / stride, nx / stride) f4 in channel order of `manifest.classes`; valid until the next call.

        Raises
        ------
        ValueError
            If the batch is not as described, or the engine is closed.
        """
        run = self._opened()
        channels, step = self.manifest.input_channels, self.manifest.multiple_of
        if (
            batch.dtype != np.float32
            or batch.ndim != 4
            or batch.shape[1] != channels
            or batch.size == 0
            or batch.shape[2] % step
            or batch.shape[3] % step
        ):
            raise ValueError(
                f"engine {self.manifest.name} cannot take this batch: expected f4 (b, {channels}, ny, nx) with sides "
                f"that are multiples of {step}, got {batch.dtype} {batch.shape}; pad or crop it"
            )
        return run(np.require(batch, requirements=("C", "W")))  # lent, so it must be writable

    def bind(self, shape: tuple[int, int, int, int]) -> Bound:
        """Make ready for batches of one shape (b, c, ny, nx): arrays to write and read, and what starts a run.

        On a GPU the arrays are the card's and a run only enqueued; on the CPU they are numpy's.

        Raises
        ------
        ValueError
            If the engine is closed, or the shape is no batch for it.
        EngineMismatch
            If the backend cannot take the shape.
        """
        run = self._opened()
        if self._bind is not None:
            step = self.manifest.multiple_of
            if (
                shape[1] != self.manifest.input_channels
                or shape[2] % step
                or shape[3] % step
                or min(shape) < 1
            ):
                raise ValueError(f"engine {self.manifest.name} cannot take batches of shape {shape}")
            return self._bind(shape)
        inputs = np.zeros(shape, np.float32)
        outputs = self.run(inputs).copy()

        def enqueue() -> None:
            outputs[...] = run(inputs)

        return Bound(inputs, outputs, enqueue)

    def largest_batch(self, shape_yx: tuple[int, int]) -> int:
        """How many images of a shape it takes at once: what its plan was built for, else `MOST_FRAMES`; 0 if none."""
        if not self._profiles:
            return MOST_FRAMES
        return largest_batch(self._profiles, (self.manifest.input_channels, *shape_yx))

    def _opened(self) -> Run:
        if self._run is None:
            raise ValueError(f"engine {self.manifest.name} is closed: open it again with open_engine")
        return self._run

    def close(self) -> None:
        """Free the network; `run` and `bind` refuse from now on."""
        self._run = self._bind = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    name_or_path: str | Path,
    backend: Literal["auto"] | Backend = "auto",
    threads: int = 0,
    device: int | None = None,
    precision: Precision | None = None,
) -> Engine:
    """Open an engine by its name, or by the path of its ONNX file or manifest.

    Parameters
    ----------
    name_or_path : one of `list_engines()`, or a path; manifest and golden output lie beside the ONNX file.
    backend : that and no other; "auto" takes the first of the device's that reproduces the golden output, and
        logs which, and why not the ones before. A GPU's engine never goes to the CPU by itself.
    threads : of the CPU; 0 leaves it to the backend, which takes all cores.
    device : number of the GPU; None for the CPU.
    precision : on a GPU; None for the usual of those that the engine's file allows.

    Raises
    ------
    EngineMismatch
        If there is no such engine, its files do not belong together, or no allowed backend reproduces the
        golden output.
    ValueError
        If backend, threads or precision are not among the possible.
    """
    allowed = BACKENDS if device is None else GPU_BACKENDS
    if backend not in ("auto", *BACKENDS, *GPU_BACKENDS):
        raise ValueError(
            f"unknown backend: expected auto, {', '.join((*BACKENDS, *GPU_BACKENDS))}, got {backend!r}"
        )
    if backend not in ("auto", *allowed):
        where = "the CPU" if device is None else f"GPU {device}"
        raise EngineMismatch(f"backend {backend} does not run on {where}: expected {' or '.join(allowed)}")
    if threads < 0:
        raise ValueError(f"impossible number of threads: expected 0 (all cores) or more, got {threads}")
    manifest, network, path = read_engine(name_or_path)
    if device is None and precision not in (None, manifest.precision):
        raise ValueError(
            f"on the CPU an engine runs as its file is, in {manifest.precision}; choose another engine"
        )
    golden = read_golden(path, manifest)

    def by(candidate: Backend) -> Engine:
        if device is None:
            engine = Engine(manifest, candidate, OPENERS[candidate](network, threads))
            _prove(engine, *golden)
        else:
            try:
                engine = _on_gpu(manifest, network, path, golden[0], candidate, device, precision)
                _prove(engine, *golden)
            except (
                RuntimeError,
                MemoryError,
            ) as error:  # CUDA's own, which every library hands on as it likes
                raise EngineMismatch(
                    f"{candidate} fails on GPU {device}: {type(error).__name__}: {error}; look at nvidia-smi and "
                    "hopscope doctor, or choose another backend"
                ) from error
        log.info("engine %s (%s) by %s", manifest.name, engine.precision, candidate)
        return engine

    if backend != "auto":
        return by(backend)
    refusals = []
    for candidate in allowed[:-1]:
        try:
            return by(candidate)
        except EngineMismatch as reason:
            log.warning("engine %s not by %s: %s", manifest.name, candidate, reason)
            refusals.append(f"{candidate}: {reason}")
    try:
        return by(allowed[-1])
    except EngineMismatch as reason:
        if device is None:
            raise
        raise EngineMismatch(
            f"engine {manifest.name} does not run on GPU {device}: {'; '.join(refusals)}; {allowed[-1]}: {reason}"
        ) from reason


def _on_gpu(
    manifest: Manifest,
    network: bytes,
    path: Path,
    example: np.ndarray,
    backend: Backend,
    device: int,
    wanted: Precision | None,
) -> Engine:
    """Open one GPU backend; TensorRT builds its plan if there is none that fits."""
    precision = possible_precision(manifest, wanted)
    if backend == "tensorrt":
        _, trt = load_library()
        import_cupy(device)  # before anything of TensorRT asks for a driver
        check_card(trt, find_gpu(device))
        plan, _ = build_plan(
            manifest, network, plans_folder(path), example=example, precision=precision, device=device
        )
        opened: Network = TensorRtNetwork(trt, read_plan(plan), device)
    elif backend == "torch":
        from engines.torch_graph import TorchNetwork

        opened = TorchNetwork(network, precision, device)
    else:
        if precision in ("bf16", "fp8"):
            raise EngineMismatch(f"onnxruntime has no {precision} convolutions; choose fp16")
        opened = OnnxRuntimeNetwork(in_precision(network, manifest, precision), device)
    kept = Kept(opened)
    return Engine(manifest, backend, kept.run, kept.bind, precision, opened.profiles)


def _prove(engine: Engine, batch: np.ndarray, expected: np.ndarray) -> None:
    """Run the golden input and compare."""
    manifest = engine.manifest
    try:
        got = engine.run(batch)
    except ValueError as error:
        raise EngineMismatch(f"golden input of engine {manifest.name} is not an input: {error}") from error
    b, _, ny, nx = batch.shape
    shape = (b, len(manifest.classes), ny // manifest.stride, nx // manifest.stride)
    if got.shape != shape or expected.shape != shape:
        raise EngineMismatch(
            f"engine {manifest.name} by {engine.backend} is not what its manifest says: expected maps {shape}, got "
            f"{got.shape}, golden output {expected.shape}; export the engine again"
        )
    difference = float(np.abs(got - expected).max())
    if not difference <= (allowed := tolerance(manifest, engine.precision)):
        raise EngineMismatch(
            f"engine {manifest.name} by {engine.backend} computes something else: expected its golden output to "
            f"{allowed}, got a difference of {difference:.3g}; choose another backend, or update it"
        )
