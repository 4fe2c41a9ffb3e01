"""What a card cannot do, and what becomes of it: too little memory, a failure, shapes its plan was not built for."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from engines.build import SIDES_PX, profiles
from engines.gpu import Bound, narrowest
from engines.manifest import EngineMismatch
from engines.runtime import Engine, open_engine
from stream import find
from stream.device import DeviceError
from stream.find import OnCards, OpenCard
from stream.frame import SeriesHeader
from tests.helpers.host_cards import SHAPE, frame, on_host
from tests.helpers.host_device import HostDevice
from tests.helpers.tiny_engine import make_tiny_engine


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_engine(tmp_path)


FULL = (MemoryError("out of memory"), RuntimeError("cudaErrorMemoryAllocation: out of memory"))


@pytest.mark.parametrize("error", FULL)
def test_a_card_without_memory_is_a_refusal(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(find, "DeviceFinder", full)
    with (
        closing(on_host(tiny)) as where,
        pytest.raises(EngineMismatch, match=rf"do not fit on cuda:0 host.*{error}.*cpu"),
    ):
        where.begin(SeriesHeader(1, SHAPE, np.dtype("u2")), 0.02)


def test_a_card_that_is_broken_when_a_series_begins_is_no_refusal_of_that_series(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would refuse all that follow, too: the process must end, and another begin."""

    def broken(*_: object) -> None:
        raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    monkeypatch.setattr(find, "DeviceFinder", broken)
    with closing(on_host(tiny)) as where, pytest.raises(DeviceError, match=r"failed.*IllegalAddress.*dmesg"):
        where.begin(SeriesHeader(1, SHAPE, np.dtype("u2")), 0.02)


@pytest.mark.parametrize("cards", [1, 2])
def test_a_card_that_fails_in_mid_run_is_an_error_with_its_remedy_and_nothing_takes_over(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, cards: int
) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError("cudaErrorLaunchFailure: unspecified launch failure")

    with closing(on_host(tiny, cards)) as where:
        where.begin(SeriesHeader(1, SHAPE, np.dtype("u2")), 0.02)
        where.start([frame(0)])
        (found,) = where.fetch()
        assert found is not None
        monkeypatch.setattr(HostDevice, "launch", gone)
        for _ in range(2):
            where.start([frame(1)])
            with pytest.raises(
                DeviceError, match=r"cuda:0 host.* failed: RuntimeError: cudaErrorLaunchFailure.*nvidia-smi"
            ):
                where.fetch()
        with pytest.raises(DeviceError, match="cudaErrorLaunchFailure"):
            where.picture(frame(2))


CAMERAS = [  # and how many frames may go together; of a strip that has no shape of its own, one
    ((256, 256), 0.02, 16), ((512, 512), 0.02, 16), ((512, 512), 0.012, 16), ((512, 640), 0.02, 8),
    ((720, 720), 0.02, 8), ((515, 1030), 0.02, 4), ((128, 2048), 0.02, 1), ((900, 900), 0.018, 4),
    ((1024, 1024), 0.012, 4), ((1024, 1024), 0.03, 1), ((2048, 2048), 0.012, 1), ((4092, 5760), 0.02, 1),
]  # fmt: skip


@pytest.mark.parametrize(("shape_yx", "pixel_size_nm", "together"), CAMERAS)
def test_the_plan_of_a_default_build_takes_every_batch_of_every_camera(
    tiny: Path, shape_yx: tuple[int, int], pixel_size_nm: float, together: int
) -> None:
    with open_engine(tiny, threads=1) as engine:
        planned = profiles(engine.manifest, [(side, side) for side in SIDES_PX])
        asked: list[tuple[int, ...]] = []

        def bind(shape: tuple[int, ...]) -> Bound:
            narrowest(planned, shape)  # raises as a plan would
            asked.append(shape)
            return Bound(np.empty(shape, np.float32), None, lambda: None)

        plan = Engine(engine.manifest, "tensorrt", engine.run, bind, profiles=planned)
        where = OnCards([lambda: OpenCard(HostDevice(), plan)], "cuda:0", "a test", pictures=False)
        with closing(where):
            where.begin(SeriesHeader(1, shape_yx, np.dtype("u2")), pixel_size_nm)
    assert where.most == max(b for b, *_ in asked) == together


def test_an_image_that_no_profile_takes_is_refused_by_name(tiny: Path) -> None:
    with open_engine(tiny, threads=1) as engine:
        planned = profiles(engine.manifest, [(512, 512)])
        plan = Engine(
            engine.manifest,
            "tensorrt",
            engine.run,
            lambda shape: narrowest(planned, shape),
            profiles=planned,  # type: ignore[arg-type, return-value]
        )
        where = OnCards([lambda: OpenCard(HostDevice(), plan)], "cuda:0", "a test")
        with (
            closing(where),
            pytest.raises(EngineMismatch, match=r"\(1, 1, 64, 6152\).*build it again with --shapes"),
        ):
            where.begin(SeriesHeader(1, (64, 6152), np.dtype("u2")), 0.02)
