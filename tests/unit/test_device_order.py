"""Uploads, kernels and copies back, in whichever order streams and events leave open: always the same columns."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.gpu import Bound
from engines.runtime import open_engine
from stream.codecs import Encoding, encode
from stream.device import Device, DeviceError
from stream.gpu.finder import DeviceFinder
from tests.helpers.host_device import HostDevice
from tests.helpers.late_card import LateCard, LateEngine
from tests.helpers.tiny_engine import make_tiny_engine

STREAMS = {0: "compute", 1: "upload", 2: "return"}
AHEAD = [frozenset(some) for n in range(4) for some in combinations(STREAMS, n)]


def spots(index: int) -> np.ndarray:
    """Bright spots, elsewhere in every frame, on noise; u2."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[:96, :104]
    bright = np.cos(2 * np.pi * (y + index) / 12.5) + np.cos(2 * np.pi * (x + 3 * index) / 12.5) > 1.5
    return rng.poisson(10 + 300 * bright).astype(np.uint16)


def payload(counts: np.ndarray, algorithm: Any) -> Any:
    return encode(counts, algorithm), Encoding(counts.shape, counts.dtype, algorithm)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> LateCard:
    card = LateCard(getattr(request, "param", frozenset()))
    for name in ("cupy", "cupyx"):
        monkeypatch.setitem(sys.modules, name, card)  # type: ignore[arg-type]
    return card


@pytest.mark.parametrize(
    "card", AHEAD, indirect=True, ids=lambda ahead: "+".join(STREAMS[i] for i in sorted(ahead)) or "none"
)
@pytest.mark.parametrize("pixel_size_nm", [0.02, 0.012])
def test_whatever_runs_ahead_the_columns_are_the_same(
    card: LateCard, pixel_size_nm: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.gpu.columns.AT_ONCE", 30)  # some frames have more, some have not
    sent = [payload(spots(i), ("bslz4", "none", "lz4")[i % 3]) for i in range(14)]
    batches = [sent[:3], sent[3:4], sent[4:7], sent[7:9], sent[9:12], sent[12:13], sent[13:]]
    with open_engine(make_tiny_engine(tmp_path), threads=1) as engine:
        card.streams.clear()  # numbered from 0 by the device
        finders = [
            DeviceFinder(one, device, (96, 104), np.dtype("u2"), pixel_size_nm, 0.4, most=3, pictures=True)
            for one, device in ((engine, HostDevice()), (LateEngine(card, engine), Device(0)))
        ]
        wanted, got = ([], [])
        for finder, found in zip(finders, (wanted, got), strict=True):
            finder.start(batches[0])
            for batch in batches[1:]:
                finder.start(batch)
                found += finder.fetch()
            found += finder.fetch()
    assert len(got) == len(wanted) == 14
    counts = set()
    for a, b in zip(got, wanted, strict=True):
        assert len(a.columns) == len(b.columns) > 20
        np.testing.assert_allclose(a.columns.yx_px, b.columns.yx_px, atol=1e-4)
        np.testing.assert_allclose(a.columns.score, b.columns.score, atol=1e-5)
        np.testing.assert_allclose(a.image, b.image, atol=1e-5)
        np.testing.assert_allclose(a.background, b.background, atol=1e-5)
        counts.add(len(a.columns))
    assert len(counts) > 1


@pytest.mark.parametrize("card", [frozenset({1})], indirect=True, ids=["upload"])
@pytest.mark.parametrize("algorithm", ["bslz4", "none"])
def test_a_whole_batch_travels_while_the_last_is_computed(
    card: LateCard, algorithm: str, tmp_path: Path
) -> None:
    """Nobody waits for the card's work until the columns are asked for, neither the host nor the copies."""
    computed: list[int] = []

    class Noted(LateEngine):
        def bind(self, shape: Any) -> Bound:
            bound = super().bind(shape)

            def enqueue() -> None:
                card.current.put(lambda: computed.append(shape[0]))
                bound.enqueue()

            return Bound(bound.input, bound.output, enqueue)

    sent = [payload(spots(i), algorithm) for i in range(8)]
    with open_engine(make_tiny_engine(tmp_path), threads=1) as engine:
        card.streams.clear()
        device = Device(0)
        finder = DeviceFinder(Noted(card, engine), device, (96, 104), np.dtype("u2"), 0.02, 0.4, most=4)  # type: ignore[arg-type]
        finder.start(sent[:4])
        finder.start(sent[4:])
        assert not computed
        assert not device._copying.queue, "copies wait for what is computed"
        found = finder.fetch() + finder.fetch()
    assert computed == [4, 4]
    assert None not in found


def test_a_card_that_cannot_compute_is_refused_when_it_is_opened(
    card: LateCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_fails() -> None:
        raise RuntimeError("libnvrtc.so.13: cannot open shared object file")

    module = card.RawModule(code="")
    module.compile = compile_fails
    monkeypatch.setattr(card, "RawModule", lambda **_: module, raising=False)
    with pytest.raises(DeviceError, match=r"late card.*libnvrtc.*pip install 'hopscope\[gpu\]'"):
        Device(0)
