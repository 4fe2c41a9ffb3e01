"""What is counted while frames are followed: each counts once, seen or not, also after a restart."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from stream.frame import Gap
from stream.hopping import Hop


class Tally:
    """Frames that were seen, those that were not and why, and what was found.

    Attributes
    ----------
    next_index : of the frame that is due; None before the first of a series.
    """

    def __init__(self) -> None:
        self.next_index: int | None = None
        self._counters: Counter[str] = Counter(analysed=0, columns=0, sites=0, events=0, hops=0)
        self._gaps: Counter[str] = Counter()

    def due(self, index: int) -> bool:
        """Whether a frame is still to be seen; one that was seen or given up already is counted."""
        if self.next_index is not None and index < self.next_index:
            self._counters["out_of_order"] += 1
            return False
        return True

    def see(self, index: int, columns: int, sites: int) -> None:
        """Note a frame, how many columns it had, and how many sites there are now."""
        self._expect(index)
        self.next_index = index + 1
        self._counters["analysed"] += 1
        self._counters["columns"], self._counters["sites"] = columns, sites

    def miss(self, gap: Gap) -> None:
        """Note frames that were not seen; the tracker knows from the next frame's time how long it was.

        After a restart a gap may reach back over frames that the checkpoint remembers: those do not count.
        """
        self._expect(gap.first)
        end = gap.first + gap.count
        first = gap.first if self.next_index is None else max(gap.first, self.next_index)
        self._gaps[gap.reason] += max(end - first, 0)
        self.next_index = max(end, first)

    def _expect(self, index: int) -> None:
        """Frames between the last one and this that nobody accounted for were lost in a restart."""
        if self.next_index is not None and index > self.next_index:
            self._gaps["restart"] += index - self.next_index

    def add(self, events: list[Hop]) -> None:
        """Note events, confirmed since the last."""
        self._counters["events"] += len(events)
        self._counters["hops"] += sum(event.kind == "hop" for event in events)

    def report(self) -> dict[str, Any]:
        """Counters and gaps so far."""
        return {"counters": dict(self._counters), "gaps": dict(self._gaps)}

    def to_json(self) -> str:
        """What was counted so far, for a checkpoint."""
        return json.dumps([self._counters, self._gaps])

    def restore(self, text: str) -> None:
        """Go on from what `to_json` wrote."""
        counters, gaps = json.loads(text)
        self._counters, self._gaps = Counter(counters), Counter(gaps)
