"""Our DM reader against RosettaSciIO's."""

from pathlib import Path

import numpy as np
import pytest

from stream.files import open_recording
from tests.helpers.data import data_path
from tests.helpers.dm_writer import image, write_dm

oracle = pytest.importorskip("rsciio.digitalmicrograph", reason="the oracle, rosettasciio, is not installed")

REAL = [
    *[("wse2_ti", f"1028_ADF{detector}_{i}.dm4") for detector in (1, 2) for i in (2, 11, 25)],
    ("formats", "example_Se_implanted_MoS2.dm3"),
]


def agree(path: Path) -> None:
    """Pixels, their type, and their size are the oracle's."""
    (expected,) = oracle.file_reader(str(path))
    data = expected["data"]
    stack = data if data.ndim == 3 else data[None]
    with open_recording(path) as recording:
        assert len(recording) == len(stack)
        assert recording.header.dtype == stack.dtype.newbyteorder("<")
        for i, frame in enumerate(stack):
            np.testing.assert_array_equal(recording.read(i), frame)
        axis = {axis["name"]: axis for axis in expected["axes"]}["x"]
        assert axis["units"] == "nm"
        assert recording.header.pixel_size_nm == pytest.approx(axis["scale"], rel=1e-12)


@pytest.mark.data
@pytest.mark.parametrize("parts", REAL, ids=lambda parts: parts[-1])
def test_real_files(parts: tuple[str, ...]) -> None:
    agree(data_path(*parts))


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "u4", "f4"])
def test_stacks(tmp_path: Path, version: int, dtype: str) -> None:
    stack = np.random.default_rng(3).integers(0, 100, (3, 5, 7)).astype(dtype)
    agree(write_dm(tmp_path / f"movie.dm{version}", [image(stack)], version=version))


@pytest.mark.data
def test_energy_is_the_oracles() -> None:
    path = data_path("wse2_ti", "1028_ADF1_2.dm4")
    (expected,) = oracle.file_reader(str(path))
    tags = expected["original_metadata"]["ImageList"]["TagGroup0"]["ImageTags"]
    with open_recording(path) as recording:
        assert recording.header.beam_energy_ev == tags["Microscope Info"]["Voltage"] == 80_000
