"""The rows of `stream.bench_device` as tables to read, and as JSON to keep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

Row = dict[str, Any]
STAGES = (
    "engine",
    "precision",
    "side_px",
    "batch",
    "stage",
    "ms",
    "least_ms",
    "of_roofline",
    "tflop_per_s",
    "gb_per_s",
)
ENDS = (
    "engine", "precision", "backend", "side_px", "payload", "batch", "frames_per_s", "counts_gb_per_s",
    "latency_p50_ms", "latency_p99_ms", "loaded_p50_ms", "loaded_p99_ms",
)  # fmt: skip
AGREEMENT = (
    "engine", "precision", "side_px", "columns", "columns_cpu", "f1", "apart_p99_px", "apart_max_px", "agrees"
)  # fmt: skip
TABLES = {"stage": STAGES, "end to end": ENDS, "agreement with the CPU": AGREEMENT}


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Stages, end to end, agreement, then what there is one row of; the slowest stage of a batch has a star."""
    slowest = [_place(row) for row in rows if row["what"] == "slowest stage"]
    for what, columns in TABLES.items():
        chosen = [row for row in rows if row["what"] == what]
        table = Table(*(column.replace("_", " ") for column in columns), title=what, box=None)
        for row in chosen:
            starred = what == "stage" and _place(row) in slowest
            table.add_row(
                *(str(row.get(c, "")) + (" *" if starred and c == "stage" else "") for c in columns)
            )
        if chosen:
            yield table
    for row in rows:
        if row["what"] not in (*TABLES, "slowest stage"):
            table = Table(title=row["what"], box=None, show_header=False, min_width=len(row["what"]) + 4)
            for key, value in row.items():
                if key != "what":
                    table.add_row(key.replace("_", " "), str(value))
            yield table


def save(rows: Sequence[Row], folder: Path) -> Path:
    """Keep a run in the JSON file named by the card, a list of runs, each a list of rows; what was kept of the same
    run before, begun at the same time, is replaced."""
    card = "-".join(str(rows[0].get("card", "card")).lower().split())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench-{card}.json"
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if runs and runs[-1][:1] == json.loads(json.dumps(rows[:1])):
        runs.pop()
    half = path.with_suffix(".part")
    half.write_text(json.dumps([*runs, list(rows)], indent=1) + "\n", encoding="utf-8")
    half.replace(path)
    return path


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("engine", "precision", "side_px", "batch", "stage"))
