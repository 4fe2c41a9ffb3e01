"""The manifest: written and read back equal, and nothing unknown, missing or impossible gets in."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.manifest import EngineMismatch, Manifest, ZoneAxis
from tests.helpers.tiny_engine import make_tiny_engine


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def test_saved_and_loaded_again_it_is_the_same(tmp_path: Path) -> None:
    path = make_tiny_engine(
        tmp_path,
        description='é, 10 e/Å², "quoted" \\ back\nnew line \x7f',
        classes=("background", "Mo", "S₂"),
        golden_tolerance=1e-20,
        metrics={"f1 at 310": 0.987, "rms_pm": 6e22},
        zone_axes=(
            ZoneAxis(name='"graphene"', spacings_nm=(0.213, 0.213), angle_deg=60),
            ZoneAxis(
                name="beside",
                spacings_nm=(0.3, 0.2),
                angle_deg=81.5,
                columns=False,
                constant_range=(0.94, 1.06),
            ),
        ),
    )
    manifest = Manifest.load(path)
    manifest.save(tmp_path / "again.toml")
    assert Manifest.load(tmp_path / "again.toml") == manifest
    assert manifest.description == 'é, 10 e/Å², "quoted" \\ back\nnew line \x7f'
    assert manifest.classes == ("background", "Mo", "S₂")
    assert [axis.columns for axis in manifest.zone_axes] == [True, False]
    assert manifest.zone_axes[0].name == '"graphene"'
    assert manifest.metrics == {"f1 at 310": 0.987, "rms_pm": 6e22}


def test_an_unknown_key_is_refused_and_the_nearest_named(tmp_path: Path) -> None:
    path = edited(make_tiny_engine(tmp_path), "threshold =", "treshold =")
    with pytest.raises(EngineMismatch, match=r"unknown key 'treshold', the nearest known is 'threshold'"):
        Manifest.load(path)


@pytest.mark.parametrize(
    ("axis", "names"),
    [
        ('{nmae = "a", spacings_nm = [0.2, 0.2], angle_deg = 60.0}', "nearest known is 'name'"),
        ('{name = "a", spacings_nm = [0.2], angle_deg = 60.0}', "spacings_nm"),
        ('{name = "a", spacings_nm = [0.2, 0.0], angle_deg = 60.0}', "spacings_nm"),
        ('{name = "a", spacings_nm = [0.2, inf], angle_deg = 60.0}', "spacings_nm"),
        ('{name = "a", spacings_nm = [0.2, 0.2], angle_deg = 180.0}', "angle_deg"),
        ('{name = "a", spacings_nm = [0.2, 0.2]}', "angle_deg"),
        (
            '{name = "a", spacings_nm = [0.2, 0.2], angle_deg = 60.0, constant_range = [1.02, 1.1]}',
            "must hold 1",
        ),
        (
            '{name = "a", spacings_nm = [0.2, 0.2], angle_deg = 60.0, constant_range = [1.1, 0.9]}',
            "must hold 1",
        ),
        (
            '{name = "a", spacings_nm = [0.2, 0.2], angle_deg = 60.0, constant_range = [0.5, 1.5]}',
            "measures nothing",
        ),
    ],
)
def test_an_impossible_lattice_is_refused_and_named(tmp_path: Path, axis: str, names: str) -> None:
    path = edited(make_tiny_engine(tmp_path), "zone_axes = []", f"zone_axes = [{axis}]")
    with pytest.raises(EngineMismatch, match=names):
        Manifest.load(path)


def test_an_engine_that_is_scaled_by_spacing_says_so_and_is_read_back(tmp_path: Path) -> None:
    path = make_tiny_engine(tmp_path, nominal_spacing_px=12.0, spacing_px_range=(9.0, 16.0))
    manifest = Manifest.load(path)
    assert (manifest.nominal_spacing_px, manifest.spacing_px_range) == (12.0, (9.0, 16.0))
    manifest.save(tmp_path / "again.toml")
    assert Manifest.load(tmp_path / "again.toml") == manifest
    assert Manifest.load(make_tiny_engine(tmp_path)).nominal_spacing_px is None


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("nominal_spacing_px = 12.0", "belong together"),
        ("spacing_px_range = [9.0, 16.0]", "belong together"),
        ("nominal_spacing_px = 8.0\nspacing_px_range = [9.0, 16.0]", "outside spacing_px_range"),
        ("nominal_spacing_px = 12.0\nspacing_px_range = [16.0, 9.0]", "outside spacing_px_range"),
        ("nominal_spacing_px = 1.5\nspacing_px_range = [1.0, 2.0]", "nearer than 2 px"),
        ("nominal_spacing_px = 0.0\nspacing_px_range = [0.0, 2.0]", "nominal_spacing_px"),
        ("nominal_spacing_px = 12.0\nspacing_px_range = [9.0, nan]", "spacing_px_range"),
    ],
)
def test_an_impossible_spacing_is_refused_and_named(tmp_path: Path, lines: str, names: str) -> None:
    path = edited(make_tiny_engine(tmp_path), "zone_axes = []", lines)
    with pytest.raises(EngineMismatch, match=names):
        Manifest.load(path)


def test_an_engine_has_one_ruler(tmp_path: Path) -> None:
    axis = ZoneAxis(name="graphene", spacings_nm=(0.2131, 0.2131), angle_deg=60)
    path = make_tiny_engine(tmp_path, zone_axes=(axis,))
    path = edited(path, "stride = 2", "stride = 2\nnominal_spacing_px = 12.0\nspacing_px_range = [9.0, 16.0]")
    with pytest.raises(EngineMismatch, match="not both"):
        Manifest.load(path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = edited(make_tiny_engine(tmp_path), "stride = 2\n", "")
    with pytest.raises(EngineMismatch, match="'stride' is missing"):
        Manifest.load(path)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("stride = 2", "stride = 0", "stride"),
        ("stride = 2", 'stride = "two"', "stride"),
        ("multiple_of = 8", "multiple_of = 7", "multiple_of 7 is not a multiple of stride 2"),
        ("nominal_nm_px = 0.02\n", "nominal_nm_px = nan\n", "nominal_nm_px"),
        ("nominal_nm_px = 0.02\n", "nominal_nm_px = 0.2\n", "outside sampling_nm_px"),
        ("[0.018, 0.022]", "[0.022, 0.018]", "outside sampling_nm_px"),
        ("[0.018, 0.022]", "[0.018]", "sampling_nm_px"),
        ("threshold = 0.5", "threshold = 1.5", "threshold"),
        ('classes = ["background", "column"]', 'classes = ["background"]', "classes"),
        ('precision = "fp32"', 'precision = "fp31"', "precision"),
        ('onnx = "tiny.onnx"', 'onnx = "../tiny.onnx"', "onnx"),
        ('sha256 = "', 'sha256 = "F', "sha256"),
        ("stride = 2", "stride = 2 2", "should be TOML"),
    ],
)
def test_impossible_values_are_refused_and_named(tmp_path: Path, old: str, new: str, names: str) -> None:
    path = edited(make_tiny_engine(tmp_path), old, new)
    with pytest.raises(EngineMismatch, match=names) as refused:
        Manifest.load(path)
    assert str(path) in str(refused.value)


def test_a_manifest_cannot_be_changed(tmp_path: Path) -> None:
    manifest = Manifest.load(make_tiny_engine(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        manifest.stride = 4  # type: ignore[misc]
