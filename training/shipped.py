"""A shipped engine's weights back in a network, to be trained further.

An engine has its norms folded into its convolutions. Unfolded, each norm is given the mean and the variance that its
convolution has on training images, and the scale and offset that leave the network what the engine is, in training too.
Residual blocks that the engine does not have begin as next to nothing. Not as nothing: behind a block that ends in a
ReLU and gives only zeros no gradient comes back, and it would give zeros for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from engines.manifest import Manifest
from training.checkpoint import TrainingError
from training.networks import FusionNet, Slim


def lineage_of(path: Path) -> tuple[str, ...]:
    """The trainings that made an engine, and the engine, the first of them first."""
    manifest = Manifest.load(path.with_suffix(".toml"))
    return (*manifest.begun_with, f"{manifest.recipe}, engine {manifest.name}, commit {manifest.commit}")


Weights = dict[str, tuple[torch.Tensor, torch.Tensor]]  # layer -> weights and offsets
_NEXT_TO_NOTHING = 0.02  # of a new block's output, of what its norm would make of it


def weights_of(path: Path, network: Slim | FusionNet) -> Weights:
    """An engine's weights, for a network of its kind and classes, which may have further `Slim.additions`.

    Those of the engine that do nothing are left out.

    Raises
    ------
    TrainingError
        If the file is no engine of this kind of network in fp32.
    """
    layers, held = _layers(network), _weights(path)
    for block in _additions(network):
        its = [name for name in layers if name.startswith(f"{block}.")]
        if not all(name in held and held[name][0].any() for name in its):
            for name in its:
                layers.pop(name)
                held.pop(name, None)
    expected = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    got = {name: tuple(weight.shape) for name, (weight, _) in held.items()}
    if got != expected:
        name = min(k for k in got.keys() | expected.keys() if got.get(k) != expected.get(k))
        raise TrainingError(
            f"{path} does not hold this recipe's network: expected weights {expected.get(name)} of layer {name}, got "
            f"{got.get(name)}; begin with an engine of the same network and classes whose name ends in -fp32, not "
            "an accurate one"
        )
    return held


def begin_with(network: Slim | FusionNet, weights: Weights, images: Iterable[torch.Tensor]) -> None:
    """Give a network the weights of an engine.

    Parameters
    ----------
    network : that the weights are for.
    images : batches (b, c, ny, nx) of the recipe's, where the network is: what norms see is measured on them.
    """
    layers, norms = _layers(network), _norms(network)
    with torch.no_grad():
        for name, (weight, bias) in weights.items():
            layers[name].weight.copy_(weight)
            offset = norms[name].bias if name in norms else layers[name].bias
            offset.copy_(bias)  # type: ignore[union-attr]
        for name, block in _additions(network).items():
            if not any(layer.startswith(f"{name}.") for layer in weights):
                last = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)][-1]
                nn.init.constant_(last.weight, _NEXT_TO_NOTHING)
        _settle(network, {name: norm for name, norm in norms.items() if name in weights}, images)


def _additions(network: Slim | FusionNet) -> dict[str, nn.Sequential]:
    return network.additions if isinstance(network, Slim) else {}


def _layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.ConvTranspose2d]:
    modules = network.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)}


def _weights(path: Path) -> Weights:
    """All that the file holds, by the names that the export gave its nodes."""
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # of protobuf, of the file
        raise TrainingError(f"{path} is not an ONNX file that can be read ({error})") from error
    if any(node.op_type == "BatchNormalization" for node in graph.node):
        raise TrainingError(
            f"{path} has norms that are not folded into convolutions; begin with a checkpoint instead"
        )
    values = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and all(name in values for name in node.input[1:]):
            # "/network/wide/wide.0/wide.0.0/Conv" is wide.0.0; "/network/head/Conv" is head
            found[node.name.split("/")[-2]] = (values[node.input[1]], values[node.input[2]])
    return found


def _norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Convolution -> the norm that follows it at once, and is folded into it."""
    modules = list(network.named_modules())
    return {
        name: norm
        for (name, conv), (_, norm) in pairwise(modules)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    }


def _settle(network: nn.Module, norms: dict[str, nn.BatchNorm2d], images: Iterable[torch.Tensor]) -> None:
    """Measure what each norm sees while it changes nothing, and let it say so."""
    seen = {name: torch.zeros(3, norm.num_features).double() for name, norm in norms.items()}

    def note(name: str, output: torch.Tensor) -> None:
        values = output.transpose(0, 1).flatten(1).double().cpu()
        count = torch.full((len(values),), values.shape[1])
        seen[name] += torch.stack([count, values.sum(1), (values**2).sum(1)])

    for norm in norms.values():
        norm.weight.fill_(1.0)
        norm.running_mean.zero_()  # type: ignore[union-attr]
        norm.running_var.fill_(1.0 - norm.eps)  # type: ignore[union-attr]
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name in norms
    ]
    network.eval()
    for batch in images:
        network(batch)
    network.train()
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        count, total, squares = seen[name]
        mean = total / count
        variance = (squares / count - mean**2).clamp_min(0.0)
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean.to(norm.bias))
