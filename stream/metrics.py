"""Latency histograms: fixed size, mergeable, precise to two per cent whatever the range."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_FIRST_NS = 1_000.0
_BINS_PER_DECADE = 64
_DECADES = 8  # 1 µs to 100 s


class LatencyHistogram:
    """Counts of durations in logarithmic bins, 64 to the decade from 1 µs to 100 s.

    A percentile is right to within half a bin, 1.8 %, and lies within the durations really seen.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS_PER_DECADE * _DECADES, np.int64)
        self._min_ns = math.inf
        self._max_ns = 0.0

    def __len__(self) -> int:
        """How many durations were added."""
        return int(self._counts.sum())

    def add(self, duration_ns: float) -> None:
        """Count one duration; what lies outside the range counts in the first or the last bin.

        Raises
        ------
        ValueError
            If the duration is negative or no finite number: the two clocks are not the same one.
        """
        if not 0 <= duration_ns < math.inf:
            raise ValueError(f"a duration is impossible: expected 0 or more ns, got {duration_ns}")
        place = math.log10(max(duration_ns, _FIRST_NS) / _FIRST_NS) * _BINS_PER_DECADE
        self._counts[min(int(place), len(self._counts) - 1)] += 1
        self._min_ns = min(self._min_ns, duration_ns)
        self._max_ns = max(self._max_ns, duration_ns)

    def merge(self, other: LatencyHistogram) -> None:
        """Count what the other histogram counted as well."""
        self._counts += other._counts
        self._min_ns = min(self._min_ns, other._min_ns)
        self._max_ns = max(self._max_ns, other._max_ns)

    def percentile_ns(self, percent: float) -> float:
        """The duration that `percent` per cent of all do not exceed, in ns; NaN if there are none.

        Raises
        ------
        ValueError
            If `percent` is not within 0..100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"a percentile is impossible: expected 0 to 100, got {percent}")
        total = len(self)
        if not total:
            return math.nan
        rank = max(1, math.ceil(total * percent / 100))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        middle_ns = _FIRST_NS * 10 ** ((place + 0.5) / _BINS_PER_DECADE)
        return float(min(max(middle_ns, self._min_ns), self._max_ns))

    def as_ms(self) -> dict[str, Any]:
        """The median and the 99th percentile in ms, None where there are none."""
        p50_ns, p99_ns = self.percentile_ns(50), self.percentile_ns(99)
        if math.isnan(p50_ns):
            return {"p50": None, "p99": None}
        return {"p50": p50_ns / 1e6, "p99": p99_ns / 1e6}
