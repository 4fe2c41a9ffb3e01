"""The one place where CPU or GPU is chosen, and the little that the GPU's stages ask of a card."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from engines.gpu import why_no_card

DEVICES = r"auto|cpu|cuda:\d+(,cuda:\d+)*"  # what can be asked for
KERNELS = ("decode.cu", "normalize.cu", "columns.cu")
PINNED = 4  # upload buffers: one being filled, one travelling, and two for who is late


class DeviceError(Exception):
    """A device that was asked for cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why.

    Attributes
    ----------
    cards : numbers of the GPUs; empty for the CPU.
    reason : why, for the log, the page and the doctor.
    """

    cards: tuple[int, ...]
    reason: str


def kernel_source() -> str:
    """All kernels as one CUDA C source."""
    folder = files("stream") / "gpu"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in ("common.cuh", *KERNELS))


def open_device(wanted: str = "auto") -> Choice:
    """Choose where the analysis runs, once: nothing changes devices later.

    Parameters
    ----------
    wanted : "cpu", "cuda:0" (or another number, or several with commas, which then take frames in turn), or "auto"
        for the first GPU if one can be used.

    Raises
    ------
    DeviceError
        If a GPU that was asked for cannot be used.
    ValueError
        If it is none of these.
    """
    if wanted == "cpu":
        return Choice((), "it was asked for")
    if wanted != "auto" and re.fullmatch(DEVICES, wanted) is None:
        raise ValueError(f"unknown device: expected auto, cpu, cuda:0 or cuda:0,cuda:1, got {wanted!r}")
    if wanted == "auto":
        lacking = _why_not(0)
        return Choice((0,), "a GPU can be used") if lacking is None else Choice((), lacking)
    cards = tuple(dict.fromkeys(int(name.removeprefix("cuda:")) for name in wanted.split(",")))
    for index in cards:
        lacking = _why_not(index)
        if lacking is not None:
            raise DeviceError(f"cuda:{index} cannot be used: {lacking}; or choose device cpu")
    return Choice(cards, "it was asked for")


def _why_not(index: int) -> str | None:
    """What keeps us from that GPU, with the remedy; None if nothing does."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        return f"CuPy does not import ({error}): pip install 'hopscope[gpu]'"
    return why_no_card(cupy, index)


class Device:
    """One GPU: memory, kernels and products on its current stream.

    Parameters
    ----------
    index : as `open_device` chose.
    """

    def __init__(self, index: int) -> None:
        lacking = _why_not(index)
        if lacking is not None:
            raise DeviceError(f"cuda:{index} cannot be used: {lacking}")
        self._cupy: Any = importlib.import_module("cupy")
        self._cupyx: Any = importlib.import_module("cupyx")
        self.index = index
        self._cupy.cuda.Device(index).use()
        self.name = self._cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
        self._module = self._cupy.RawModule(code=kernel_source(), options=("--std=c++17", "--fmad=true"))
        self._try_out()
        self._functions: dict[str, Any] = {}
        self.stream = self._cupy.cuda.Stream(non_blocking=True)
        self._copying = self._cupy.cuda.Stream(non_blocking=True)
        self._returning = self._cupy.cuda.Stream(non_blocking=True)
        self._pinned: list[tuple[Any, np.ndarray, Any]] = []
        self._next = 0
        self.stream.use()

    def _try_out(self) -> None:
        """Compile the kernels and multiply once: CuPy looks for CUDA's libraries only when it needs them."""
        try:
            self._module.compile()
            one = self._cupy.ones((2, 2), "f4")
            one.dot(one).get()
        except Exception as error:  # of CUDA, NVRTC, cuBLAS, or the loader: they have no class in common
            raise DeviceError(
                f"cuda:{self.index} ({self.name}) cannot be used: CuPy {self._cupy.__version__} finds the card, but "
                f"cannot compute on it: {type(error).__name__}: {error}; pip install 'hopscope[gpu]', which brings "
                "CUDA's compiler and cuBLAS, and look at nvidia-smi: the driver must know that CUDA"
            ) from error

    def empty(self, shape: Any, dtype: Any) -> Any:
        return self._cupy.empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any) -> Any:
        return self._cupy.zeros(shape, dtype)

    def put(self, values: np.ndarray) -> Any:
        """A copy on the card, waited for; for what is made once."""
        return self._cupy.asarray(values)

    def get(self, array: Any) -> np.ndarray:
        """A copy on the host, waited for."""
        return array.get()

    def bring(self, array: Any) -> Callable[[], np.ndarray]:
        """Begin a copy to the host, beside what is computed next; what is returned waits for that copy alone, and gives
        it. Until then nothing may write to the array."""
        array = self._cupy.ascontiguousarray(array)  # on the current stream; kept until the copy is done
        out = self._cupyx.empty_pinned(array.shape, array.dtype)
        self._returning.wait_event(self.stream.record())
        array.get(stream=self._returning, out=out, blocking=False)
        done = self._returning.record()

        def wait(_kept: Any = array) -> np.ndarray:
            done.synchronize()
            return out

        return wait

    def fill(self, array: Any, value: int) -> None:
        array.fill(value)

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """a @ b in full f4 (CuPy takes TF32 only if told to), all contiguous: a stack of a times one b, or stacks of
        one length. CuPy would multiply what it has to repeat matrix by matrix."""
        if b.ndim == 2:
            a.reshape(-1, a.shape[-1]).dot(b, out.reshape(-1, b.shape[-1]))
        else:
            self._cupy.matmul(a, b, out=out)

    def launch(self, name: str, grid: tuple[int, int, int], block: tuple[int, int, int], *args: Any) -> None:
        """Start a kernel on the current stream; scalars must be numpy's, of the parameter's type."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._module.get_function(name)
        function(grid, block, args)

    def mark(self) -> Any:
        """A point in the current stream's work, for `upload` to wait for."""
        return self.stream.record()

    def elapsed_ms(self, begun: Any, ended: Any) -> float:
        """Time between two marks, on the card's clock; waits for the second."""
        ended.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begun, ended))

    def copy(self, source: Any, to: Any) -> None:
        """Copy on the card."""
        to.data.copy_from_device_async(source.data, source.nbytes, self.stream)

    def used_bytes(self) -> int:
        """Memory in use on the card, by everyone."""
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return int(total - free)

    def facts(self) -> dict[str, Any]:
        """What a measurement must be told with: the card, and the versions of what drives it."""
        runtime = self._cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self.index)
        return {
            "card": self.name,
            "capability": f"{properties['major']}.{properties['minor']}",
            "memory_gib": round(properties["totalGlobalMem"] / 2**30, 1),
            "driver_cuda": runtime.driverGetVersion(),
            "runtime_cuda": runtime.runtimeGetVersion(),
            "cupy": self._cupy.__version__,
        }

    def upload(self, payload: Any, to: Any, after: Any = None) -> None:
        """Copy bytes to the beginning of `to` (u1) through pinned memory, on a stream of its own.

        The host's copy runs at once. The card's begins after the mark, when nothing reads `to` any more, beside
        whatever else is being computed; what is launched from now on waits for it.
        """
        source = np.frombuffer(payload, np.uint8)
        pinned, done = self._room(len(source))
        pinned[: len(source)] = source
        if after is not None:
            self._copying.wait_event(after)
        to[: len(source)].set(pinned[: len(source)], stream=self._copying)
        done.record(self._copying)
        self.stream.wait_event(done)

    def _room(self, size: int) -> tuple[np.ndarray, Any]:
        """The next pinned buffer of the ring, once its last journey is over."""
        cuda = self._cupy.cuda
        if len(self._pinned) < PINNED:
            self._pinned.append((None, np.empty(0, np.uint8), cuda.Event(disable_timing=True)))
        self._next = (self._next + 1) % len(self._pinned)
        memory, array, done = self._pinned[self._next]
        done.synchronize()
        if len(array) < size:
            memory = cuda.alloc_pinned_memory(size)
            array = np.frombuffer(memory, np.uint8, size)
            self._pinned[self._next] = (memory, array, done)
        return array, done
