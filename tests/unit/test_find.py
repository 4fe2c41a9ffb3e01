"""The whole pipeline through cards, which are the host here, beside the CPU's: columns, events and tables."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from engines.build import find_gpu
from engines.runtime import open_engine
from stream import find
from stream.config import EngineSettings, Settings
from stream.device import Choice, DeviceError
from stream.find import OnCpu, find_all, open_where
from stream.frame import Encoding, Frame, Gap, SeriesEnd, SeriesHeader
from stream.offline import analyse_recording
from stream.phantom import Phantom
from stream.pipeline import Analysis, Seen
from tests.helpers.host_cards import SHAPE, frame, on_host
from tests.helpers.plans import small_plans
from tests.helpers.tiny_engine import make_tiny_engine

NAME = "au-on-oxide-hrtem-fp32"


def on_cpu(name: str | Path) -> OnCpu:
    return OnCpu(open_engine(name, threads=1), "a test")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_engine(tmp_path)


def series(settings: Settings, where: Any) -> Analysis:
    analysis = Analysis(settings, where)
    analysis.begin(SeriesHeader(1, SHAPE, np.dtype("u2"), frame_period_s=0.1, pixel_size_nm=0.02))
    return analysis


@pytest.mark.parametrize("cards", [1, 2])
def test_a_replay_through_cards_gives_the_cpus_tables(
    cards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phantom = Phantom(seed=11, shape_px=192, frames=24, dose_e_nm2=310_000, max_height=8)
    movie = tmp_path / "movie.npy"
    np.save(movie, np.stack([phantom.render(i) for i in range(24)]))
    settings = Settings.model_validate(
        {"camera": {"pixel_size_nm": phantom.truth.pixel_size_nm, "frame_period_s": 0.1}}
    )
    results = {}
    for name, where in (("cpu", on_cpu(NAME)), ("card", on_host(NAME, cards))):
        with monkeypatch.context() as patched:
            patched.setattr("stream.offline.open_where", lambda engine, where=where: where)
            patched.setattr("engines.build.MOST_FRAMES", 4)
            results[name] = analyse_recording(movie, tmp_path / f"{name}.h5", settings)
    assert results["cpu"]["frames"] == results["card"]["frames"] == 24
    assert "cuda:0 host" in results["card"]["device"]
    for key in ("sites", "events", "hops", "gaps"):
        assert results["cpu"][key] == results["card"][key]
    with h5py.File(tmp_path / "cpu.h5") as cpu, h5py.File(tmp_path / "card.h5") as card:
        tables = [key for key, value in cpu.items() if isinstance(value, h5py.Dataset)]
        assert tables == [key for key, value in card.items() if isinstance(value, h5py.Dataset)]
        assert len(cpu["columns"]) > 24 * 50
        for key in tables:
            same_table(cpu[key][()], card[key][()])


def same_table(wanted: np.ndarray, got: np.ndarray) -> None:
    assert wanted.dtype == got.dtype
    assert wanted.shape == got.shape
    for name in wanted.dtype.names or ():
        if wanted.dtype[name].kind == "f":
            np.testing.assert_allclose(
                got[name], wanted[name], atol=0.02, rtol=2e-2, equal_nan=True, err_msg=name
            )
        else:
            np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


@pytest.mark.parametrize("cards", [1, 3])
def test_batches_gaps_and_broken_frames_keep_their_order(tiny: Path, cards: int) -> None:
    released: list[int] = []
    with closing(on_host(tiny, cards)) as where:
        analysis = series(Settings(), where)
        assert analysis.most > 4
        broken = Frame(1, 5, None, 0, memoryview(b"x"), Encoding(SHAPE, np.dtype("u2")))
        batches: list[list[Frame | Gap]] = [
            [frame(0, released=released), frame(1, released=released)],
            [Gap(1, 2, 2, "wire")],
            [frame(4, released=released), broken, frame(6), Gap(1, 7, 1, "skipped-live"), frame(8)],
            [Gap(1, 9, 1, "wire"), frame(10)],
        ]
        seen: list[Seen | Gap] = []
        for batch in batches:
            while not analysis.room:
                seen += analysis.fetch()
            analysis.start(batch)
        while analysis.under_way:
            seen += analysis.fetch()
    assert [s.frame if isinstance(s, Seen) else (s.first, s.reason) for s in seen] == [
        0, 1, (2, "wire"), 4, (5, "decode"), 6, (7, "skipped-live"), 8, (9, "wire"), 10
    ]  # fmt: skip
    assert released == [0, 1, 4]
    assert analysis.report()["gaps"] == {"wire": 3, "decode": 1, "skipped-live": 1}
    assert analysis.report()["counters"]["analysed"] == 6


def test_what_is_refused_meanwhile_counts_as_paused(tiny: Path) -> None:
    released: list[int] = []
    with closing(on_host(tiny)) as where:
        analysis = series(Settings(), where)
        analysis.start([frame(0, released=released), frame(1, released=released)])
        analysis.start([frame(2, released=released)])
        next(analysis.fetch())
        analysis.refuse()
        analysis.start([frame(3, released=released)])
        assert analysis.report()["gaps"] == {"paused": 3}
        assert sorted(released) == [0, 1, 2, 3]
        analysis.begin(SeriesHeader(2, SHAPE, np.dtype("u2"), frame_period_s=0.1, pixel_size_nm=0.02))
        analysis.start([frame(0)])
        assert [s.frame for s in analysis.fetch() if isinstance(s, Seen)] == [0]


def test_the_cpu_takes_the_newest_and_a_card_what_fits_into_the_budget(tiny: Path) -> None:
    old_ns = time.monotonic_ns() - np.array([3, 2, 1]) * 10**9
    with closing(on_cpu(tiny)) as where:
        assert series(Settings(), where).choose(old_ns) == (2, 1)
    with closing(on_host(tiny)) as where:
        analysis = series(Settings(), where)
        assert analysis.choose(old_ns) == (0, 2), "nothing is known yet of what a frame costs"
        analysis.start([frame(0)])
        list(analysis.fetch())
        assert analysis.choose(old_ns) == (2, 1), "too late for the budget of 50 ms"
    patient = Settings(engine=EngineSettings(latency_ms=1e6))
    with closing(on_host(tiny)) as where:
        analysis = series(patient, where)
        analysis.start([frame(0)])
        list(analysis.fetch())
        assert analysis.choose(np.repeat(old_ns, 3)) == (0, 8)


def test_back_go_six_numbers_for_each_column_and_the_picture_only_if_asked_for(tiny: Path) -> None:
    """At most 4096 rows are fetched without asking how many there are."""
    back = {}
    for pictures in (False, True):
        with closing(on_host(tiny, pictures=pictures)) as where:
            where.begin(SeriesHeader(1, SHAPE, np.dtype("u2")), 0.02)
            ((_, found),) = find_all(where, [frame(0)])
            assert found is not None
            assert (found.image is not None) == (found.background is not None) == pictures
            (card,) = where._cards.opened
            back[pictures] = card.device.bytes_back  # type: ignore[attr-defined]
            assert card.device.bytes_up == 2 * SHAPE[0] * SHAPE[1]  # type: ignore[attr-defined]
    picture = 4 * SHAPE[0] * SHAPE[1]
    assert back[True] - back[False] == picture + picture // 4  # and the map, of every second pixel
    assert back[False] <= 24 * 4096 + 100


def test_single_images_come_in_order_and_are_released(tiny: Path) -> None:
    for where in (on_cpu(tiny), on_host(tiny, 2, pictures=False)):
        released: list[int] = []
        with closing(where):
            where.begin(SeriesHeader(1, SHAPE, np.dtype("u2")), 0.02)
            got = [
                (f.index, found is not None and len(found.columns) > 20)
                for f, found in find_all(where, (frame(i, released=released) for i in range(37)))
            ]
        assert got == [(i, True) for i in range(37)]
        assert released == list(range(37))


def test_auto_goes_to_the_cpu_where_the_engine_does_not_open_on_the_card_and_says_why(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(find, "open_device", lambda wanted: Choice((0,), "a test"))

    def no_card(index: int) -> None:
        raise DeviceError(f"cuda:{index} cannot be used: it fell off the bus")

    monkeypatch.setattr(find, "Device", no_card)
    with (
        caplog.at_level("INFO", "hopscope.device"),
        closing(open_where(EngineSettings(name=str(tiny)))) as where,
    ):
        assert where.device == "cpu"
        assert "fell off the bus" in where.reason
    assert "columns are found on CPU, openvino, because the GPU cannot be used" in caplog.text
    with pytest.raises(DeviceError, match="fell off the bus"):
        open_where(EngineSettings(name=str(tiny), device="cuda:0"))


@pytest.fixture
def card(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_gpu() is None:
        pytest.skip("there is no GPU")
    small_plans(monkeypatch, tmp_path_factory)


@pytest.mark.gpu
@pytest.mark.usefixtures("card")
def test_a_card_follows_a_phantom_as_the_cpu_does() -> None:
    phantom = Phantom(seed=11, shape_px=512, frames=60, dose_e_nm2=310_000, max_height=8)
    settings = Settings.model_validate({"engine": {"name": NAME, "device": "cuda:0", "precision": "fp32"}})
    found = {}
    for name, where in (("cpu", on_cpu(NAME)), ("card", open_where(settings.engine))):
        with closing(where):
            analysis = Analysis(settings, where)
            analysis.begin(phantom.header)
            seen: list[Seen | Gap] = []
            for item in phantom:
                if isinstance(item, SeriesEnd):
                    break
                if isinstance(item, Frame):
                    while not analysis.room:
                        seen += analysis.fetch()
                    analysis.start([item])
            while analysis.under_way:
                seen += analysis.fetch()
            found[name] = [s for s in seen if isinstance(s, Seen)], analysis.finish()
    assert len(found["cpu"][0]) == len(found["card"][0]) == 60
    for a, b in zip(found["cpu"][0], found["card"][0], strict=True):
        assert len(a.columns) == len(b.columns)
        np.testing.assert_allclose(a.columns.yx_px, b.columns.yx_px, atol=0.02)
