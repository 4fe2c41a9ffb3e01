"""Shipped engines on real pictures, without tuning, beside a Laplacian of Gaussian tuned on each picture's labels.

`python -m tests.golden.test_engines_real` prints all of it (the Laplacian needs the training extra). With
`--engine PATH_STEM` another engine than the shipped one reads the pictures it can.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stream.config import EngineSettings, parse_settings
from stream.detect import detect_images
from stream.matching import match
from tests.helpers.data import atomid, data_path, first_frame, graphene_path

pytestmark = pytest.mark.data
BOND_NM = (0.10, 0.20)  # nearer or farther atoms are not bound
Box = tuple[tuple[int, int], tuple[int, int]]  # (y, x) of its first pixel, and of its last


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and where people or programs saw columns.

    `kind` (n,) are names of the engine's classes, if told; `doubtful_px`: where what is labelled may be
    no column.
    """

    name: str
    path: Path
    yx_px: np.ndarray
    kind: np.ndarray | None
    doubtful_px: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Agreement:
    """Reports against labels, one to one within half the labels' median nearest distance; rms over both axes.

    A report without a label counts as false within the labels' outermost rows and columns; nobody labelled beyond.
    """

    f1: float
    precision: float
    recall: float
    rms_px: float
    right_class: float

    def __str__(self) -> str:
        told = f"F1 {self.f1:.4f}, precision {self.precision:.4f}, recall {self.recall:.4f}, rms {self.rms_px:.3f} px"
        return (
            told if np.isnan(self.right_class) else f"{told}, of the right sublattice {self.right_class:.4f}"
        )


WSE2 = [(i, detector) for i in (2, 11, 25) for detector in (1, 2)]


def tungsten_diselenide(i: int, detector: int) -> Labelled:
    """Ti-doped WSe2; of the labels' classes 0 is W, 1 Ti in its place, 2 two Se, 3 one of them missing.

    On the second detector, at high angles, W is brighter than two Se, as it always is in training; not on the first.
    """
    name = f"1028_ADF{detector}_{i}.dm4"
    xy = np.load(data_path("wse2_ti", f"1028_{i}_pts.npy"))
    kind = np.load(data_path("wse2_ti", f"1028_{i}_lbs.npy"))
    return Labelled(name, data_path("wse2_ti", name), xy[:, ::-1].astype(np.float64), kind)


def unknown_crystal() -> Labelled:
    """Of its labels some are on the burnt-in scale bar, and some of the half columns at the border have none."""
    path, yx_px = atomid()
    low, high = -1, 1024
    borders = (
        ((low, low), (3, high)),
        ((1020, low), (high, high)),
        ((low, low), (high, 3)),
        ((low, 1020), (high, high)),
    )
    return Labelled("atomid/000", path, yx_px, None, (((896, 50), (972, 212)), *borders))


def found_in(
    path: Path, engine: str, pixel_size_nm: float | Literal["auto"] | None = None
) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """(n, 2) pixels, their classes and the summary: what `hopscope detect` writes for this picture."""
    settings: EngineSettings = parse_settings({"engine": {"name": engine, "device": "cpu"}}, "test").engine
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "columns.csv"
        told = detect_images([path], table, settings, pixel_size_nm, None)
        with table.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    yx_px = np.array([(float(row["y"]), float(row["x"])) for row in rows]).reshape(-1, 2)
    return yx_px, [row["kind"] for row in rows], told


def compared(
    found_px: np.ndarray, labelled: Labelled, kinds: list[str] | None = None, doubtful: bool = True
) -> Agreement:
    """How the reports agree with the labels; without `doubtful` ones, and without reports of none there."""
    apart = np.median(cKDTree(labelled.yx_px).query(labelled.yx_px, k=2)[0][:, 1])
    partner = match(found_px, labelled.yx_px, float(apart) / 2)
    first, last = labelled.yx_px.min(axis=0), labelled.yx_px.max(axis=0)
    counts = (partner >= 0) | ((found_px >= first) & (found_px <= last)).all(axis=1)
    asked = np.ones(len(labelled.yx_px), bool)
    if not doubtful:
        asked = ~_within(labelled.yx_px, labelled.doubtful_px)
        counts &= np.where(partner >= 0, asked[partner], ~_within(found_px, labelled.doubtful_px))
    found_px, partner = found_px[counts], partner[counts]
    hit = partner >= 0
    n = np.count_nonzero(hit)
    error = found_px[hit] - labelled.yx_px[partner[hit]]
    right = float("nan")
    if kinds is not None and labelled.kind is not None:
        right = _same_classes(np.array(kinds)[counts][hit], labelled.kind[partner[hit]])
    return Agreement(
        f1=2 * n / (len(found_px) + np.count_nonzero(asked)),
        precision=n / max(len(found_px), 1),
        recall=n / np.count_nonzero(asked),
        rms_px=float(np.sqrt((error**2).sum(axis=1).mean())) if n else float("nan"),
        right_class=right,
    )


def _within(yx_px: np.ndarray, boxes: tuple[Box, ...]) -> np.ndarray:
    return np.any([((yx_px >= low) & (yx_px <= high)).all(axis=1) for low, high in boxes], axis=0)


def _same_classes(kinds: np.ndarray, labels: np.ndarray) -> float:
    """Share of the reports on the sublattice that the labels say: of the metal, 0 and 1, or the other."""
    return float(np.mean((np.char.find(kinds, "metal") >= 0) == (labels < 2)))


def bonds_nm(yx_px: np.ndarray, pixel_nm: float) -> np.ndarray:
    """Lengths of the bonds between atoms of three neighbours each, whose neighbours have three too: clean, whole sheet.

    Nothing but the number of neighbours between 0.10 and 0.20 nm chooses them.
    """
    bonds = cKDTree(yx_px * pixel_nm).query_pairs(BOND_NM[1], output_type="ndarray")
    length = np.linalg.norm(np.diff(yx_px[bonds], axis=1)[:, 0], axis=1) * pixel_nm
    bonds, length = bonds[length > BOND_NM[0]], length[length > BOND_NM[0]]
    whole = np.bincount(bonds.ravel(), minlength=len(yx_px)) == 3
    inner = whole & (np.bincount(bonds.ravel(), whole[bonds[:, ::-1].ravel()], len(yx_px)) == 3)
    return length[inner[bonds].all(axis=1)]


def graphene(size: Literal["auto"] | None, engine: str = "graphene-hrtem") -> tuple[int, np.ndarray]:
    """How many atoms are found, and the lengths of `bonds_nm` in Å, by the file's pixel size or by its own estimate."""
    path = graphene_path()
    found, _, told = found_in(path, engine, size)
    pixel_nm = first_frame(path)[1] if size is None else told["scales"][str(path)]["pixel_size_nm"]
    return len(found), 10 * bonds_nm(found, pixel_nm)


@pytest.mark.parametrize(("i", "detector"), WSE2)
def test_tungsten_diselenide(i: int, detector: int) -> None:
    """A LoG tuned on these labels reaches 0.992 to 0.9994, and 0.51 to 0.55 px."""
    labelled = tungsten_diselenide(i, detector)
    for size in (None, "auto"):
        found, kinds, _ = found_in(labelled.path, "tmd-stem", size)
        agreement = compared(found, labelled, kinds)
        assert agreement.f1 > 0.998
        assert agreement.rms_px < 0.5
        if detector == 2:
            assert agreement.right_class > 0.94


def test_columns_of_an_unknown_crystal() -> None:
    """A LoG tuned on these labels reaches 0.998, and 0.9995 where they are not doubtful: as if a LoG had made them."""
    labelled = unknown_crystal()
    found, _, _ = found_in(labelled.path, "columns-stem")
    assert compared(found, labelled).f1 > 0.985
    clear = compared(found, labelled, doubtful=False)
    assert clear.f1 > 0.99
    assert clear.recall > 0.998
    assert clear.rms_px < 2.2


@pytest.mark.parametrize("size", [None, "auto"])
def test_graphene(size: Literal["auto"] | None) -> None:
    """002 measured 1.42 ± 0.18 Å on a picture of its own, by hand-tuned steps."""
    _, length_angstrom = graphene(size)
    assert len(length_angstrom) > 1500
    assert abs(length_angstrom.mean() - 1.42) < 0.02
    assert length_angstrom.std() < 0.09


def main() -> None:
    from training.baseline import log_columns  # needs torch, as all of training

    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--engine", help="in place of the shipped one of each kind")
    asked.add_argument("--kind", choices=("tmd", "columns", "graphene"), help="only these pictures")
    options = asked.parse_args()

    def tell(labelled: Labelled, engine: str, size: float | Literal["auto"] | None) -> None:
        found, kinds, summary = found_in(labelled.path, options.engine or engine, size)
        scale = summary.get("scales", {}).get(str(labelled.path), {})
        told = ", ".join(f"{key} {scale[key]:.4g}" for key in ("pixel_size_nm", "spacing_px") if key in scale)
        by = f"{options.engine or engine} ({told or 'scale of the file'})"
        tell_agreement(labelled, by, lambda doubtful: compared(found, labelled, kinds, doubtful))

    def tell_log(labelled: Labelled) -> None:
        reports = list(log_columns(first_frame(labelled.path)[0]))

        def best(doubtful: bool) -> Agreement:
            return max((compared(yx, labelled, None, doubtful) for yx in reports), key=lambda each: each.f1)

        tell_agreement(labelled, "LoG tuned on its labels", best)

    def tell_agreement(labelled: Labelled, by: str, agreement: Callable[[bool], Agreement]) -> None:
        print(f"{labelled.name}, {by}: {agreement(True)}", flush=True)
        if labelled.doubtful_px:
            print(f"{labelled.name}, {by}, without doubtful labels: {agreement(False)}", flush=True)

    if options.kind in (None, "tmd"):
        for labelled in (tungsten_diselenide(*which) for which in WSE2):
            tell_log(labelled)
            tell(labelled, "tmd-stem", None)
            tell(labelled, "tmd-stem", "auto")
            tell(labelled, "columns-stem", None)
    if options.kind in (None, "columns"):
        tell_log(unknown_crystal())
        tell(unknown_crystal(), "columns-stem", None)
    if options.kind in (None, "graphene"):
        for size in (None, "auto"):
            atoms, length = graphene(size, options.engine or "graphene-hrtem")
            print(
                f"graphene, pixel size {size or 'of the file'}: {atoms} atoms, {len(length)} bonds of whole "
                f"neighbourhoods: mean {length.mean():.3f} Å, standard deviation {length.std():.3f} Å"
            )


if __name__ == "__main__":
    main()
