"""Scales from real pictures alone, against what their files and labels say.

`python -m tests.golden.test_scale_real` prints every estimate beside the truth.
"""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree

from stream.frame import CalibrationError
from stream.scale import Scale, estimate_scale
from stream.spacing import Spacing, estimate_spacing
from tests.helpers.data import atomid, data_path, first_frame, graphene_path
from tests.helpers.lattices import GRAPHENE, MX2, knowing

pytestmark = pytest.mark.data
WSE2 = [f"1028_ADF{detector}_{i}.dm4" for detector in (1, 2) for i in (2, 11, 25)]


def nearest_px(yx_px: np.ndarray) -> float:
    return float(np.median(cKDTree(yx_px).query(yx_px, k=2)[0][:, 1]))


def perovskites() -> Iterator[tuple[str, np.ndarray, float]]:
    """SrTiO3, and how far nearest columns lie apart by the file's pixel size: Sr to Ti in <100>, Ti to O in <110>."""
    with h5py.File(data_path("formats", "Acquisition_18.emd")) as file:
        pixel_nm = float(np.diff(file["data/single/dim1"][:2])[0])  # type: ignore[index]
        yield "SrTiO3 <100> ADF", file["data/single/data"][()], 0.3905 / np.sqrt(2) / pixel_nm  # type: ignore[index]
    with h5py.File(data_path("formats", "stem_abf_data_imagestack.hspy")) as file:
        stack = file["Experiments/004_ABF_movie_21"]
        pixel_nm = float(stack["axis-1"].attrs["scale"])  # type: ignore[index]
        yield "SrTiO3 <110> ABF", stack["data"][0], 0.3905 / np.sqrt(8) / pixel_nm  # type: ignore[index]


@pytest.mark.parametrize("name", WSE2)
def test_tungsten_diselenide(name: str) -> None:
    picture, file_nm = first_frame(data_path("wse2_ti", name))
    scale = estimate_scale([picture], knowing(MX2))
    assert scale.pixel_size_nm == pytest.approx(file_nm, rel=0.06)
    assert scale.margin > 20
    assert file_nm is not None
    spacing = estimate_spacing([picture])
    assert spacing.spacing_px == pytest.approx(0.1895 / file_nm, rel=0.05)
    assert spacing.contrast == "bright"


def test_molybdenum_disulphide_whose_scan_wanders() -> None:
    picture, file_nm = first_frame(data_path("formats", "example_Se_implanted_MoS2.dm3"))
    # 12 % off: the file's pixel size gives a constant of 0.292 nm, the sheet's is 0.316
    assert estimate_scale([picture], knowing(MX2)).pixel_size_nm == pytest.approx(file_nm, rel=0.13)
    assert file_nm is not None
    assert estimate_spacing([picture]).spacing_px == pytest.approx(0.316 / np.sqrt(3) / file_nm, rel=0.1)


def test_graphene_at_high_magnification() -> None:
    picture, file_nm = first_frame(graphene_path())
    assert estimate_scale([picture], knowing(GRAPHENE)).pixel_size_nm == pytest.approx(file_nm, rel=0.015)


def test_contaminated_graphene_has_few_scales() -> None:
    """Nobody tells the scale; the magnifications of a microscope are few, so estimates must lie in few places."""
    folder = data_path("graphene_contamination", "images")
    found, refused = [], 0
    for path in sorted(folder.glob("*.png"))[::4]:
        try:
            found.append(estimate_scale([first_frame(path)[0]], knowing(GRAPHENE)).pixel_size_nm)
        except CalibrationError:
            refused += 1
    assert refused <= 2
    assert 0.029 < min(found) < max(found) < 0.076
    steps = np.diff(np.sort(np.log(found)))
    assert np.count_nonzero(steps > 0.03) <= 9  # as many places, and one
    assert np.count_nonzero((steps > 0.015) & (steps <= 0.03)) <= 2


def test_columns_of_unknown_materials() -> None:
    path, labels = atomid()
    picture, apart_px = first_frame(path)[0], nearest_px(labels)
    assert estimate_spacing([picture]).spacing_px == pytest.approx(apart_px, rel=0.1)


def test_perovskites_bright_and_dark() -> None:
    for name, picture, apart_px in perovskites():
        found = estimate_spacing([picture])
        assert found.spacing_px == pytest.approx(apart_px, rel=0.13)
        assert found.contrast == ("dark" if "ABF" in name else "bright")


def main() -> None:
    def told(estimate: Scale | Spacing) -> str:
        return str(estimate)

    for name in WSE2:
        picture, file_nm = first_frame(data_path("wse2_ti", name))
        assert file_nm is not None
        print(f"{name}: {told(estimate_scale([picture], knowing(MX2)))}; the file: {file_nm:.4g} nm/px")
        print(f"{name}: {told(estimate_spacing([picture]))}; the file: {0.1895 / file_nm:.3g} px")
    for path, axis in (
        (data_path("formats", "example_Se_implanted_MoS2.dm3"), MX2),
        (graphene_path(), GRAPHENE),
    ):
        picture, file_nm = first_frame(path)
        print(f"{path.name}: {told(estimate_scale([picture], knowing(axis)))}; the file: {file_nm:.4g} nm/px")
    for path in sorted(data_path("graphene_contamination", "images").glob("*.png")):
        try:
            print(f"{path.name}: {told(estimate_scale([first_frame(path)[0]], knowing(GRAPHENE)))}")
        except CalibrationError as refusal:
            print(f"{path.name}: refused: {refusal}")
    path, labels = atomid()
    for name, picture, apart_px in (("atomid/000", first_frame(path)[0], nearest_px(labels)), *perovskites()):
        print(f"{name}: {told(estimate_spacing([picture]))}; truth {apart_px:.3g} px")


if __name__ == "__main__":
    main()
