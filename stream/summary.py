"""What a session did, summed over its processes and their restarts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

SHOW_ALARM_S = 120.0  # how long a restart stays on the page; a fault that lasts stays as long as it lasts
RATE_S = 3.0  # frames per second are averaged over so long


class Session:
    """The newest figures of each process; those of the dead are kept and added."""

    def __init__(self) -> None:
        self.state = "starting"  # then "running", then "ending"
        self._reports: dict[str, dict[str, Any]] = {}
        self._buried: dict[str, list[dict[str, Any]]] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._alarms: list[tuple[float, str, str]] = []
        self._latency_ms: dict[str, float | None] = {"p50": None, "p99": None}
        self._rates: list[tuple[float, int]] = []
        self._began_s = self._ended_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s: float | None = None

    @property
    def running(self) -> bool:
        return self.state == "running"

    def begin(self) -> None:
        self.state = "running"
        self._began_s = time.monotonic()

    def end(self) -> None:
        self.state = "ending"
        self._ended_s = time.monotonic()

    def alarm(self, severity: str, text: str) -> None:
        """Something the operator must know."""
        self._alarms.append((time.monotonic(), severity, text))

    def hear(self, name: str, report: dict[str, Any]) -> None:
        """Take in a process' newest report."""
        if "latency_ms" in report:
            self._latency_ms = report["latency_ms"]
        for series_id, (first, last) in report.get("spans", {}).items():
            low, high = self._spans.get(series_id, (first, last))
            self._spans[series_id] = (min(low, first), max(high, last))
        self._reports[name] = report
        if name == "analyse":
            now, analysed = time.monotonic(), self.counter("analysed")
            if analysed and self._first_s is None:
                self._first_s = now
            if not self._rates or analysed > self._rates[-1][1]:
                self._last_s = now
            self._rates = [r for r in self._rates if now - r[0] <= RATE_S] + [(now, analysed)]

    def bury(self, name: str) -> None:
        """A process died: what it had counted stays counted; analyse itself goes on from its checkpoint."""
        report = self._reports.pop(name, None)
        if report and name != "analyse":
            self._buried.setdefault(name, []).append(report)

    def counter(self, key: str) -> int:
        """One counter over all processes and restarts."""
        return sum(int(report.get("counters", {}).get(key, 0)) for report in self._all_reports())

    def total(self, name: str, group: str) -> Counter[str]:
        """A group of counters (gaps, faults) of one process over its restarts."""
        total: Counter[str] = Counter()
        for report in [*self._buried.get(name, []), self._reports.get(name, {})]:
            total.update(report.get(group, {}))
        return total

    @property
    def recording(self) -> Mapping[str, Any] | None:
        return self._reports.get("acquire", {}).get("recording")

    @property
    def series_ended(self) -> int:
        """How many series have begun and ended."""
        return self.counter("series_ended")

    @property
    def unaccounted(self) -> int:
        """Frames of the detector's numbering that are neither analysed nor in a gap; 0 when all is right."""
        numbered = sum(last - first + 1 for first, last in self._spans.values())
        return numbered - self.counter("analysed") - sum(self.total("analyse", "gaps").values())

    def frames_per_s(self) -> float:
        """Analysed frames per second over the last few seconds."""
        if len(self._rates) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._rates[0], self._rates[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0

    def rss_mib(self) -> dict[str, float]:
        """Memory each process holds, MiB, where the system tells."""
        return {name: round(r["rss_mib"], 1) for name, r in self._reports.items() if r.get("rss_mib")}

    def alarms(self) -> list[dict[str, Any]]:
        """Alarms that stand now, newest last."""
        now = time.monotonic()
        standing = [
            {"since_s": now - at, "severity": severity, "text": text}
            for at, severity, text in self._alarms
            if now - at < SHOW_ALARM_S
        ]
        for name, report in self._reports.items():
            if report.get("alarm"):
                standing.append({"since_s": 0.0, "severity": "error", "text": f"{name}: {report['alarm']}"})
            for text in report.get("warnings", []):
                standing.append({"since_s": 0.0, "severity": "warning", "text": f"{name}: {text}"})
        return standing

    def status(self) -> dict[str, Any]:
        """The figures as the page wants them."""
        return {
            "state": self.state,
            "counters": self._counters(),
            "frames_per_s": self.frames_per_s(),
            "latency_ms": self._latency_ms,
            "alarms": self.alarms(),
            "recording": dict(self.recording) if self.recording else None,
        }

    def summary(self) -> dict[str, Any]:
        """The figures at the end."""
        counters = self._counters()
        busy_s = (self._last_s or 0.0) - (self._first_s or 0.0)
        return {
            "sent": self.counter("sent"),
            **counters,
            "unaccounted": self.unaccounted,
            "unrecorded": self.counter("unrecorded"),
            "seconds": round(self._ended_s - self._began_s, 3),
            "frames_per_s": round(counters["analysed"] / busy_s, 2) if busy_s > 0 else 0.0,
            "latency_ms": self._latency_ms,
            "recording": dict(self.recording) if self.recording else None,
            "rss_mib": self.rss_mib(),
            "alarms": [text for _, _, text in self._alarms]
            + [f"{name}: {r['alarm']}" for name, r in self._reports.items() if r.get("alarm")]
            + [f"{name}: {text}" for name, r in self._reports.items() for text in r.get("warnings", [])],
        }

    def _all_reports(self) -> list[dict[str, Any]]:
        return [r for reports in self._buried.values() for r in reports] + list(self._reports.values())

    def _counters(self) -> dict[str, Any]:
        gaps = self.total("analyse", "gaps")
        newest = self._reports.get("analyse", {}).get("counters", {})
        return {
            "received": self.counter("received"),
            "recorded": self.counter("recorded"),
            "analysed": self.counter("analysed"),
            "skipped": gaps["skipped-live"] + gaps["ring-full"],
            "gaps": dict(gaps),
            "faults": dict(self.total("acquire", "faults")),
            "columns": int(newest.get("columns", 0)),
            "sites": int(newest.get("sites", 0)),
            "events": self.counter("events"),
            "hops": self.counter("hops"),
        }
