"""A series looked at again when its end is known: occupancy given all frames, and rates of the highest likelihood.

While frames come in, a site's rates are guessed from what was made of the frames before, and a switch must be told
from a few frames after it. Afterwards neither is needed: the rates are those that make the evidence of all sites
likeliest (`stream.together`), and occupancy is smoothed forward and backward over the whole series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stream.hopping import Hop, Hopping
from stream.likelihood import Grid, Histories
from stream.occupancy import FAST, Occupancy, Smoothed
from stream.together import Switching, estimate_together, smoothed_together


class Kept(Histories, Protocol):
    """Histories that take in what was made of them: `stream.histories`."""

    def keep_smoothed(self, first_row: int, p_occupied: np.ndarray) -> None:
        """Take P(occupied | all frames) of rows from `first_row` on, (rows, m)."""
        ...


@dataclass(frozen=True, slots=True)
class Hindsight:
    """What the whole series says.

    Attributes
    ----------
    occupancy : of every site; `worth` tells how well the evidence fixes the rates.
    hopping : the events, counted per site.
    events : in order of time.
    """

    occupancy: Occupancy
    hopping: Hopping
    events: list[Hop]


def look_again(histories: Kept, neighbours: np.ndarray, period_s: float) -> Hindsight:
    """Estimate rates, smooth, and find the events of a whole series; memory does not grow with its length.

    Parameters
    ----------
    neighbours : (m, k) i8, sites between which columns may hop, then -1.
    period_s : from frame to frame.

    Raises
    ------
    ValueError
        Without a frame, or without a site.
    """
    if not len(histories.frame) or not histories.sites:
        raise ValueError(
            f"there is nothing to look at again: got {len(histories.frame)} frames and {histories.sites} sites"
        )
    grid = Grid.of(histories.t_ns, period_s)
    rates = estimate_together(histories, grid, neighbours)
    chance = rates.chance
    hopping, events = Hopping(period_s), []
    time_s = np.zeros((2, histories.sites))
    p = np.full(histories.sites, 0.5)
    for smoothed in _smooth(histories, grid, neighbours, rates.switching):
        hopping.see(np.zeros(histories.sites, np.uint8))
        events += hopping.update(smoothed, neighbours)
        p = smoothed.p_occupied
        time_s += np.where(smoothed.observed, [np.ones_like(p), p], 0.0) * period_s
    events += hopping.finish(neighbours)
    observed_s, occupied_s = time_s
    occupancy = Occupancy(
        p_occupied=p.astype(np.float32),
        observed_s=observed_s,
        occupied_s=occupied_s,
        arrivals=chance[0] * np.maximum(observed_s - occupied_s, 0.0) / period_s,
        departures=chance[1] * occupied_s / period_s,
        fast=np.any(-np.log1p(-np.minimum(chance, 0.999)) > FAST, axis=0),
        version=len(histories.frame),
        worth=rates.worth,
    )
    return Hindsight(occupancy, hopping, events)


def _smooth(histories: Kept, grid: Grid, neighbours: np.ndarray, switching: Switching) -> Iterator[Smoothed]:
    """Every frame, given all."""
    for window, posterior, _ in smoothed_together(histories, grid, neighbours, switching):
        first, last = window.first, window.last
        p = posterior[0][window.rows[: last - first]]
        histories.keep_smoothed(first, p)
        for k in range(first, last):
            elapsed_s = (histories.t_ns[k] - histories.t_ns[max(k - 1, 0)]) * 1e-9
            yield Smoothed(
                int(histories.frame[k]),
                int(histories.t_ns[k]),
                float(elapsed_s),
                p[k - first],
                np.isfinite(window.log_ratio[k - first]),
            )
