"""Our CBOR reader against cbor2: the same items, without the copies."""

from __future__ import annotations

import math
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.frame import WireError
from stream.wire import cbor

quiet = settings(derandomize=True, deadline=None, max_examples=200)

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
items = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(st.text(max_size=9) | st.integers(-9, 2**40), inner, max_size=30)
        | st.tuples(st.sampled_from([40, 69, 56500, 2**40]), inner).map(lambda pair: cbor2.CBORTag(*pair))
    ),
    max_leaves=40,
)


def as_ours(item: Any) -> Any:
    if isinstance(item, cbor2.CBORTag):
        return cbor.Tag(item.tag, as_ours(item.value))
    if isinstance(item, list | tuple):
        return [as_ours(part) for part in item]
    if isinstance(item, dict):
        return {key: as_ours(value) for key, value in item.items()}
    return memoryview(item) if isinstance(item, bytes) else item


@quiet
@given(items, st.booleans())
def test_reads_what_cbor2_writes(item: Any, canonical: bool) -> None:
    assert cbor.loads(cbor2.dumps(item, canonical=canonical)) == as_ours(item)


@quiet
@given(items, st.data())
def test_a_cut_or_longer_message_is_refused(item: Any, data: st.DataObject) -> None:
    whole = cbor2.dumps(item)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\0"):
        with pytest.raises(WireError):
            cbor.loads(wrong)


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("5f42010243030405ff", b"\1\2\3\4\5"),
        ("7f657374726561646d696e67ff", "streaming"),
        ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
        ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
        ("f97bff", 65504.0),
        ("f90001", 5.960464477539063e-8),
        ("fa47c35000", 100000.0),
        ("fb7e37e43c8800759c", 1.0e300),
        ("f97c00", math.inf),
        ("3bffffffffffffffff", -(2**64)),
        ("f7", None),
    ],
)
def test_examples_of_the_standard(text: str, item: object) -> None:
    """RFC 8949, appendix A."""
    assert cbor.loads(bytes.fromhex(text)) == (memoryview(item) if isinstance(item, bytes) else item)


@pytest.mark.parametrize(
    "text", ["ff", "1c", "1f", "5f01ff", "5f5f4101ffff", "f820", "f8ff", "df00", "7f4100ff", "e0"]
)
def test_what_is_no_item_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        cbor.loads(bytes.fromhex(text))


def test_byte_strings_are_views() -> None:
    data = cbor2.dumps({"a": bytes(range(256)) * 40})
    view = cbor.loads(data)["a"]
    assert np.shares_memory(np.frombuffer(view, "u1"), np.frombuffer(data, "u1"))
    assert view.readonly


def test_pairs_before_a_break_are_had() -> None:
    data = cbor2.dumps(
        cbor2.CBORTag(cbor.SELF_DESCRIBED, {"type": "image", "image_id": 3, "data": bytes(99)})
    )
    pairs = cbor.pairs(data[:-50])
    assert [next(pairs), next(pairs)] == [("type", "image"), ("image_id", 3)]
    with pytest.raises(WireError, match="ends in the middle"):
        next(pairs)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x01", b"\xd9\xd9\xf7\x80", b"\xc1\xa0"])
def test_pairs_are_of_a_map(data: bytes) -> None:
    with pytest.raises(WireError):
        dict(cbor.pairs(data))
