"""A recording is, to HyperSpy, a calibrated stack."""

from __future__ import annotations

import time
from pathlib import Path

import hdf5plugin  # noqa: F401  registers the filters
import numpy as np
import pytest

from stream.codecs import encode
from stream.frame import Algorithm, Encoding, Frame, SeriesEnd, SeriesHeader
from stream.record import Recorder

hs = pytest.importorskip("hyperspy.api")

COUNTS = np.random.default_rng(2).poisson(9, (6, 20, 33)).astype("<u2")


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
@pytest.mark.parametrize("algorithm", ["none", "bslz4"])
def test_hyperspy_loads_a_calibrated_stack(tmp_path: Path, algorithm: Algorithm, lazy: bool) -> None:
    recorder = Recorder(tmp_path, min_free_mib=0)
    shape = (20, 33)
    recorder.put(SeriesHeader(1, shape, COUNTS.dtype, frame_period_s=0.02, pixel_size_nm=0.0123))
    for i, image in enumerate(COUNTS):
        payload = memoryview(encode(image, algorithm))
        encoding = Encoding(shape, COUNTS.dtype, algorithm)
        recorder.put(Frame(1, 100 + i, None, time.monotonic_ns(), payload, encoding))
    recorder.put(SeriesEnd(1))
    recorder.close()

    stack = hs.load(recorder.path, nxdata_only=True, lazy=lazy)

    assert type(stack).__name__ == ("LazySignal2D" if lazy else "Signal2D")
    if lazy:
        stack.compute(show_progressbar=False)
    np.testing.assert_array_equal(stack.data, COUNTS)
    assert stack.data.dtype == COUNTS.dtype
    x, y = stack.axes_manager.signal_axes
    (t,) = stack.axes_manager.navigation_axes
    assert (x.name, x.size, x.units, y.name, y.size, y.units) == ("x", 33, "nm", "y", 20, "nm")
    assert (t.name, t.size, t.units) == ("time", 6, "s")
    assert [x.scale, y.scale, t.scale] == pytest.approx([0.0123, 0.0123, 0.02])
    assert [x.offset, y.offset, t.offset] == [0, 0, 0]
