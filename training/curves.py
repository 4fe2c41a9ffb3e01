"""What a training writes down while it runs: tables that survive a kill, and when to stop."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class Curve:
    """A CSV table by step that grows by a row at a time.

    Begun again at a step, as a resumed training does, it keeps the rows up to it: those after it come once more.
    """

    def __init__(self, path: Path, columns: Sequence[str], first: int = 0) -> None:
        self.path, self.columns = path, ["step", *columns]
        kept = []
        if first and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= first]
        partial = path.with_name(path.name + ".part")
        with partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            table.writeheader()
            table.writerows(kept)
        partial.replace(path)

    def add(self, step: int, *values: str) -> None:
        """Append a row; it is on disk when this returns."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([step, *values])


@dataclass
class EarlyStopping:
    """Which validation was the best, and whether to wait for a better one.

    Attributes
    ----------
    patience : validations in a row without a better one after which to stop; 0: never.
    best_f1 : mean F1 over doses of the best so far.
    stale : validations since then that count.
    """

    patience: int
    best_f1: float = -1.0
    stale: int = 0

    def is_best(self, f1: float, late: bool) -> bool:
        """Take note of a validation; whether it is the best so far.

        Parameters
        ----------
        late : the rate has come down to less than half its peak. A network gains most while the rate falls, so that
            what it does not gain before says nothing.
        """
        if f1 > self.best_f1:
            self.best_f1, self.stale = f1, 0
            return True
        self.stale += late
        return False

    @property
    def done(self) -> bool:
        return 0 < self.patience <= self.stale
