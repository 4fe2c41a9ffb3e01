"""Running a network: OpenVINO or ONNX Runtime, behind the same three lines, and only after a check.

Opening an engine proves three things: the file is the one the manifest speaks of (SHA-256), the backend takes it,
and it still gives the golden output that was written when the engine was exported.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from zipfile import BadZipFile

import numpy as np

from engines.manifest import EngineMismatch, Manifest

Backend = Literal["openvino", "onnxruntime"]
Run = Callable[[np.ndarray], np.ndarray]

MODELS = Path(__file__).parent / "models"
BACKENDS: tuple[Backend, ...] = ("openvino", "onnxruntime")  # in the order in which "auto" tries them
SHAPES_KEPT = 4  # compiled networks, one per input shape; an instrument uses one or two

log = logging.getLogger("hopscope.engine")


class Engine:
    """An opened network; a context manager. One thread at a time may use it.

    Attributes
    ----------
    manifest : what the network needs and was trained for.
    backend : what runs it.
    """

    def __init__(self, manifest: Manifest, backend: Backend, run: Run) -> None:
        self.manifest = manifest
        self.backend = backend
        self._run: Run | None = run

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
        if self._run is None:
            raise ValueError(f"engine {self.manifest.name} is closed: open it again with open_engine")
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
        return self._run(np.require(batch, requirements=("C", "W")))  # lent, so it must be writable

    def close(self) -> None:
        """Free the network; `run` refuses from now on."""
        self._run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def list_engines() -> list[str]:
    """Names of the engines that come with hopscope, sorted."""
    return sorted(path.stem for path in MODELS.glob("*.toml"))


def open_engine(
    name_or_path: str | Path, backend: Literal["auto"] | Backend = "auto", threads: int = 0
) -> Engine:
    """Open an engine by its name, or by the path of its ONNX file or manifest.

    Parameters
    ----------
    name_or_path : one of `list_engines()`, or a path; manifest and golden output lie beside the ONNX file.
    backend : "openvino" or "onnxruntime" and no other; "auto" takes the first of them that reproduces the golden
        output, and logs which, and why not the one before.
    threads : of the CPU; 0 leaves it to the backend, which takes all cores.

    Raises
    ------
    EngineMismatch
        If there is no such engine, its files do not belong together, or no allowed backend reproduces the
        golden output.
    ValueError
        If backend or threads are not among the possible.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"unknown backend: expected auto, {' or '.join(BACKENDS)}, got {backend!r}")
    if threads < 0:
        raise ValueError(f"impossible number of threads: expected 0 (all cores) or more, got {threads}")
    path = _manifest_path(name_or_path)
    manifest = Manifest.load(path)
    network = _network(path.with_name(manifest.onnx), manifest)
    golden = _golden(path.with_name(manifest.golden), manifest)

    def by(candidate: Backend) -> Engine:
        engine = Engine(manifest, candidate, _OPENERS[candidate](network, threads))
        _prove(engine, *golden)
        log.info("engine %s (%s) by %s", manifest.name, manifest.precision, candidate)
        return engine

    if backend != "auto":
        return by(backend)
    for candidate in BACKENDS[:-1]:
        try:
            return by(candidate)
        except EngineMismatch as reason:
            log.warning("engine %s not by %s: %s", manifest.name, candidate, reason)
    return by(BACKENDS[-1])


def _openvino(network: bytes, threads: int) -> Run:
    """One compiled network per input shape: static shapes run faster than dynamic ones."""
    try:
        import openvino
    except ImportError as error:
        raise _missing("openvino", error) from error
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bf16 wherever the processor has it
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # pinned, every process of this machine would want the same core
    }
    core = openvino.Core()
    try:
        model = core.read_model(network, b"")
    except RuntimeError as error:
        raise _refused("openvino", error) from error
    requests: dict[tuple[int, ...], openvino.InferRequest] = {}

    def run(batch: np.ndarray) -> np.ndarray:
        request = requests.get(batch.shape)
        if request is None:
            try:
                model.reshape(list(batch.shape))
                request = core.compile_model(model, "CPU", settings).create_infer_request()
            except RuntimeError as error:
                raise _refused("openvino", error) from error
            if len(requests) == SHAPES_KEPT:
                del requests[next(iter(requests))]
            requests[batch.shape] = request
        request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
        request.infer()
        return request.get_output_tensor().data

    return run


def _onnxruntime(network: bytes, threads: int) -> Run:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors  # pyright: ignore
    except ImportError as error:
        raise _missing("onnxruntime", error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: its warnings are about the graph, for who exports it
    try:
        session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.NotImplemented) as error:
        raise _refused("onnxruntime", error) from error
    name = session.get_inputs()[0].name

    def run(batch: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: batch})[0])

    return run


_OPENERS: dict[Backend, Callable[[bytes, int], Run]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}


def _missing(backend: str, error: ImportError) -> EngineMismatch:
    return EngineMismatch(
        f"backend {backend} does not import: {error}; install it (pip install {backend}), or choose "
        'backend = "auto"'
    )


def _refused(backend: str, error: Exception) -> EngineMismatch:
    return EngineMismatch(
        f"backend {backend} does not take the network: {error}; update {backend}, or choose another backend"
    )


def _manifest_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".onnx", ".toml"):
        path = path.with_suffix(".toml")
    elif path.name == str(name_or_path):
        path = MODELS / f"{name_or_path}.toml"
    if path.suffix != ".toml" or not path.is_file():
        raise EngineMismatch(
            f"no such engine: expected one of {', '.join(list_engines()) or '(none is installed)'}, or the path of "
            f"an .onnx file with its manifest (.toml) beside it, got {name_or_path}; "
            f"{path} is not there"
        )
    return path


def _network(path: Path, manifest: Manifest) -> bytes:
    """The ONNX file, after its checksum."""
    if not path.is_file():
        raise EngineMismatch(
            f"engine {manifest.name} is incomplete: its manifest names {path}, which is not there; "
            "restore the file, or install hopscope again"
        )
    network = path.read_bytes()
    got = hashlib.sha256(network).hexdigest()
    if got != manifest.sha256:
        raise EngineMismatch(
            f"engine {manifest.name} is not the one its manifest describes: expected SHA-256 {manifest.sha256} of "
            f"{path}, got {got}; restore the file, or export the engine again"
        )
    return network


def _golden(path: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """The golden input and output."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["input"], arrays["output"]
    except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
        raise EngineMismatch(
            f"engine {manifest.name} cannot be checked: expected arrays `input` and `output` in {path}, got: {error}; "
            "restore the file, or export the engine again"
        ) from error


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
    if not difference <= manifest.golden_tolerance:
        raise EngineMismatch(
            f"engine {manifest.name} by {engine.backend} computes something else: expected its golden output to "
            f"{manifest.golden_tolerance}, got a difference of {difference:.3g}; choose another backend, or update it"
        )
