"""The mark a killed writer leaves in an HDF5 file, and its removal."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from stream import crashsafe
from stream.crashsafe import CrashSafeFile, repair
from stream.frame import RecordingError
from stream.superblock import Superblock, lookup3


def lay_out(file: h5py.File) -> None:
    file.create_dataset("x", (0,), "<i8", maxshape=(None,), chunks=(64,))


def killed(path: Path) -> None:
    """Leave a file as a kill in the middle of a flush does: marked, and longer than it says."""
    file = CrashSafeFile(path, lay_out)
    x = file.dataset("x")
    x.resize((100,))
    x[:] = np.arange(100)
    file.close()
    block = read(path)
    with open(path, "r+b") as raw:
        raw.write(block._replace(flags=5, end=block.end - 64).pack())


def read(path: Path) -> Superblock:
    with open(path, "rb") as raw:
        block = Superblock.read(raw.fileno())
    assert block is not None
    return block


def test_lookup3_gives_its_authors_values() -> None:
    # from the self-test in Bob Jenkins's lookup3.c
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


def test_lookup3_is_the_checksum_hdf5_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="v110"):
        pass
    assert path.read_bytes()[:48] == read(path).pack()


def test_a_marked_file_is_refused_by_hdf5_and_opens_after_repair(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    killed(path)
    with pytest.raises(OSError, match="h5clear"):
        h5py.File(path, "r")
    assert repair(path)
    with h5py.File(path, "r") as file:
        assert file["x"][:].tolist() == list(range(100))  # pyright: ignore
    assert not repair(path)


def test_a_truncated_file_opens_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    killed(path)
    block = read(path)
    with open(path, "r+b") as raw:
        raw.write(block._replace(flags=0, end=block.end + 10**6).pack())
    with pytest.raises(OSError, match="truncated"):
        h5py.File(path, "r")
    assert repair(path)
    with h5py.File(path, "r") as file:
        assert len(file["x"]) == 100  # pyright: ignore


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all, but long enough to hold a superblock, surely"])
def test_what_is_not_hdf5_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    assert not repair(path)
    assert path.read_bytes() == content


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = [1, 2]
    before = path.read_bytes()
    assert not repair(path)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.h5"
    killed(path)

    def read_only(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(crashsafe.os, "open", read_only)
    with pytest.raises(RecordingError, match=r"Permission denied.*copy it"):
        repair(path)


def test_a_file_being_written_opens_for_reading_and_for_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    file = CrashSafeFile(path, lay_out)
    x = file.dataset("x")
    x.resize((1000,))
    x[:] = 7
    file.flush()
    assert not repair(path)
    copy = tmp_path / "copy.h5"  # a copy, since one process has one view of a file
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r") as reader:
        assert int(reader["x"][:].sum()) == 7000  # pyright: ignore
    if os.name == "posix":
        other = os.open(path, os.O_RDWR)
        assert not crashsafe.lock(other, shared=False), "HDF5 would let another writer in"
        assert crashsafe.lock(other, shared=True), "HDF5 would keep readers out"
        os.close(other)
    file.close()


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        CrashSafeFile(path, lay_out)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_where_hard_links_are_missing_files_are_not_overwritten_either(tmp_path: Path, monkeypatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(crashsafe.os, "link", no_links)
    CrashSafeFile(tmp_path / "a.h5", lay_out).close()
    with pytest.raises(FileExistsError):
        CrashSafeFile(tmp_path / "a.h5", lay_out)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
