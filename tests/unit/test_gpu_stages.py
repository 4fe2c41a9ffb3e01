"""The card's stages against the CPU's: the kernels' own source compiled for the host, and on a card if there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from engines.build import find_gpu
from stream.codecs import Encoding, WireError, decode, encode
from stream.columns import find_columns
from stream.device import Device
from stream.gpu.columns import DeviceColumns
from stream.gpu.decode import Decoder
from stream.gpu.normalize import BANDS_PER_SIGMA, DeviceNormalizer, DeviceResampler
from stream.normalize import normalize_exact
from stream.peaks import maxima, suppress
from stream.phantom import Phantom
from stream.resample import Resampler
from tests.helpers.host_device import HostDevice


@pytest.fixture(params=["host", "host backwards", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Any:
    if request.param != "gpu":
        yield HostDevice(-1 if "backwards" in request.param else 1)
        return
    if find_gpu() is None:
        pytest.skip("there is no GPU")
    import cupy  # pyright: ignore[reportMissingImports]

    cupy.cuda.set_allocator(None)  # each array by itself: compute-sanitizer sees who steps beyond one
    yield Device(0)
    cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)


def frame(shape_yx: tuple[int, int], dtype: str, seed: int = 0) -> np.ndarray:
    """Counts that compress in every way: flat, noisy, repeating, and all of the range."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(40, shape_yx).astype("f8")
    counts[: shape_yx[0] // 4] = 7
    counts[shape_yx[0] // 2 :, ::3] = counts[shape_yx[0] // 2, 0]
    last = np.s_[-(shape_yx[0] // 8 + 1) :]
    kind = np.dtype(dtype)
    counts = counts.astype(kind)
    if kind.kind in "iu":
        counts[last] = rng.integers(
            np.iinfo(kind).min, np.iinfo(kind).max, counts[last].shape, kind.newbyteorder("="), endpoint=True
        )
    return counts


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", ">u2", "i2", "u4", ">u4", "i4", "f4", ">f4", "f8", "i8"])
@pytest.mark.parametrize("algorithm", ["none", "lz4", "bslz4"])
def test_frames_are_decoded(device: Any, dtype: str, algorithm: Any) -> None:
    for shape_yx in ((64, 96), (61, 87), (1, 5), (3, 7)):
        counts = frame(shape_yx, dtype)
        bad = np.random.default_rng(1).random(shape_yx) < 0.1
        encoding = Encoding(shape_yx, counts.dtype, algorithm)
        out = device.empty(shape_yx, "f4")
        decoder, failed = Decoder(device, shape_yx, counts.dtype), device.zeros(1, "i4")
        for seed in range(3):  # the buffers take turns
            counts = frame(shape_yx, dtype, seed)
            decoder(encode(counts, algorithm), encoding, out, failed)
            np.testing.assert_array_equal(device.get(out), counts.astype("f4"))
        Decoder(device, shape_yx, counts.dtype, bad)(encode(counts, algorithm), encoding, out, failed)
        np.testing.assert_array_equal(device.get(out), np.where(bad, np.nan, counts.astype("f4")))
        assert not device.get(failed).any()


def test_a_large_frame_of_many_blocks_is_decoded(device: Any) -> None:
    counts = Phantom(seed=5, shape_px=512, frames=1).render(0)
    out = device.empty(counts.shape, "f4")
    Decoder(device, counts.shape, counts.dtype)(
        encode(counts, "bslz4"), Encoding(counts.shape, counts.dtype, "bslz4"), out, device.zeros(1, "i4")
    )
    np.testing.assert_array_equal(device.get(out), counts)


def test_payloads_that_lie_are_refused_as_on_the_cpu(device: Any) -> None:
    """Bytes changed at random: the same counts, or a refusal where the CPU refuses; never a wild write."""
    shape_yx = (48, 100)
    counts = frame(shape_yx, "u2")
    encoding = Encoding(shape_yx, counts.dtype, "bslz4")
    payload = encode(counts, "bslz4")
    rng = np.random.default_rng(4)
    outcomes = []
    out = device.empty(shape_yx, "f4")
    decoder, failed = Decoder(device, shape_yx, counts.dtype), device.zeros(1, "i4")
    for _ in range(400):
        broken = bytearray(payload)
        for at in rng.integers(0, len(payload), rng.integers(1, 4)):
            broken[at] = rng.integers(256)
        if rng.random() < 0.2:
            broken = broken[: rng.integers(len(payload))]
        try:
            wanted: np.ndarray | None = decode(bytes(broken), encoding)
        except WireError:
            wanted = None
        device.fill(failed, 0)
        try:
            decoder(bytes(broken), encoding, out, failed)
            refused = bool(device.get(failed)[0])
        except WireError:
            refused = True
        assert refused == (wanted is None)
        if wanted is not None:
            np.testing.assert_array_equal(device.get(out), wanted)
        outcomes.append(wanted is None)
    assert 50 < sum(outcomes) < 350


@pytest.mark.parametrize(("from_nm", "to_nm"), [(0.01, 0.02), (0.006, 0.02), (0.035, 0.02), (0.0199, 0.02)])
def test_images_are_resampled(device: Any, from_nm: float, to_nm: float) -> None:
    images = np.stack([frame((150, 171), "u2", seed) for seed in range(2)])
    resampler = Resampler(images.shape[1:], from_nm, to_nm)
    bad = np.zeros(images.shape[1:], bool)
    bad[40:60, 30:33] = bad[3, 5] = True
    out = device.empty((2, *resampler.shape_yx), "f4")
    DeviceResampler(device, resampler)(device.put(np.where(bad, np.nan, images).astype("f4")), out)
    wanted = np.stack([resampler(image, bad) for image in images])
    scale = np.nanmax(np.abs(wanted))
    np.testing.assert_allclose(device.get(out) / scale, wanted / scale, atol=3e-6)


@pytest.mark.parametrize(
    ("shape_yx", "sigma_px"),
    [
        ((256, 256), 50.0),
        ((257, 200), 30.0),
        ((128, 150), 20.0),
        ((64, 64), 50.0),
        ((9, 150), 30.0),
        ((90, 75), 6.0),
        ((90, 75), 4.0),
        ((60, 75), 1.5),
    ],
)
def test_images_are_normalized_as_the_reference_does(
    device: Any, shape_yx: tuple[int, int], sigma_px: float
) -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]]
    level = 200 * (
        1 + 0.3 * np.cos(y / 1.7) * np.cos(x / 1.6) + 0.7 * (y > 0.4 * shape_yx[0]) + x / shape_yx[1]
    )
    images = np.stack([rng.poisson(level).astype("f4"), rng.poisson(3 * level).astype("f4")])
    images[1, 2:8, 40:44] = np.nan
    images[1, 5, 5] = np.inf
    ny, nx = shape_yx
    out = device.zeros((2, 1, ny + 7, nx + 3), "f4")
    normalizer = DeviceNormalizer(device, shape_yx, sigma_px, most=3)
    normalizer(device.put(images), out)
    got = device.get(out)
    wanted = np.stack([normalize_exact(image, sigma_px) for image in images])
    difference = np.abs(got[:, 0, :ny, :nx] - wanted)
    of_one_row = sigma_px < 2 * BANDS_PER_SIGMA
    assert difference.mean() < (5e-6 if of_one_row else 1e-4)
    assert difference.max() < (1e-4 if of_one_row else 1e-3)
    assert (got[:, 0, ny:] == 0).all()
    assert (got[:, 0, :, nx:] == 0).all()
    assert (got[1, 0, 2:8, 40:44] == 0).all()
    alone = device.zeros((1, 1, ny, nx), "f4")
    normalizer(device.put(images[1:]), alone)
    np.testing.assert_allclose(device.get(alone)[0, 0], got[1, 0, :ny, :nx], atol=2e-5)


def test_stacks_share_their_mean_and_deviation(device: Any) -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:40, :53]
    level = 100 * (1 + 0.5 * np.cos(y / 1.7) + x / 53)
    stacks = np.stack([[rng.poisson(k * level) for k in (1, 2, 4)], [rng.poisson(level) for _ in range(3)]])
    stacks = stacks.astype("f4")
    stacks[0, :, 10:13] = np.nan  # bad in all,
    stacks[0, 1, 20:24, 7] = stacks[1, 2, 3, 3] = np.inf  # and in one
    out = device.empty((2, 3, 44, 56), "f4")
    device.fill(out, 7)
    DeviceNormalizer(device, (40, 53), 6.0, most=2, channels=3)(device.put(stacks.reshape(6, 40, 53)), out)
    got = device.get(out)
    for stack, normalized in zip(stacks, got, strict=True):
        np.testing.assert_allclose(normalized[:, :40, :53], normalize_exact(stack, 6.0), atol=1e-4)
    assert (got[:, :, 40:] == 7).all()
    assert (got[:, :, :, 53:] == 7).all()


def test_phantom_frames_are_normalized_as_the_reference_does(device: Any) -> None:
    counts = Phantom(seed=5, shape_px=512, frames=1).render(0)
    out = device.empty((1, 1, *counts.shape), "f4")
    DeviceNormalizer(device, counts.shape, 50.0)(device.put(counts[None].astype("f4")), out)
    assert np.abs(device.get(out)[0, 0] - normalize_exact(counts, 50.0)).mean() < 1e-4


@pytest.mark.parametrize("value", [0.0, 30000.0, np.nan])
def test_a_flat_image_becomes_zeros(device: Any, value: float) -> None:
    images = np.full((1, 100, 75), value, "f4")
    out = device.empty((1, 1, 100, 75), "f4")
    DeviceNormalizer(device, (100, 75), 8.0)(device.put(images), out)
    assert (device.get(out) == 0).all()


def test_the_shadow_of_a_beam_stop_becomes_zeros(device: Any) -> None:
    images = np.random.default_rng(0).poisson(50, (1, 90, 200)).astype("f4")
    images[..., :120] = 0
    out = device.empty(images[:, None].shape, "f4")
    DeviceNormalizer(device, images.shape[1:], 10.0)(device.put(images), out)
    got = device.get(out)[0, 0]
    assert (got[:, :50] == 0).all()
    assert 0.9 < got[:, 150:].std() < 1.1


def as_maps(*foregrounds: np.ndarray) -> np.ndarray:
    return np.stack([1 - np.sum(foregrounds, axis=0), *foregrounds]).astype(np.float32)


def hard_maps(kind: str, seed: int) -> np.ndarray:
    """Maps whose maxima are hard to agree on."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.random((90, 110)), 1.2)
    p = (noise - noise.min()) / np.ptp(noise)
    if kind == "coarse":  # plateaus of every form
        p = np.round(p * 12) / 12
    elif kind == "very coarse":
        p = np.round(p * 3) / 3
    elif kind == "flat":
        p = np.full_like(p, 0.9)
    elif kind == "saturated":
        p = (3 * p - 1).clip(0, 1)
    elif kind == "holes":
        p[rng.random(p.shape) < 0.05] = np.nan
    elif kind == "three":
        q = gaussian_filter(rng.random(p.shape), 1.0)
        return as_maps(0.5 * p, 0.5 * (q - q.min()) / np.ptp(q))
    elif kind == "tall":
        return as_maps(p[:, :1])
    elif kind == "spiral":  # one long plateau, to be joined from many ends
        p = np.full_like(p, 0.2)
        p[4:80:4] = 0.8
        p[4:80:8, -1] = p[8:80:8, 0] = 0.8
        p[4:77, 0], p[4:77, -1] = p[4:77, 0], p[4:77, -1]
        for row in range(4, 76, 4):
            p[row : row + 5, 0 if row % 8 else -1] = 0.8
    return as_maps(p)


KINDS = ("smooth", "coarse", "very coarse", "flat", "saturated", "holes", "three", "tall", "spiral")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", [0.0, 2.5, 6.0])
def test_the_same_columns_are_found(device: Any, kind: str, distance: float) -> None:
    stack = np.stack([hard_maps(kind, seed) for seed in range(2)])
    finder = DeviceColumns(device, stack.shape[1:], 0.3, distance, most_images=2)
    for _ in range(2):  # nothing is left of the batch before
        finder.start(device.put(stack))
        for rows, maps in zip(finder.fetch(2), stack, strict=True):
            peaks, kinds = maxima(maps, np.float32(0.3))
            if distance > 0 and len(peaks) > 1:
                kept = suppress(peaks, np.argsort(-peaks[:, 3], kind="stable"), distance)
                peaks, kinds = peaks[kept], kinds[kept]
            assert len(rows) == len(peaks) > 0
            np.testing.assert_allclose(rows[:, :2], peaks[:, :2], atol=1e-4)
            np.testing.assert_allclose(rows[:, 2], peaks[:, 2], rtol=1e-3, equal_nan=True)
            np.testing.assert_array_equal(rows[:, 3], peaks[:, 3].astype("f4"))
            np.testing.assert_array_equal(rows[:, 4], kinds)


def test_more_columns_than_are_fetched_at_once(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.gpu.columns.AT_ONCE", 10)
    maps = hard_maps("smooth", 3)
    finder = DeviceColumns(device, maps.shape, 0.3, 0.0)
    finder.start(device.put(maps[None]))
    (rows,) = finder.fetch(1)
    wanted = find_columns(maps, 1, 0.3)
    assert len(rows) == len(wanted) > 100
    np.testing.assert_allclose(rows[:, :2], wanted.yx_px, atol=1e-4)


def test_no_column_is_no_rows(device: Any) -> None:
    maps = as_maps(np.zeros((20, 30)))
    finder = DeviceColumns(device, maps.shape, 0.5, 2.0)
    finder.start(device.put(maps[None]))
    assert finder.fetch(1)[0].shape == (0, 6)
    finder.start(device.put(np.full((1, 2, 20, 30), np.nan, "f4")))
    assert len(finder.fetch(1)[0]) == 0


def test_more_rows_come_back_at_once_where_there_were_more(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for afterwards waits for the next batch, and only the first such image may."""
    monkeypatch.setattr("stream.gpu.columns.AT_ONCE", 8)
    p = np.zeros((40, 60))
    p[2:38:4, 2:58:4] = 0.9  # 9 x 14 of them
    maps = as_maps(p)
    finder = DeviceColumns(device, maps.shape, 0.5, 2.0)
    asked: list[int] = []
    get = type(device).get
    monkeypatch.setattr(type(device), "get", lambda self, array: (asked.append(1), get(self, array))[1])
    for _ in range(3):
        finder.start(device.put(maps[None]))
        assert len(finder.fetch(1)[0]) == 126
    assert len(asked) == 1


def test_a_chain_longer_than_the_rounds_is_followed_to_its_end(device: Any) -> None:
    """Each peak a little better than the last and too near to it: every second one stays, counted from the best."""
    p = np.zeros((5, 200))
    p[2, 2:198:3] = np.linspace(0.5, 0.9, 66)
    maps = as_maps(p)
    finder = DeviceColumns(device, maps.shape, 0.3, 4.0)
    finder.start(device.put(maps[None]))
    wanted = find_columns(maps, 1, 0.3, 4.0)
    np.testing.assert_allclose(finder.fetch(1)[0][:, :2], wanted.yx_px, atol=1e-4)
    assert len(wanted) == 33
