"""Every kernel compiles for every generation of cards, by NVRTC, which needs none."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from stream.device import kernel_source
from tests.helpers.needs import lacking


def nvrtc() -> ctypes.CDLL:
    try:
        import nvidia.cu13 as cuda  # type: ignore
    except ImportError:
        lacking("nvidia-cuda-nvrtc")
    found = [lib for folder in cuda.__path__ for lib in Path(folder).glob("lib/libnvrtc.so.*")]
    return ctypes.CDLL(str(found[0])) if found else lacking("libnvrtc")


def compiled(architecture: str, source: str) -> tuple[bytes, str]:
    """Machine code and the compiler's log."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert (
        library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    )
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    result = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    code = b""
    if result == 0:
        library.nvrtcGetCUBINSize(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        library.nvrtcGetCUBIN(program, buffer)
        code = buffer.raw
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log.value.decode()


@pytest.mark.parametrize("architecture", ["sm_75", "sm_86", "sm_89", "sm_90"])
def test_every_kernel_compiles(architecture: str) -> None:
    code, log = compiled(architecture, kernel_source())
    assert code.startswith(b"\x7fELF"), log
    assert not log.strip("\0\n ")
    names = re.findall(r'extern "C" __global__ void (\w+)\(', kernel_source())
    names += re.findall(r"^TO_F4\((\w+)", kernel_source(), re.MULTILINE)
    names.remove("NAME")
    assert len(names) > 20
    for name in names:
        assert name.encode() in code


def test_a_mistake_is_seen() -> None:
    code, log = compiled("sm_90", kernel_source() + "\n__global__ void f() { undeclared(); }")
    assert not code
    assert "undeclared" in log
