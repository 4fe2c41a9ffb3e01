"""Pictures without a calibration: brought to an engine's scale by their lattice, whatever scales the engine."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest

from engines.manifest import EngineMismatch, Manifest
from stream.calibrate import measure_scale
from stream.config import Camera, EngineSettings, Settings
from stream.detect import detect_images
from stream.doctor import examine
from stream.frame import CalibrationError
from stream.infer import own_pixel_size_nm
from stream.offline import analyse_recording
from stream.scale import Scale
from stream.spacing import Spacing
from tests.helpers.lattices import GRAPHENE, SQUARE, columns, counted
from tests.helpers.tiny_engine import make_tiny_engine

SPACED = {"nominal_spacing_px": 12.5, "spacing_px_range": (10.0, 15.0)}
HEXAGONS = (((1.0, 0.0), (0.5, 0.75**0.5)), ((0.0, 0.0, 1.0),))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """Scaled by spacing."""
    return make_tiny_engine(tmp_path, **SPACED).with_suffix(".onnx")


def picture(path: Path, net=SQUARE, spacing_px: float = 19.0, frames: int = 1) -> Path:
    image = 50 + 3000 * columns(net, spacing_px, width=0.16)
    stack = np.stack([counted(image, 1, seed) for seed in range(frames)])
    np.save(path, stack)
    return path


@pytest.mark.parametrize("spacing_px", [9.0, 12.0, 19.0])
def test_an_engine_scaled_by_spacing_sees_every_magnification(
    tmp_path: Path, engine: Path, spacing_px: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hopscope.calibrate")
    image = picture(tmp_path / "a.npy", spacing_px=spacing_px)
    summary = detect_images([image], tmp_path / "out.csv", EngineSettings(name=str(engine)), None, None)
    assert "nearest bright columns" in caplog.text
    assert summary["scales"][str(image)]["spacing_px"] == pytest.approx(spacing_px, rel=0.02)
    assert summary["columns"] == pytest.approx((300 / spacing_px) ** 2, rel=0.12)
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        told = {float(row["spacing_px"]) for row in csv.DictReader(file)}
    assert list(told) == pytest.approx([summary["scales"][str(image)]["spacing_px"]], rel=1e-5)


def test_a_spacing_that_is_given_is_not_measured(tmp_path: Path, engine: Path) -> None:
    image = picture(tmp_path / "a.npy")
    given = detect_images([image], tmp_path / "given.csv", EngineSettings(name=str(engine)), None, 19.0)
    measured = detect_images(
        [image], tmp_path / "measured.csv", EngineSettings(name=str(engine)), "auto", None
    )
    assert given["columns"] == pytest.approx(measured["columns"], abs=4)
    assert "scales" not in given


def test_what_does_not_scale_an_engine_is_refused(tmp_path: Path, engine: Path) -> None:
    image = picture(tmp_path / "a.npy")
    with pytest.raises(EngineMismatch, match=r"scaled by the spacing of columns.*--spacing-px"):
        detect_images([image], tmp_path / "no.csv", EngineSettings(name=str(engine)), 0.02, None)
    with pytest.raises(EngineMismatch, match="too near for the engine: tiny reads columns 10 to 15 px"):
        detect_images([image], tmp_path / "no.csv", EngineSettings(name=str(engine)), None, 4.9)
    (tmp_path / "nm").mkdir()
    by_nm = make_tiny_engine(tmp_path / "nm").with_suffix(".onnx")
    with pytest.raises(EngineMismatch, match="scaled by the pixel size"):
        detect_images([image], tmp_path / "no.csv", EngineSettings(name=str(by_nm)), 0.02, 12.0)
    assert not (tmp_path / "no.csv").exists()


def test_own_nanometres_put_columns_where_training_had_them(tmp_path: Path) -> None:
    manifest = Manifest.load(make_tiny_engine(tmp_path, **SPACED))
    assert own_pixel_size_nm(manifest, 0.123, 12.5) == pytest.approx(0.02)
    assert own_pixel_size_nm(manifest, None, 25.0) == pytest.approx(0.01)
    assert manifest.reads_nm_px == pytest.approx((0.02 * 12.5 / 15, 0.02 * 12.5 / 10))
    with pytest.raises(CalibrationError, match=r"camera\.spacing_px in site\.toml"):
        own_pixel_size_nm(manifest, 0.02, None)
    with pytest.raises(CalibrationError, match="impossible spacing"):
        own_pixel_size_nm(manifest, 0.02, float("nan"))


def settings_for(engine: Path, **camera: object) -> Settings:
    facts = {"camera": {"frame_period_s": 0.1, **camera}, "engine": {"name": str(engine)}}
    return Settings.model_validate(facts)


def test_a_recording_is_replayed_by_the_spacing_in_it(tmp_path: Path, engine: Path) -> None:
    movie = picture(tmp_path / "m.npy", frames=3)
    summary = analyse_recording(movie, tmp_path / "r.h5", settings_for(engine, pixel_size_nm=0.013))
    assert summary["scale"]["spacing_px"] == pytest.approx(19, rel=0.02)
    assert summary["columns"] == pytest.approx((300 / 19) ** 2, rel=0.1)
    shown: list[tuple[str, int, int]] = []
    told = analyse_recording(
        movie,
        tmp_path / "t.h5",
        settings_for(engine, pixel_size_nm=0.013, spacing_px=19.0),
        on_frame=lambda *row: shown.append(row),
    )
    assert "scale" not in told
    frames = [("analysed", k, 3) for k in (1, 2, 3)] + [("looked at again", k, 3) for k in (1, 2, 3)]
    assert shown == [*frames, ("rates and events", 3, 3)]
    with pytest.raises(CalibrationError, match="hops need nm: give --pixel-size-nm"):
        analyse_recording(movie, tmp_path / "n.h5", settings_for(engine, pixel_size_nm="auto"))
    with pytest.raises(CalibrationError, match="pixel_size_nm"):
        analyse_recording(movie, tmp_path / "n.h5", settings_for(engine))


def test_a_recording_without_a_pixel_size_is_replayed_by_the_lattice_in_it(tmp_path: Path) -> None:
    manifest = make_tiny_engine(tmp_path, zone_axes=(GRAPHENE,))
    movie = picture(tmp_path / "m.npy", HEXAGONS, 0.2131 / 0.75**0.5 / 0.018, frames=2)
    summary = analyse_recording(
        movie, tmp_path / "r.h5", settings_for(manifest.with_suffix(".onnx"), pixel_size_nm="auto")
    )
    assert summary["scale"]["pixel_size_nm"] == pytest.approx(0.018, rel=0.01)
    assert isinstance(measure_scale(movie, Manifest.load(manifest)), Scale)


def test_what_cannot_be_measured_names_the_file(tmp_path: Path, engine: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).poisson(9, (128, 128)).astype(np.uint16))
    manifest = Manifest.load(engine.with_suffix(".toml"))
    with pytest.raises(CalibrationError, match=r"noise\.npy: the spacing of the columns cannot be estimated"):
        measure_scale(tmp_path / "noise.npy", manifest)
    assert isinstance(measure_scale(picture(tmp_path / "a.npy"), manifest), Spacing)


def test_the_doctor_knows_that_a_live_session_cannot_measure_its_scale(engine: Path) -> None:
    auto = Settings(camera=Camera(pixel_size_nm="auto"), engine=EngineSettings(name=str(engine)))
    found = {one.check: one for one in examine(auto)}
    assert found["pixel size"].verdict == "fault"
    assert "recordings only" in found["pixel size"].text
    assert found["engine"].verdict == "fault"
    assert "camera.spacing_px" in found["engine"].text
    known = Settings(
        camera=Camera(pixel_size_nm=0.02, spacing_px=12.0), engine=EngineSettings(name=str(engine))
    )
    found = {one.check: one for one in examine(known)}
    assert (found["pixel size"].verdict, found["engine"].verdict) == ("ok", "ok")
    assert "10.0 to 15.0 px between columns" in found["engine"].text
