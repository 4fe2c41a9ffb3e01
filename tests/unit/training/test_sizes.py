# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""Networks compared: trained alike, on the same field of view."""

import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

from tests.helpers.tiny_recipe import write_recipe
from training import sizes
from training.networks import build_network
from training.recipe import RECIPES, load_recipe
from training.sizes import variant


def test_another_sampling_shows_the_same_field_of_view():
    recipe = load_recipe(RECIPES / "au-on-oxide.toml")
    coarse = variant(recipe, "fn16_s2", 0.03, steps=7, specimens=11)
    for ours, theirs in (
        (recipe.specimen, coarse.specimen),
        (recipe.validation_specimen, coarse.validation_specimen),
    ):
        assert theirs.sampling_angstrom_px == pytest.approx([1.5 * x for x in ours.sampling_angstrom_px])
        assert theirs.side_px * 1.5 == pytest.approx(ours.side_px, abs=12)
    assert coarse.data.crop_px * 1.5 == pytest.approx(recipe.data.crop_px, abs=12)
    assert coarse.engine.nominal_nm_px == 0.03
    assert (coarse.train.network, coarse.train.steps, coarse.data.training) == ("fn16_s2", 7, 11)
    same = variant(recipe, recipe.train.network, recipe.engine.nominal_nm_px, 7, 11)
    assert same.specimen == recipe.specimen  # and so the same exit waves
    assert same.data.crop_px == recipe.data.crop_px


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["sizes", *map(str, arguments)])
    sizes.main()


def test_a_table_says_of_each_how_right_and_how_fast_it_is(cache, tmp_path, monkeypatch):
    wanted = (
        write_recipe(tmp_path),
        tmp_path / "out",
        "slim16_s2",
        "fn16_s2",
        "--steps",
        2,
        "--specimens",
        2,
    )
    run(monkeypatch, *wanted, "--cache", cache, "--workers", 0, "--device", "cpu")
    table = (tmp_path / "out/sizes.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "_s2" in line]
    rows.sort(key=lambda row: row[0], reverse=True)
    assert [row[:2] for row in rows] == [["slim16_s2", "0.02"], ["fn16_s2", "0.02"]]
    weights, ms = ([float(row[k].replace(",", "")) for row in rows] for k in (2, 3))
    assert weights[0] == sum(p.numel() for p in build_network("slim16_s2").parameters())
    assert min(ms) > 0
    assert all(0 <= float(cell) <= 1 for row in rows for cell in row[4:6])


def test_a_network_that_is_none_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no network 'slim17_s2': expected slim16_s2"):
        run(monkeypatch, write_recipe(tmp_path), tmp_path / "out", "slim17_s2")
    assert not (tmp_path / "out").exists()
