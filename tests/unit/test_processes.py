"""The supervisor beside processes that do not do as they should; whole sessions are in tests/e2e/test_session.py."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from stream import processes
from stream.config import Settings
from stream.one_process import REHEARSE_AGAIN_S, Child
from stream.processes import Supervisor

LONG_S = 60.0


def waits(connection: Connection) -> None:
    """Stands by until told otherwise."""
    connection.poll(LONG_S)


def does_not_fit(connection: Connection) -> None:
    connection.send({"type": "refused", "text": "frames do not fit on cuda:0"})


def ends(connection: Connection) -> None:
    raise SystemExit(3)


@pytest.fixture
def context() -> Any:
    return multiprocessing.get_context("spawn")


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor(Settings())
    yield made
    made.stop()


def rehearsed(target: Any, context: Any) -> Child:
    """A child whose understudy was called, and has ended by itself."""
    child = Child("analyse", target, (), rehearsed=True)
    assert child.rehearse(context, 0.0) is None
    assert child.understudy is not None
    child.understudy[0].join(LONG_S)
    return child


@pytest.mark.parametrize(
    ("target", "why"), [(does_not_fit, "frames do not fit on cuda:0"), (ends, "exit code 3")]
)
def test_an_understudy_that_cannot_be_loaded_is_told_once_and_not_tried_again_at_once(
    target: Any, why: str, context: Any
) -> None:
    child = rehearsed(target, context)
    told = child.rehearse(context, 100.0)
    assert told is not None
    assert told.startswith(why)
    for now in (100.1, 100.0 + REHEARSE_AGAIN_S - 1):
        assert child.rehearse(context, now) is None
        assert child.understudy is None
    child.target = waits
    assert child.rehearse(context, 100.0 + REHEARSE_AGAIN_S) is None
    assert child.understudy is not None
    assert child.rehearse(context, 100.0 + REHEARSE_AGAIN_S) is None, "it waits"
    child.dismiss()


def test_an_understudy_that_waits_is_not_called_twice(context: Any) -> None:
    child = Child("analyse", waits, (), rehearsed=True)
    child.rehearse(context, 0.0)
    assert child.understudy is not None
    first = child.understudy[0]
    child.rehearse(context, 1.0)
    assert child.understudy[0] is first
    child.dismiss()


def test_an_analysis_that_makes_a_card_ready_is_not_taken_for_hung(
    supervisor: Supervisor, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse = Child("analyse", waits, ())
    supervisor.analyse = analyse
    analyse.start(context)
    analyse.ready = analyse.asked = True
    supervisor.session.begin()
    supervisor._hear(analyse, {"type": "busy"})
    late = time.monotonic() + processes.SILENT_S + 5
    supervisor._look_after(analyse, late)
    assert analyse.alive
    supervisor._hear(analyse, {"type": "report", "counters": {}})
    analyse.asked = True
    supervisor._look_after(analyse, late)
    assert not analyse.alive
    assert "gave no answer for 10 s" in supervisor.session.alarms()[0]["text"]


def test_a_refusal_in_mid_run_is_an_alarm_with_its_text(supervisor: Supervisor) -> None:
    supervisor.session.begin()
    supervisor._hear(supervisor.analyse, {"type": "refused", "text": "cuda:0 failed: look at nvidia-smi"})
    (alarm,) = supervisor.session.alarms()
    assert (alarm["severity"], alarm["text"]) == ("error", "analyse: cuda:0 failed: look at nvidia-smi")
