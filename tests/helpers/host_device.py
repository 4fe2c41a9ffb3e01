"""A device that is the CPU: the kernels' own source, compiled by g++, run thread by thread on numpy arrays.

Stricter than a card: every argument must have the type of the kernel's parameter, new memory holds rubbish, and
writing beyond an array's end is found.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stream.device import kernel_source
from tests.helpers.needs import lacking

SHIM = Path(__file__).with_name("cuda_on_host.h")
ONE_AT_A_TIME = threading.Lock()  # thread and block numbers are the library's, and several devices share it
GUARD = 256  # bytes before and after every array
SCALARS = {"int": np.int32, "float": np.float32, "double": np.float64, "i64": np.int64, "u32": np.uint32}
ITEMS = {
    "u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8", "i64": "i8", "int": "i4", "float": "f4", "double": "f8",
}  # fmt: skip


class HostArray(np.ndarray):
    """Memory of a HostDevice, with the guard around it."""

    guard: np.ndarray | None = None


class HostDevice:
    """What `stream.device.Device` does, on the host; `order` -1 runs blocks and threads backwards."""

    name = "host"

    def __init__(self, order: int = 1) -> None:
        self.order = order
        self.bytes_up = self.bytes_back = 0  # what crossed the bus for frames
        self._library, self._parameters = _compiled()

    def empty(self, shape: Any, dtype: Any) -> HostArray:
        dtype, shape = np.dtype(dtype), tuple(np.atleast_1d(shape))
        size = int(np.prod(shape)) * dtype.itemsize
        memory = np.full(size + 2 * GUARD, 0xA5, np.uint8)
        array = memory[GUARD : GUARD + size].view(dtype).reshape(shape).view(HostArray)
        array.guard = memory
        return array

    def zeros(self, shape: Any, dtype: Any) -> HostArray:
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def put(self, values: np.ndarray) -> HostArray:
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        return array

    def mark(self) -> float:
        return time.perf_counter()

    def elapsed_ms(self, begun: float, ended: float) -> float:
        return (ended - begun) * 1e3

    def copy(self, source: np.ndarray, to: np.ndarray) -> None:
        to[...] = source

    def used_bytes(self) -> int:
        return 0

    def facts(self) -> dict[str, Any]:
        return {"card": self.name}

    def upload(self, payload: Any, to: HostArray, after: float | None = None) -> None:
        source = np.frombuffer(payload, np.uint8)
        to[: len(source)] = source
        self.bytes_up += len(source)

    def get(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def bring(self, array: np.ndarray) -> Callable[[], np.ndarray]:
        def wait() -> np.ndarray:  # as late as can be: what wrote to it meanwhile would be seen
            self.bytes_back += array.nbytes
            return np.array(array)

        return wait

    def matmul(self, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        assert b.ndim == 2 or a.shape[:-2] == b.shape[:-2], (
            f"stacks of one length, not {a.shape} and {b.shape}"
        )
        assert all(x.flags.c_contiguous and x.dtype == a.dtype for x in (a, b, out))
        np.matmul(a, b, out=out)

    def fill(self, array: np.ndarray, value: int) -> None:
        array[...] = value

    def launch(self, name: str, grid: tuple[int, int, int], block: tuple[int, int, int], *args: Any) -> None:
        parameters = self._parameters[name]
        assert len(args) == len(parameters), f"{name} takes {len(parameters)} arguments, got {len(args)}"
        assert np.prod(block) <= 1024
        assert max(grid[1:]) <= 65535
        given: list[Any] = [(ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), ctypes.c_int(self.order)]
        for (kind, is_array), value in zip(parameters, args, strict=True):
            if is_array:
                assert isinstance(value, np.ndarray), f"{name}: expected an array of {kind}, got {value!r}"
                right = value.dtype == np.dtype(ITEMS[kind]) and value.flags.c_contiguous
                assert right, f"{name}: expected contiguous {kind}, got {value.dtype} {value.strides}"
                given.append(ctypes.c_void_p(value.ctypes.data))
            else:
                assert type(value) is SCALARS[kind], f"{name}: expected {kind}, got {type(value)}"
                given.append(np.ctypeslib.as_ctypes_type(SCALARS[kind])(value))
        with ONE_AT_A_TIME:
            getattr(self._library, f"run_{name}")(*given)
        for value in args:
            memory = value.guard if isinstance(value, HostArray) else None
            if memory is not None:
                assert (memory[:GUARD] == 0xA5).all(), f"{name} wrote before an array"
                assert (memory[-GUARD:] == 0xA5).all(), f"{name} wrote beyond an array"


@cache
def _compiled() -> tuple[ctypes.CDLL, dict[str, list[tuple[str, bool]]]]:
    compiler = shutil.which("g++")
    if compiler is None:
        lacking("g++")
    source = kernel_source()
    plain = subprocess.run(
        [compiler, "-E", "-P", "-x", "c++", "-"], input=source, capture_output=True, text=True, check=True
    ).stdout
    functions = {name: body for name, body in _functions(plain)}
    parameters: dict[str, list[tuple[str, bool]]] = {}
    wrappers = []
    for name, listed in re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', plain):
        words = [" ".join(word.replace("*", " * ").split()) for word in listed.split(",")]
        parameters[name] = [(re.sub(r"const |volatile | \*.*| \w+$", "", w), "*" in w) for w in words]
        arguments = ", ".join(re.findall(r"(\w+)$", word)[0] for word in words)
        meets = "true" if _meets(name, functions) else "false"
        wrappers.append(
            f'extern "C" void run_{name}(const unsigned* grid_, const unsigned* block_, int order_, {listed}) '
            f"{{ launch(grid_, block_, order_, {meets}, [&] {{ {name}({arguments}); }}); }}"
        )
    text = f'#include "{SHIM}"\n{source}\n' + "\n".join(wrappers)
    key = hashlib.sha256((SHIM.read_text() + text).encode()).hexdigest()[:16]
    out = Path(tempfile.gettempdir()) / f"hopscope-kernels-{key}.so"
    if not out.exists():
        half = Path(tempfile.mkdtemp()) / "kernels.so"
        command = [
            compiler,
            "-std=c++17",
            "-O2",
            "-ffp-contract=off",
            "-Wall",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-U_FORTIFY_SOURCE",  # which takes a jump to another stack for a mistake
        ]
        command += [
            "-Wno-unused-function",
            "-Wno-sign-compare",
            "-shared",
            "-fPIC",
            "-x",
            "c++",
            "-",
            "-o",
            str(half),
        ]
        built = subprocess.run(command, input=text, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        shutil.move(half, out)
    return ctypes.CDLL(str(out)), parameters


def _functions(text: str) -> list[tuple[str, str]]:
    """Name and body of every function at top level."""
    found, depth, begin, name = [], 0, 0, ""
    for i, letter in enumerate(text):
        if letter == "{":
            if depth == 0:
                heads = re.findall(r"(\w+)\([^()]*\)\s*$", text[begin:i])
                name, begin = (heads[-1] if heads else ""), i
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0:
                found.append((name, text[begin:i]))
                begin = i + 1
    return found


def _meets(name: str, functions: dict[str, str]) -> bool:
    """Whether its threads wait for each other, there or in what it calls."""
    body = functions[name]
    return "__sync" in body or any(
        _meets(other, functions) for other in functions if other != name and f"{other}(" in body
    )
