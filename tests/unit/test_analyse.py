"""What the analysis says of a card that fails after it was opened: to the supervisor, so to the operator."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.runtime import open_engine
from stream.analyse import analyse
from stream.config import Settings
from stream.device import DeviceError
from stream.find import OnCards, OpenCard
from tests.helpers.host_device import HostDevice
from tests.helpers.tiny_engine import make_tiny_engine


@pytest.fixture
def keyboard() -> Iterator[None]:
    """A child leaves interrupts to its supervisor; pytest wants them back."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
@pytest.mark.parametrize("kernel", ["image_level", "maxima"])
def test_a_card_that_fails_during_the_warm_up_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    launch = HostDevice.launch

    def fails(self: HostDevice, name: str, *rest: object) -> None:
        if name == kernel:
            raise RuntimeError("cudaErrorMemoryAllocation: out of memory")
        launch(self, name, *rest)  # type: ignore[arg-type]

    engine = make_tiny_engine(tmp_path)
    where = OnCards([lambda: OpenCard(HostDevice(), open_engine(engine, threads=1))], "cuda:0", "a test")
    monkeypatch.setattr("stream.analyse.open_where", lambda settings: where)
    monkeypatch.setattr(HostDevice, "launch", fails)
    ours, theirs = multiprocessing.Pipe()
    with pytest.raises(DeviceError):
        analyse(theirs, Settings(), "", None, None, "", tmp_path)  # type: ignore[arg-type]
    told = ours.recv()
    assert told["type"] == "refused"
    assert "cudaErrorMemoryAllocation" in told["text"]
    assert "nvidia-smi" in told["text"]
