"""What a test needs and a machine may lack: skipped and counted there, but failed where CI must have it."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def lacking(what: str) -> NoReturn:
    """Skip the test, or fail it where HOPSCOPE_REQUIRE_GPU_BUILD is set: parts that check GPU code without a GPU."""
    text = f"{what} is missing: pip install 'hopscope[test]' on Linux x86_64 brings it, and Debian's g++"
    pytest.fail(text) if os.environ.get("HOPSCOPE_REQUIRE_GPU_BUILD") else pytest.skip(text)
    raise AssertionError("unreachable")
