"""Networks run by torch from their ONNX files, on the CPU: the GPU's ones differ in the device alone."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch

from engines import torch_graph
from engines.files import read_engine
from engines.gpu import Kept
from engines.manifest import EngineMismatch
from engines.precision import Precision, tolerance
from engines.runtime import open_engine
from engines.torch_graph import TorchNetwork
from stream.infer import ColumnFinder
from stream.phantom import Phantom
from tests.helpers.tiny_engine import make_tiny_engine, tiny_maps
from training import untrained
from training.networks import NetworkName
from training.untrained import write_untrained


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["au-on-oxide-hrtem-fp32", "au-on-oxide-hrtem-accurate-fp32"])
def test_it_gives_the_golden_output(name: str, precision: Precision) -> None:
    manifest, network, path = read_engine(name)
    kept = Kept(TorchNetwork(network, precision, None))
    with np.load(path.with_name(manifest.golden)) as golden:
        difference = np.abs(kept.run(golden["input"]) - golden["output"]).max()
    assert difference <= tolerance(manifest, precision)
    if precision == "fp32":
        assert difference < 1e-5


def test_shapes_come_and_go(tmp_path: Path) -> None:
    _, network, _ = read_engine(make_tiny_engine(tmp_path))
    kept = Kept(TorchNetwork(network, "fp32", None))
    rng = np.random.default_rng(3)
    for _ in range(2):
        for n in range(1, 8):
            images = rng.normal(size=(1 + n % 3, 1, 8 * n, 72 - 8 * n)).astype("f4")
            np.testing.assert_allclose(kept.run(images), tiny_maps(images), atol=1e-5)


def test_what_it_cannot_run_is_refused() -> None:
    _, network, _ = read_engine("au-on-oxide-hrtem")
    with pytest.raises(EngineMismatch, match="choose the fp32 engine"):
        TorchNetwork(network, "int8", None)
    _, network, _ = read_engine("au-on-oxide-hrtem-fp32")
    model = onnx.load_model_from_string(network)
    model.graph.node[-1].op_type = "Sigmoid"
    with pytest.raises(EngineMismatch, match="does not know Sigmoid"):
        TorchNetwork(model.SerializeToString(), "fp32", None)
    with pytest.raises(EngineMismatch, match=r"CuPy does not import|there is no GPU"):
        TorchNetwork(network, "fp32", 0)


@pytest.mark.parametrize("name", ["slim16_s2", "fn16_s2"])
def test_untrained_networks_of_every_kind_run(name: NetworkName, tmp_path: Path) -> None:
    path = write_untrained(name, tmp_path)
    manifest, network, _ = read_engine(path)
    with open_engine(
        path, threads=1
    ) as engine:  # as many columns to find, sort and send as a trained one has
        finder = ColumnFinder(engine, (256, 256), manifest.nominal_nm_px)
        columns, _ = finder.find(Phantom(seed=6, shape_px=256, frames=1).render(0))
    assert 30 < len(columns) < 300
    with np.load(path.with_suffix(".npz")) as golden:
        got = Kept(TorchNetwork(network, "fp32", None)).run(golden["input"])
        assert np.abs(got - golden["output"]).max() <= manifest.golden_tolerance


def test_what_nobody_reads_any_more_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded graph would keep it for ever: of 16 images of 512 pixels, gigabytes."""
    _, network, _ = read_engine("au-on-oxide-hrtem-fp32")
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    convolve = torch_graph._OPERATIONS["Conv"]

    def noted(*arguments: object) -> torch.Tensor:
        alive.append(sum(one() is not None for one in made))
        result = convolve(*arguments)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setitem(torch_graph._OPERATIONS, "Conv", noted)
    Kept(TorchNetwork(network, "fp32", None)).run(np.zeros((1, 1, 64, 64), "f4"))
    assert len(made) > 10
    assert max(alive) <= 4  # those that are read again on the way up


@pytest.mark.parametrize("named", [(), ("fusionnet32",)])
def test_all_networks_are_written_unless_some_are_named(
    named: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, Path]] = []
    monkeypatch.setattr(untrained, "write_untrained", lambda name, out: written.append((name, out)))
    monkeypatch.setattr("sys.argv", ["untrained", *named, "--out", str(tmp_path)])
    untrained.main()
    assert written == [(name, tmp_path) for name in named or get_args(NetworkName)]
