"""Stacks of two images in use: an engine that finds what is bright in the first and not in the second."""

from __future__ import annotations

import csv
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engines.manifest import EngineMismatch
from engines.runtime import open_engine
from stream.bench import bench
from stream.bench_device import bench_device
from stream.config import EngineSettings, Settings
from stream.detect import detect_images
from stream.doctor import examine
from stream.find import OnCards, OnCpu, OpenCard, find_all, open_where
from stream.frame import Encoding, Frame, Gap, SeriesEnd, SeriesHeader
from stream.infer import ColumnFinder
from stream.normalize import normalize_exact
from stream.offline import analyse_recording
from stream.record import Recorder
from tests.helpers.host_device import HostDevice
from tests.helpers.tiny_engine import make_tiny_engine

SHAPE = (125, 131)  # which must be padded
NM_PX = 0.02


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    (tmp_path / "engine").mkdir()
    return make_tiny_engine(tmp_path / "engine", channels=2)


def stack(
    seed: int, shape: tuple[int, int] = SHAPE, spacing_px: float = 14.0
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (2, ny, nx) u2 of a lattice, bright in the first image and dark in the second; the columns (n, 2)."""
    at = [np.arange(spacing_px * 0.7 + seed, n - spacing_px / 2, spacing_px) for n in shape]
    y, x = np.ogrid[: shape[0], : shape[1]]
    along = [
        np.exp(-((grid[..., None] - each) ** 2) / 2 / (spacing_px / 6) ** 2).sum(-1)
        for grid, each in zip((y, x), at, strict=True)
    ]
    blobs = along[0] * along[1]
    pair = np.stack([400 + 2000 * blobs, 400 - 300 * blobs])
    counts = np.random.default_rng(seed).poisson(pair).astype(np.uint16)
    return counts, np.stack(np.meshgrid(*at, indexing="ij"), -1).reshape(-1, 2)


def near(found_yx: np.ndarray, true_yx: np.ndarray, within_px: float = 1.5) -> bool:
    """Whether they are the same columns."""
    distance, partner = cKDTree(true_yx).query(found_yx)
    return len(found_yx) == len(true_yx) == len(set(partner)) and distance.max() < within_px


@pytest.mark.parametrize(("zoom", "seen"), [(1, SHAPE), (2, SHAPE)])
def test_the_columns_of_a_stack_are_found_together(engine: Path, zoom: int, seen: tuple[int, int]) -> None:
    shape = (zoom * SHAPE[0], zoom * SHAPE[1])
    counts, truth = stack(1, shape, 14.0 * zoom)
    with open_engine(engine, threads=1) as opened:
        finder = ColumnFinder(opened, shape, NM_PX / zoom)
        columns, images = finder.find(counts)
        assert near(columns.yx_px, truth, 1.5 * zoom)
        assert images.shape == (2, *seen)
        if zoom == 1:
            assert np.abs(images - normalize_exact(counts, 50.0)).mean() < 1e-3
        assert len(finder.find(counts[::-1])[0]) == 0  # the order of the images is the engine's
        for wrong in (counts[0], counts[:1], np.concatenate([counts, counts])):
            with pytest.raises(
                ValueError, match=r"another shape: expected 2 of \(\d+, \d+\) for engine tiny"
            ):
                finder.find(wrong)


def test_cards_find_what_the_cpu_finds_stack_by_stack(engine: Path) -> None:
    counts = np.concatenate([stack(seed)[0] for seed in range(5)])
    found = {}
    for where in (
        OnCpu(open_engine(engine, threads=1), "a test"),
        OnCards([lambda: OpenCard(HostDevice(), open_engine(engine, threads=1))] * 2, "cuda:0", "a test"),
    ):
        released: list[int] = []
        with closing(where):
            where.begin(SeriesHeader(1, SHAPE, np.dtype("u2")), NM_PX)
            assert where.most % 2 == 0
            frames = (frame(i, image, released) for i, image in enumerate(counts))
            found[where.on_cards] = [
                (first.index, seen.columns, np.array(seen.image))
                for first, seen in find_all(where, frames)
                if seen
            ]
        assert released == list(range(10))
    for (index, columns, images), (wanted, expected, pictures) in zip(found[True], found[False], strict=True):
        assert index == wanted
        assert near(columns.yx_px, expected.yx_px, 0.1)
        assert len(columns) == len(stack(wanted // 2)[1])
        assert images.shape == pictures.shape == (2, *SHAPE)
        assert np.abs(images - pictures).mean() < 1e-3


def frame(index: int, counts: np.ndarray, released: list[int]) -> Frame:
    payload, encoding = memoryview(counts.tobytes()), Encoding(counts.shape, counts.dtype)
    return Frame(1, index, None, 0, payload, encoding, on_release=lambda: released.append(index))


@pytest.mark.parametrize("on_cards", [False, True])
def test_a_stack_with_a_frame_that_cannot_be_decoded_is_none(engine: Path, on_cards: bool) -> None:
    where = OnCpu(open_engine(engine, threads=1), "a test")
    if on_cards:
        openers = [lambda: OpenCard(HostDevice(), open_engine(engine, threads=1))]
        where = OnCards(openers, "cuda:0", "a test", pictures=False)
    frames = [frame(i, image, []) for i, image in enumerate(np.concatenate([stack(0)[0]] * 3))]
    frames[3].payload = memoryview(b"x")
    with closing(where):
        where.begin(SeriesHeader(1, SHAPE, np.dtype("u2")), NM_PX)
        assert [(f.index, seen is None) for f, seen in find_all(where, frames)] == [
            (0, False), (2, True), (4, False)
        ]  # fmt: skip
        with pytest.raises(ValueError, match="cannot start a batch of 1"):
            list(find_all(where, frames[:1]))


def detected(images: list[Path], out: Path, engine: Path) -> dict[str, object]:
    return detect_images(images, out, EngineSettings(name=str(engine), device="cpu"), NM_PX, None)


def test_detect_takes_a_file_stack_by_stack(engine: Path, tmp_path: Path) -> None:
    made = [stack(seed) for seed in range(3)]
    movie = tmp_path / "three.npy"
    np.save(movie, np.concatenate([counts for counts, _ in made]))
    summary = detected([movie], tmp_path / "out.csv", engine)
    assert (summary["frames"], summary["columns"]) == (6, sum(len(truth) for _, truth in made))
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for k, (_, truth) in enumerate(made):
        yx = np.array([(float(row["y"]), float(row["x"])) for row in rows if row["frame"] == str(2 * k)])
        assert near(yx, truth)


def test_a_file_without_whole_stacks_is_refused_by_name(engine: Path, tmp_path: Path) -> None:
    counts = np.concatenate([stack(seed)[0] for seed in range(3)])
    np.save(tmp_path / "five.npy", counts[:5])
    refusal = r"reads stacks of 2 images: expected a multiple of that in .*five\.npy, got 5; write one whole"
    with pytest.raises(EngineMismatch, match=refusal):
        detected([tmp_path / "five.npy"], tmp_path / "out.csv", engine)

    recorder = Recorder(tmp_path / "gap", min_free_mib=0)
    recorder.put(SeriesHeader(1, SHAPE, np.dtype("u2"), frame_period_s=0.1))
    for index in (0, 1, 2, 5):
        if index == 5:
            recorder.put(Gap(1, 3, 2, "wire"))
        recorder.put(frame(index, counts[index], []))
    recorder.put(SeriesEnd(1))
    recorder.close()
    assert recorder.path is not None
    refusal = r"expected whole ones in .*, got none of frames 3 to 4 \(wire\)"
    with pytest.raises(EngineMismatch, match=refusal):
        detected([recorder.path], tmp_path / "out.csv", engine)

    assert list(tmp_path.glob("out.csv*")) == []


def test_what_goes_frame_by_frame_refuses_an_engine_for_stacks(engine: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "movie.npy", stack(0)[0])
    settings = Settings.model_validate(
        {
            "camera": {"pixel_size_nm": NM_PX, "frame_period_s": 0.1},
            "engine": {"name": str(engine), "device": "cpu"},
        }
    )
    refusal = (
        "tiny does not read single images: expected 1 input channel, got a stack of 2; choose another engine"
    )
    with pytest.raises(EngineMismatch, match=refusal):
        analyse_recording(tmp_path / "movie.npy", tmp_path / "r.h5", settings)
    assert not (tmp_path / "r.h5").exists()
    with pytest.raises(EngineMismatch, match=refusal):
        open_where(settings.engine)
    with pytest.raises(EngineMismatch, match=refusal):
        next(bench(str(engine), seconds=0))
    with pytest.raises(EngineMismatch, match=refusal):
        next(bench_device(HostDevice(), None, [str(engine)], [128]))
    (finding,) = (one for one in examine(settings) if one.check == "engine")
    assert finding.verdict == "fault"
    assert "does not read single images" in finding.text
