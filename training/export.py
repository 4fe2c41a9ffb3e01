"""From a checkpoint to engines: ONNX in fp32 and int8, each with a manifest, a golden example and measured figures."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from engines.cpu import openvino_core
from engines.manifest import Manifest
from stream.columns import weighed
from training.checkpoint import Checkpoint
from training.dataset import DEFAULT_CACHE
from training.evaluate import best_threshold, candidates, network_maps, score_at, usual_width_px
from training.networks import EveryWay, FusionNet, Slim, build_network
from training.recipe import Recipe
from training.sources import Shown, calibration_images, judged_images, threshold_images
from training.zone_axes import known_zone_axes

log = logging.getLogger(__name__)
Exported = Slim | FusionNet | EveryWay
OPSET = 17  # read by OpenVINO and by ONNX Runtime alike
_GOLDEN_PX = 128
_AS_IT_IS = ".*/mean/.*"  # layers that are not quantized: the sum of an accurate size's logits
_TOLERANCE = {"fp32": 1e-3, "int8": 0.1}  # int8 kernels differ between backends and processors


class Probabilities(nn.Module):
    """What is exported: the network with its softmax, shifted so that a score of 0.5 is the best threshold."""

    def __init__(self, network: nn.Module, threshold: float = 0.5) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():  # p > t is the same as logit(p) - logit(t) > 0
            network.head.bias[1:] -= float(np.log(threshold / (1 - threshold)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network(images), 1)


def export(
    checkpoint: Path | str, name: str, out_dir: Path | str, cache: Path | str = DEFAULT_CACHE
) -> list[Path]:
    """Write engines from a trained checkpoint, and measure them on the validation set.

    Four of them: `name` in eight bits and `name`-fp32, the fast size; `name`-accurate and `name`-accurate-fp32, the
    same network asked in all eight orientations of the image.

    Returns
    -------
    The manifests written.
    """
    out, cache = Path(out_dir), Path(cache)
    out.mkdir(parents=True, exist_ok=True)
    trained = Checkpoint.load(Path(checkpoint))
    judged = judged_images(trained.recipe, cache)
    tuning = judged if trained.recipe.stem is not None else threshold_images(trained.recipe, cache)
    calibration = calibration_images(trained.recipe, cache)
    written = []
    for size, network in ((name, network_of(trained)), (f"{name}-accurate", EveryWay(network_of(trained)))):
        _, threshold = _read_best(network, tuning, trained.recipe)
        log.info("%s: best threshold on validation specimens %.2f, moved to 0.5", size, threshold)
        moved = Probabilities(network, threshold)  # which makes peaks narrower, or wider
        width_px, again = _read_best(network, tuning, trained.recipe)
        log.info(
            "%s: columns' peaks are %.2f px wide; the best threshold is %.2f now", size, width_px or 0, again
        )
        plain, quantized = out / f"{size}-fp32.onnx", out / f"{size}.onnx"
        to_onnx(moved, plain, network.multiple_of, trained.recipe.input_channels)
        quantize(plain, quantized, calibration)
        written += [
            _finish(path, trained, precision, judged, network, width_px)
            for path, precision in ((plain, "fp32"), (quantized, "int8"))
        ]
    return written


def network_of(trained: Checkpoint) -> Slim | FusionNet:
    """The network of a checkpoint, as it is used."""
    recipe = trained.recipe
    network = build_network(recipe.train.network, recipe.input_channels, len(recipe.classes))
    network.load_state_dict(trained.network)
    return network.eval()


def _read_best(network: Exported, tuning: Shown, recipe: Recipe) -> tuple[float | None, float]:
    """The usual width of columns' peaks in the network's maps, and the best threshold of scores `weighed` by it."""
    maps = network_maps(network)
    found = {dose: candidates(maps, network.stride, some, recipe) for dose, some in tuning.items()}
    width_px = usual_width_px(found)
    scored = {
        dose: [(weighed(columns, width_px, 0.0), truth) for columns, truth in some]
        for dose, some in found.items()
    }
    return width_px, best_threshold(scored)


def to_onnx(model: nn.Module, path: Path, multiple_of: int, channels: int = 1) -> None:
    """Write `input` (b, c, ny, nx) -> `probabilities`, with b, ny and nx free."""
    example = torch.zeros(2, channels, 16 * multiple_of, 12 * multiple_of)
    torch.onnx.export(
        model.eval().to(memory_format=torch.contiguous_format),
        (example,),
        path,
        dynamo=False,
        opset_version=OPSET,
        input_names=["input"],
        output_names=["probabilities"],
        dynamic_axes={"input": {0: "b", 2: "ny", 3: "nx"}, "probabilities": {0: "b", 2: "my", 3: "mx"}},
    )


def quantize(path: Path, out: Path, images: np.ndarray) -> None:
    """Post-training quantization to int8 (NNCF): quantize and dequantize nodes in ONNX.

    The scales are those of normalized images (n, c, ny, nx) f4.
    """
    import nncf

    model = onnx.load(path)
    data = nncf.Dataset(list(images[:, None]), lambda image: {"input": image})
    quantized = nncf.quantize(
        model,
        data,
        preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric: zero points would fall back to fp32
        subset_size=len(images),
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(patterns=[_AS_IT_IS], validate=False),
    )
    onnx.save(quantized, out)


def openvino_maps(path: Path, threads: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Run an ONNX file in OpenVINO, in fp32 where it is not quantized: images (b, c, ny, nx) -> maps.

    On so many threads, or on as many as there are cores.
    """
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino_core().compile_model(path, "CPU", settings)
    return lambda images: compiled(images)[0].copy()


def onnxruntime_maps(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Run an ONNX file in ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"input": images})[0]


def _finish(
    path: Path, trained: Checkpoint, precision: str, judged: Shown, network: Exported, width_px: float | None
) -> Path:
    """Measure an ONNX file, check that two runtimes agree on it, and write its golden example and manifest."""
    recipe: Recipe = trained.recipe
    maps = openvino_maps(path)
    golden = _golden(judged)
    output = maps(golden)
    difference = float(np.abs(onnxruntime_maps(path)(golden) - output).max())
    if difference > _TOLERANCE[precision]:
        raise RuntimeError(
            f"{path}: OpenVINO and ONNX Runtime differ by {difference:.3g} in probability, expected at most "
            f"{_TOLERANCE[precision]}: do not ship it; look at the quantization"
        )
    golden_path = path.with_suffix(".npz")
    np.savez_compressed(golden_path, input=golden, output=output)
    metrics: dict[str, float] = {}
    for dose, some in judged.items():
        score = score_at(candidates(maps, network.stride, some, recipe, width_px), 0.5)
        log.info("%s at %g e/Å²: F1 %.4f, rms %.1f pm", path.stem, dose, score.f1, score.rms_pm)
        at = f"{dose:g}_e_angstrom2"
        metrics |= {
            f"f1_{at}": round(score.f1, 4),
            f"precision_{at}": round(score.precision, 4),
            f"recall_{at}": round(score.recall, 4),
            f"rms_pm_{at}": round(score.rms_pm, 2),
        }
        if len(recipe.classes) > 1:
            metrics[f"class_accuracy_{at}"] = round(score.class_accuracy, 4)
    low, high = (recipe.stem or recipe.specimen).sampling_angstrom_px
    manifest = Manifest(
        name=path.stem,
        description=recipe.engine.description
        + ", seen in eight orientations" * isinstance(network, EveryWay),
        onnx=path.name,
        golden=golden_path.name,
        golden_tolerance=_TOLERANCE[precision],
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        classes=("background", *recipe.classes),
        nominal_nm_px=recipe.engine.nominal_nm_px,
        sampling_nm_px=(low / 10, high / 10),
        normalize_sigma_nm=recipe.data.normalize_sigma_nm,
        input_channels=recipe.input_channels,
        stride=network.stride,
        multiple_of=network.multiple_of,
        threshold=0.5,
        usual_sigma_px=None if width_px is None else round(width_px, 3),
        min_distance_nm=recipe.engine.min_distance_nm,
        precision=precision,  # type: ignore[arg-type]
        recipe=recipe.name,
        commit=trained.commit,
        begun_with=trained.begun_with,
        licence=recipe.engine.licence,
        zone_axes=known_zone_axes(recipe.lattice if recipe.stem else recipe.specimen),
        nominal_spacing_px=recipe.engine.nominal_spacing_px,
        spacing_px_range=recipe.spacing_px_range,
        metrics=metrics,
    )
    manifest.save(path.with_suffix(".toml"))
    return path.with_suffix(".toml")


def _golden(judged: Shown) -> np.ndarray:
    """The corner with most columns of the validation images at the highest dose, (1, c, n, n) f4."""
    n = _GOLDEN_PX
    image, _ = max(next(iter(judged.values())), key=lambda shown: (shown[1].yx_px < n).all(1).sum())
    return np.ascontiguousarray(image[None, :, :n, :n])
