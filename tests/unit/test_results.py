"""Messages analyse -> serve survive the wire, and nothing malformed gets through."""

from __future__ import annotations

from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from stream.frame import WireError
from stream.wire.results import MAX_BYTES, pack, unpack
from tests.helpers.fake_results import FakeSession

quiet = settings(derandomize=True, deadline=None, max_examples=60)

finite = st.floats(-1e6, 1e6, width=32)
integers = st.integers(-(2**63), 2**63 - 1)
points = st.integers(0, 9).flatmap(lambda n: npst.arrays("<f4", (n, 2), elements=finite))


def vectors(n: int) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays("<f4", (n,), elements=st.one_of(finite, st.just(np.nan)))


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    pair = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2)
    return {
        "frame": draw(integers),
        "kind": draw(st.sampled_from(["appear", "disappear", "hop"])),
        "from_site": draw(integers),
        "to_site": draw(integers),
        "yx_px": draw(pair),
        "to_yx_px": draw(st.none() | pair),
        "probability": draw(st.floats(0, 1)),
    }


@st.composite
def frames(draw: st.DrawFn) -> dict[str, Any]:
    stride, ny, nx = draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.integers(1, 8))
    yx, sites = draw(points), draw(points)
    message = {
        "type": "frame",
        "series": draw(integers | st.text(max_size=8)),
        "index": draw(st.integers(0, 2**63 - 1)),
        "t_ns": draw(st.none() | integers),
        "recv_ns": draw(integers),
        "shape_yx": [ny * stride, nx * stride],
        "yx_px": yx,
        "score": draw(vectors(len(yx))),
        "p_occupied": draw(vectors(len(yx))),
        "site_yx_px": sites,
        "site_p": draw(vectors(len(sites))),
        "site_proposed": draw(npst.arrays("|u1", len(sites), elements=st.integers(0, 1))),
        "drift_yx_px": [draw(st.floats(-1e3, 1e3)), 0.0],
        "lost_frames": draw(st.integers(0, 10**6)),
        "events": draw(st.lists(events(), max_size=3)),
        "stage_ms": {"network": draw(st.floats(0, 1e3))},
    }
    if draw(st.booleans()):
        message |= {"picture": draw(npst.arrays("|u1", (ny, nx))), "picture_stride": stride}
    return message


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@quiet
@given(frames())
def test_a_frame_comes_back_as_it_was(message: dict[str, Any]) -> None:
    assert same(unpack(pack(message)), message)


@quiet
@given(npst.arrays("<f4", npst.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=finite))
def test_a_map_comes_back_as_it_was(array: np.ndarray) -> None:
    message = {
        "type": "map",
        "name": "events",
        "array": array,
        "yx_origin_nm": [0.5, -1.0],
        "nm_per_px": 0.04,
    }
    assert same(unpack(pack(message)), message)


def test_series_and_status_come_back_as_they_were() -> None:
    session = FakeSession(1, side_px=64)
    series = session.series() | {"shape_yx": [64, 64], "dose_e_nm2": None}
    assert unpack(pack(series)) == series
    assert unpack(pack(session.status())) == session.status()


def test_what_numpy_says_otherwise_becomes_plain() -> None:
    session = FakeSession(1, side_px=64)
    message = session.frame()
    message["index"] = np.int64(5)
    message["shape_yx"] = (64, 64)
    message["drift_yx_px"] = np.array([1.0, 2.0], np.float32)
    message["score"] = message["score"].astype(">f4")
    message["stage_ms"] = {"network": np.float32(0.5)}
    back = unpack(pack(message))
    assert back["index"] == 5
    assert back["shape_yx"] == [64, 64]
    assert back["drift_yx_px"] == [1.0, 2.0]
    assert back["score"].dtype == np.dtype("<f4")
    assert np.array_equal(back["score"], message["score"])
    assert back["stage_ms"] == {"network": 0.5}


def test_a_picture_may_be_resampled_by_any_ratio() -> None:
    message = FakeSession(1, side_px=64).frame()
    message["picture"] = message["picture"][:35, :35]
    message["picture_stride"] = 64 / 35
    assert unpack(pack(message))["picture_stride"] == 64 / 35


def test_a_newer_sender_may_say_more() -> None:
    message = FakeSession(1, side_px=64).series() | {"beam_energy_ev": 300e3}
    assert unpack(pack(message))["beam_energy_ev"] == 300e3


def test_arrays_are_views_that_cannot_be_written() -> None:
    back = unpack(pack(FakeSession(1, side_px=64).frame()))
    with pytest.raises(ValueError, match="read-only"):
        back["picture"][0, 0] = 1


def array(dtype: str, shape: Any, data: Any) -> dict[str, Any]:
    return {"t": dtype, "s": shape, "d": data}


FOUR = array("<f4", [2, 2], bytes(16))
LIES: list[tuple[dict[str, Any], str]] = [
    ({"yx_px": array("<f4", [10**9, 2], bytes(16))}, "bytes"),
    ({"yx_px": array("<f4", [-2, -2], bytes(16))}, "shape"),
    ({"yx_px": array("<f4", [2, True], bytes(8))}, "shape"),
    ({"yx_px": array("<f4", [1] * 9, bytes(4))}, "shape"),
    ({"yx_px": array("<f4", "2", bytes(8))}, "shape"),
    ({"yx_px": array("|O", [1, 2], bytes(16))}, "type"),
    ({"yx_px": array("<f4", [2, 2], "text")}, "type"),
    ({"yx_px": array("<f4", [], bytes(4))}, r"yx_px: expected an array \(n, 2\)"),
    ({"yx_px": array("<f4", [1, 2], np.array([np.nan, 0], "<f4").tobytes())}, "finite positions"),
    ({"yx_px": [[1.0, 2.0]]}, "yx_px"),
    ({"score": FOUR}, "score"),
    ({"score": array("<f4", [3], bytes(12))}, "one for each position"),
    ({"site_p": array("<f4", [3], bytes(12))}, "one for each position"),
    ({"site_proposed": array("|u1", [3], bytes(3))}, "one for each position"),
    ({"site_proposed": array("<f4", [2], bytes(8))}, "of u1"),
    ({"index": -1}, "index"),
    ({"index": True}, "index"),
    ({"index": 2.0}, "index"),
    ({"index": 2**70}, "holds a int"),
    ({"shape_yx": [0, 64]}, "shape_yx"),
    ({"shape_yx": [64]}, "shape_yx"),
    ({"shape_yx": [64, 10**6]}, "shape_yx"),
    ({"shape_yx": array("<i8", [], bytes(8))}, "shape_yx"),
    ({"drift_yx_px": [float("nan"), 0.0]}, "drift_yx_px"),
    ({"events": [{"kind": "hop"}]}, "events"),
    ({"events": [3]}, "events"),
    ({"stage_ms": 3}, "stage_ms"),
    ({"picture": FOUR}, "picture"),
    ({"picture_stride": 0}, "picture_stride"),
    ({"picture_stride": 2}, "strides of 2"),
    ({"series": None}, "series"),
    ({"note": cbor2.CBORTag(4000, b"")}, "CBORTag"),
    ({"note": {1: 2}}, "no text"),
]


@pytest.mark.parametrize(
    ("lie", "told"), LIES, ids=[f"{next(iter(lie))}-{i}" for i, (lie, _) in enumerate(LIES)]
)
def test_a_lying_frame_is_refused(lie: dict[str, Any], told: str) -> None:
    honest = cbor2.loads(pack(FakeSession(1, side_px=64).frame()))
    unpack(cbor2.dumps(honest))
    with pytest.raises(WireError, match=told):
        unpack(cbor2.dumps(honest | lie))


@pytest.mark.parametrize("missing", ["index", "yx_px", "events", "picture_stride"])
def test_a_frame_without_a_field_is_refused(missing: str) -> None:
    message = FakeSession(1, side_px=64).frame()
    del message[missing]
    with pytest.raises(ValueError, match=f"{missing}: expected it to be there"):
        pack(message)


def test_an_unknown_kind_of_event_is_refused() -> None:
    message = FakeSession(1, side_px=64, hops_per_frame=50).frame()
    message["events"][0]["kind"] = "jump"
    with pytest.raises(
        ValueError, match="events: expected kind: expected appear, disappear or hop, got 'jump'"
    ):
        pack(message)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"garbage from a port scanner",
        cbor2.dumps(3),
        cbor2.dumps([1]),
        cbor2.dumps({"type": 3}),
        cbor2.dumps({"type": "stop"}),
        cbor2.dumps({"type": "x" * 10_000}),
        b"\x81" * 5000,
        b"\xbf" * 100,
    ],
)
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.data())
def test_damaged_bytes_are_refused_or_still_a_message(data: st.DataObject) -> None:
    whole = bytearray(pack(FakeSession(1, side_px=64).frame()))
    damaged = whole[: data.draw(st.integers(0, len(whole)))]
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = unpack(bytes(damaged))
    except WireError:
        return
    assert len(message["yx_px"]) == len(message["score"])


def test_oversized_bytes_are_refused_unread() -> None:
    with pytest.raises(WireError, match="too long"):
        unpack(bytes(MAX_BYTES + 1))
    with pytest.raises(ValueError, match="picture_stride"):
        pack(FakeSession(1, side_px=64).series() | {"note": bytes(MAX_BYTES)})


@pytest.mark.parametrize("value", [object(), np.array(["text"]), np.zeros(2, complex), {1, 2}])
def test_what_cannot_be_sent_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, WireError)):
        unpack(pack(FakeSession(1, side_px=64).series() | {"note": value}))
