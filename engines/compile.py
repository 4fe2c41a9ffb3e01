"""A network handed to TensorRT: parsed, given its profiles, built; what the library says on the way is kept."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engines.manifest import EngineMismatch

INPUT, OUTPUT = "input", "probabilities"
SAY_S = 3.0  # between two messages of progress

log = logging.getLogger("hopscope.engine")
Say = Callable[[str], None]
Profile = tuple[tuple[int, ...], ...]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """TensorRT calls our logger while it holds a lock of its own; were an old builder collected then, it would wait
    for that lock for ever."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_garbage_collection()
def compile_plan(
    trt: Any,
    network: bytes,
    profiles: Sequence[Profile],
    *,
    name: str,
    cache: bytes | None,
    turing: bool,
    say: Say,
) -> tuple[bytes, bytes]:
    """A plan for an ONNX file.

    Parameters
    ----------
    trt : the library's module, `tensorrt` or `tensorrt_rtx`.
    profiles : least, usual and largest input (b, c, ny, nx) of each.
    name : of the engine, for what is said.
    cache : timings of earlier builds; None to keep none.
    turing : build for that generation of cards, which tensorrt-rtx leaves out by itself.

    Returns
    -------
    The plan and the timings.

    Raises
    ------
    EngineMismatch
        If the network cannot be read or built: the layer is named.
    """
    library = f"{trt.__name__} {trt.__version__}"
    heard: list[str] = []
    logger = _logger(trt, heard)
    builder = started(trt, trt.Builder, logger)
    # always strongly typed from version 11 on, where this flag is on its way out
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    definition = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(definition, logger)
    parsed = parser.parse(network)
    if not parsed or definition.num_outputs == 0:
        raise EngineMismatch(
            f"{library} cannot read engine {name}: "
            f"{_parser_errors(parser) or 'the file holds no network'}; export the engine again, or choose another "
            "backend"
        )
    names = [definition.get_input(0).name, definition.get_output(0).name]
    if names != [INPUT, OUTPUT]:
        raise EngineMismatch(
            f"engine {name} is none of ours: expected input and output named {INPUT} and {OUTPUT}, got "
            f"{names}; export it with hopscope train"
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # ten bits are not what fp32 promises
    # tensorrt-rtx: a run allocates nothing by itself then, and so can be recorded as a CUDA graph whatever its shape
    if (ours := getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)) is not None:
        config.set_flag(ours)
    for least, usual, largest in profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, least, usual, largest)
        config.add_optimization_profile(profile)
    config.progress_monitor = monitor = _monitor(trt, say)
    if turing:
        config.num_compute_capabilities = 1  # by default only Ampere and later are built for
        config.set_compute_capability(trt.ComputeCapability.SM75, 0)
    if cache is not None:
        config.set_timing_cache(config.create_timing_cache(cache), ignore_mismatch=False)
    plan = builder.build_serialized_network(definition, config)
    del monitor
    if plan is None:
        raise EngineMismatch(
            f"{library} cannot build engine {name}: "
            f"{'; '.join(heard[-3:]) or 'it does not say why'}; update it, or choose another backend"
        )
    timings = b"" if cache is None else bytes(config.get_timing_cache().serialize())
    return bytes(plan), timings


def started(trt: Any, kind: Callable[[Any], Any], logger: Any) -> Any:
    """One of the library's own objects, which it does not make where its driver is missing or too old."""
    try:
        return kind(logger)
    except TypeError as error:  # pybind11's word for a constructor that gave nothing
        raise EngineMismatch(
            f"{trt.__name__} {trt.__version__} does not start here: {error}; most likely the NVIDIA driver is too old "
            "for it: look at nvidia-smi and update the driver, or choose another backend"
        ) from error


def _parser_errors(parser: Any) -> str:
    found = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        layer = error.node_name() or f"number {error.node()}"
        found.append(f"layer {layer} ({error.node_operator()}): {error.desc()}")
    return "; ".join(found)


def _logger(trt: Any, heard: list[str]) -> Any:
    """Keeps errors for our own message, and sends what is less to the log."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                heard.append(message.strip())
            else:
                log.debug("%s: %s", trt.__name__, message)

    return Logger()


def _monitor(trt: Any, say: Say) -> Any:
    """Says how far a long build has come, every few seconds."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.said_s = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            if time.monotonic() - self.said_s > SAY_S:
                self.said_s = time.monotonic()
                say(f"{phase.lower()}: {step + 1} of {self.steps.get(phase, 0)}")
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()
