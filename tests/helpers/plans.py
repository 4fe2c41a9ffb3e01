"""Plans for tests on a card: kept for the whole run, and of few shapes, so that the first test waits minutes less."""

from __future__ import annotations

import pytest

from engines import build


def small_plans(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build from now on what every shape needs, and nothing for single ones."""
    monkeypatch.setenv(build.PLANS, str(tmp_path_factory.getbasetemp() / "plans"))
    monkeypatch.setattr(build, "SIDES_PX", (512,))
