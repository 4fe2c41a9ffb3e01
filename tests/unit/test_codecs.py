"""Counts survive their payloads, and a payload that lies costs an exception, not memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from stream.codecs import check, decode, encode
from stream.frame import Algorithm, Encoding, WireError

ALGORITHMS: tuple[Algorithm, ...] = ("none", "lz4", "bslz4")
DTYPES = ("|u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8", "|i1", "<i2", ">i4", "<f4", "<f8")
FRAMES = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=2, max_dims=2, max_side=70))
)
quiet = settings(derandomize=True, deadline=None, max_examples=150)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def poisson(
    rng: np.random.Generator, shape: tuple[int, int], dtype: str = "<u2", mean: float = 20
) -> np.ndarray:
    return rng.poisson(mean, shape).astype(dtype)


@quiet
@given(FRAMES, st.sampled_from(ALGORITHMS), st.booleans())
def test_every_frame_comes_back_bit_by_bit(counts: np.ndarray, algorithm: Algorithm, into: bool) -> None:
    out = memoryview(bytearray(counts.nbytes + 3)) if into else None
    encoding = Encoding(counts.shape, counts.dtype, algorithm)
    decoded = decode(encode(counts, algorithm), encoding, out)
    assert decoded.dtype == counts.dtype
    assert decoded.shape == counts.shape
    assert decoded.tobytes() == counts.tobytes()
    if out is not None:
        assert out[: counts.nbytes] == counts.tobytes()
        assert np.shares_memory(decoded, np.frombuffer(out, "u1"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(512, 512), (3, 5), (131, 77), (1, 8), (300, 1031)])
def test_bslz4_agrees_with_bitshuffle(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> None:
    bitshuffle = pytest.importorskip("bitshuffle")
    for counts in (
        poisson(rng, shape, dtype),
        np.frombuffer(rng.bytes(poisson(rng, shape, dtype).nbytes), dtype),
    ):
        counts = counts.reshape(shape)
        theirs = (
            struct.pack(">QI", counts.nbytes, 8192) + bitshuffle.compress_lz4(counts.reshape(-1)).tobytes()
        )
        assert decode(theirs, Encoding(shape, counts.dtype, "bslz4")).tobytes() == counts.tobytes()
        ours = np.frombuffer(encode(counts, "bslz4"), "u1")[12:]
        assert bitshuffle.decompress_lz4(ours, shape, counts.dtype).tobytes() == counts.tobytes()


@pytest.mark.parametrize("elements", [128, 1024, 8192, 1 << 20])
def test_any_block_size_is_understood(rng: np.random.Generator, elements: int) -> None:
    bitshuffle = pytest.importorskip("bitshuffle")
    counts = poisson(rng, (257, 300))
    blocks = bitshuffle.compress_lz4(counts.reshape(-1), elements).tobytes()
    payload = struct.pack(">QI", counts.nbytes, elements * 2) + blocks
    assert np.array_equal(decode(payload, Encoding(counts.shape, counts.dtype, "bslz4")), counts)


def test_a_blank_framing_is_understood(rng: np.random.Generator) -> None:
    counts = poisson(rng, (64, 65))
    payload = bytes(12) + encode(counts, "bslz4")[12:]
    assert np.array_equal(decode(payload, Encoding(counts.shape, counts.dtype, "bslz4")), counts)


def test_a_block_as_long_as_its_counts_is_still_a_compressed_block(rng: np.random.Generator) -> None:
    """The lz4 filter stores such a block as it is, bitshuffle never does: taking one for the other is silent."""
    import imagecodecs

    for zeros in range(20, 200):  # find what lz4 neither shrinks nor grows
        block = rng.bytes(8192 - zeros) + bytes(zeros)
        if len(imagecodecs.lz4_encode(block)) == 8192:
            break
    else:
        pytest.fail("no block of 8192 bytes that lz4 makes 8192 bytes of")
    plain = imagecodecs.bitshuffle_decode(block, itemsize=2, blocksize=4096)
    counts = np.frombuffer(plain * 3, "<u2").reshape(96, 128)
    payload = struct.pack(">QI", counts.nbytes, 8192)
    payload += 3 * (struct.pack(">I", 8192) + imagecodecs.lz4_encode(block))
    encoding = Encoding(counts.shape, counts.dtype, "bslz4")
    assert np.array_equal(decode(payload, encoding), counts)
    assert encode(counts, "bslz4") == payload


def test_a_bslz4_payload_is_an_hdf5_chunk(rng: np.random.Generator, tmp_path: Path) -> None:
    counts = poisson(rng, (60, 77))
    with h5py.File(tmp_path / "one.h5", "w") as file:
        data = file.create_dataset(
            "data", (1, *counts.shape), "<u2", chunks=(1, *counts.shape), compression=hdf5plugin.Bitshuffle()
        )
        data.id.write_direct_chunk((0, 0, 0), encode(counts, "bslz4"))
        assert np.array_equal(data[0], counts)
        data[0] = counts + 1  # and the other way round
        _, chunk = data.id.read_direct_chunk((0, 0, 0))
    assert np.array_equal(decode(chunk, Encoding(counts.shape, counts.dtype, "bslz4")), counts + 1)


def test_plain_counts_are_a_view_where_they_can_be() -> None:
    counts = np.arange(12, dtype="<u4").reshape(3, 4)
    shifted = memoryview(b"\0" + counts.tobytes())[1:]
    for payload, expected in ((counts.tobytes(), True), (shifted, False)):
        decoded = decode(payload, Encoding((3, 4), counts.dtype))
        assert np.array_equal(decoded, counts)
        assert decoded.flags.aligned
        assert np.shares_memory(decoded, np.frombuffer(payload, "u1")) is expected


def test_room_that_is_too_small_is_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="room for 3 bytes"):
        decode(bytes(4), Encoding((2, 2), np.dtype("u1")), memoryview(bytearray(3)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_frame_exactly(rng: np.random.Generator, algorithm: Algorithm) -> None:
    counts = poisson(rng, (61, 67))
    payload, encoding = encode(counts, algorithm), Encoding(counts.shape, counts.dtype, algorithm)
    for wrong in (b"", payload[:-1], payload + b"\0", payload[: len(payload) // 2], payload * 2):
        with pytest.raises(WireError):
            decode(wrong, encoding)
    for shape in ((61, 66), (62, 67), (0, 67)):
        with pytest.raises(WireError):
            decode(payload, Encoding(shape, counts.dtype, algorithm))
    with pytest.raises(WireError):
        decode(payload, Encoding(counts.shape, np.dtype("<u4"), algorithm))


@pytest.mark.parametrize("algorithm", ["lz4", "bslz4"])
@pytest.mark.parametrize("said", [2**63, 2**64 - 1, 2**31, 1])
@pytest.mark.parametrize("block", [0, 1, 8192, 2**32 - 16])
def test_a_lying_payload_costs_no_memory(algorithm: Algorithm, said: int, block: int) -> None:
    payload = struct.pack(">QI", said, block) + bytes(100)
    tracemalloc.start()
    try:
        for shape in ((30_000, 30_000), (100, 100)):
            encoding = Encoding(shape, np.dtype("<u2"), algorithm)
            with pytest.raises(WireError):
                decode(payload, encoding)
            with pytest.raises(WireError):
                check(payload, encoding)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_payload_is_an_error_or_a_frame(data: st.DataObject) -> None:
    counts = np.random.default_rng(1).poisson(3, (40, 50)).astype("<u2")
    algorithm = data.draw(st.sampled_from(["lz4", "bslz4"]))
    payload = bytearray(encode(counts, algorithm))
    for _ in range(data.draw(st.integers(1, 5))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    out = bytearray(counts.nbytes + 64)
    out[counts.nbytes :] = b"\xa5" * 64
    try:
        decoded = decode(bytes(payload), Encoding(counts.shape, counts.dtype, algorithm), memoryview(out))
    except WireError:
        pass
    else:
        assert decoded.shape == counts.shape
    assert out[counts.nbytes :] == b"\xa5" * 64  # nothing was written beside the frame


@pytest.mark.data
def test_the_real_frame_agrees_with_bitshuffle() -> None:
    from stream.wire import dectris_v2
    from stream.wire.messages import ImageMessage
    from tests.helpers.data import data_path

    message = dectris_v2.decode_message(data_path("dectris_v2", "image.cbor").read_bytes())
    assert isinstance(message, ImageMessage)
    channel = message.channels["threshold_1"]
    counts = decode(channel.payload, channel.encoding)
    assert counts.shape == (4362, 4148)
    values, pixels = np.unique(counts, return_counts=True)
    assert values[0] == 0
    assert values[-1] == 65535  # what is masked
    assert pixels[-1] / counts.size == pytest.approx(0.0693, abs=1e-3)
    assert pixels[1:-1].sum() < 100  # no beam
    gap = (counts == 65535).all(axis=1)  # the seams between the modules run through
    assert gap.any()
    assert not gap.all()
    bitshuffle = pytest.importorskip("bitshuffle")
    oracle = bitshuffle.decompress_lz4(np.frombuffer(channel.payload, "u1")[12:], counts.shape, counts.dtype)
    assert np.array_equal(counts, oracle)


def test_the_receiving_process_loads_no_compiler_and_no_science() -> None:
    """It must start at once and stay small: numba alone is 60 MiB and a second."""
    asked = (
        "import sys, stream.acquire; print([m for m in ('numba', 'scipy', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
