"""A process that warms the pipeline up, then follows a session, and prints what numba compiled only then.

``python compiled_later.py ENGINE`` writes a JSON list of "module.kernel: signature" to stdout. A process of its own,
for within one that ran other tests all kernels are there already.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numba.core.registry import CPUDispatcher

from engines.runtime import open_engine
from stream.codecs import encode
from stream.config import Settings
from stream.demo import demo_phantom
from stream.find import OnCpu
from stream.frame import Encoding, Frame, Gap, Item
from stream.picture import look_by
from stream.pipeline import Analysis
from stream.warm_up import warm_up

FRAMES = 130


def compiled() -> set[str]:
    """Every kernel of this program and each signature it was compiled for so far."""
    kernels = {
        f"{module}.{name}": kernel
        for module, content in list(sys.modules.items())
        if module.startswith("stream") and not module.startswith(("stream.phantom", "stream.shot_noise"))
        for name, kernel in vars(content).items()
        if isinstance(kernel, CPUDispatcher)
    }
    kernels |= {f"stream.picture.look_by({step})": look_by(step) for step in range(1, 5)}
    return {f"{name}: {signature}" for name, kernel in kernels.items() for signature in kernel.signatures}


def session(zoom: float, masked: bool) -> Iterator[Item]:
    """A demo's frames as a camera sends them, the specimen leaping now and then, one of them blank."""
    phantom = demo_phantom(seed=3, shape_px=256, frames=FRAMES, fps=30.0)
    mask = np.zeros((256, 256), bool)
    mask[100, 20:60] = True
    size_nm = (phantom.header.pixel_size_nm or 0.0) * zoom
    yield replace(phantom.header, pixel_size_nm=size_nm, bad_pixels=mask if masked else None)
    for index in range(FRAMES):
        if index == 50:
            yield Gap(phantom.header.series_id, index, 1, "wire")
            continue
        counts = phantom.render(index)
        if index == 70:
            counts = np.zeros_like(counts)
        if index > 90:
            counts = np.roll(counts, (23, -31), (0, 1))
        payload = memoryview(encode(counts, "bslz4")).toreadonly()
        encoding = Encoding(counts.shape, counts.dtype, "bslz4")
        yield Frame(phantom.header.series_id, index, index * 33_333_333, 0, payload, encoding)


def main() -> None:
    with open_engine(sys.argv[1]) as engine:
        settings, where = Settings(), OnCpu(engine, "a test")
        warm_up(where, settings.tracking.lag_frames)
        analysis = Analysis(settings, where)
        before = compiled()
        for zoom, masked in ((1.0, False), (1.0, True), (0.6, False), (0.6, True)):
            for item in session(zoom, masked):
                if isinstance(item, Gap | Frame):
                    analysis.start([item])
                    list(analysis.fetch())
                    analysis.draw_maps()
                else:
                    analysis.begin(item)  # pyright: ignore[reportArgumentType]
            analysis.finish()
            analysis.header = None
    print(json.dumps(sorted(compiled() - before)))


if __name__ == "__main__":
    main()
