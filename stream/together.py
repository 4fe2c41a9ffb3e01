"""All sites together: how likely a site is to switch depends on what is around it, and on what its neighbours do.

A column that neighbours hold hops more seldom, and one that leaves a site turns up beside it. Sites taken each for
itself know nothing of that: their rates are those of the mean neighbourhood, and at low dose the bursts of switches of
a column that has lost its hold are smoothed away with them. So a site's chances are its own times a factor for the
number of its occupied neighbours, one for all sites, as a lattice gas has it (K. Kawasaki, Phys. Rev. 145 (1966) 224);
and the share of the switches which no neighbour's opposite explains is learned as well, so that sites which have
nothing to do with each other are left alone. Every site is smoothed given what its neighbours have to tell
(`stream.beside`), and all is estimated by expectation and maximization.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from stream.beside import MOST, alone_of, listen, share_alone
from stream.likelihood import PRIOR_SWITCHES, Grid, Histories, Window, equilibrium, estimate, over, windows
from stream.markov import filtered, there_and_back

_ROUNDS = 5  # of expectation and maximization
_TURNS = 4  # in each of which every site hears what its neighbours have to tell
_NEGLIGIBLE = 1e-4  # chance that a site switched in a frame, below which its neighbours do not ask it
_PRIOR_FACTOR = 2.0  # weight of "as likely as with any other neighbours", in switches


@dataclass(frozen=True, slots=True)
class Switching:
    """How likely sites are to switch.

    Attributes
    ----------
    chance : (2, m) f8, of each site per frame, to arrive and to leave.
    factor : (2, k + 2) f8, by which either is multiplied with no, one, two, ... k occupied neighbours; the last is
        never reached.
    alone : share of the switches that are no hop from or to a neighbouring site.
    """

    chance: np.ndarray
    factor: np.ndarray
    alone: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What the evidence of all sites says together.

    Attributes
    ----------
    switching : likeliest, given everything.
    chance : (2, m) f8, per frame, to arrive and to leave: of each site on average over its neighbourhoods.
    worth : (m,) f8, as `stream.likelihood.estimate` gives it, each site for itself.
    """

    switching: Switching
    chance: np.ndarray
    worth: np.ndarray


def estimate_together(histories: Histories, grid: Grid, neighbours: np.ndarray) -> Rates:
    """The likeliest rates of all sites together.

    Parameters
    ----------
    neighbours : (m, k) i8, sites between which columns may hop, then -1.
    """
    chance, worth = estimate(histories, grid)
    model = Switching(
        np.clip(chance, 1e-7, MOST), np.ones((2, neighbours.shape[1] + 2)), share_alone(np.zeros(2))
    )
    for _ in range(_ROUNDS):
        of_sites, of_classes, explained = (
            np.zeros((6, histories.sites)),
            np.zeros((4, model.factor.shape[1])),
            np.zeros(2),
        )
        alone = alone_of(neighbours, model.alone)
        for window, posterior, chances in smoothed_together(histories, grid, neighbours, model):
            first = 2 if window.first == 0 else 1  # nothing is known of before the first frame
            _count(
                *(posterior[:, : window.kept + 1], window.steps, first, neighbours),
                *(model.chance, model.factor, alone, chances, of_sites, of_classes, explained),
            )
        chance = of_sites[:2] / np.maximum(of_sites[2:4], 1e-9)
        model = _maximized(of_sites, of_classes, explained)
    return Rates(model, chance, worth)


def _maximized(sites: np.ndarray, classes: np.ndarray, explained: np.ndarray) -> Switching:
    """The model that what was counted makes likeliest."""
    switches, at_risk = sites[:2], sites[4:]
    mean = np.maximum(switches.sum(axis=1) / np.maximum(at_risk.sum(axis=1), 1e-9), 1e-7)[:, None]
    chance = (switches + PRIOR_SWITCHES) / (at_risk + PRIOR_SWITCHES / mean)
    factor = (classes[:2] + _PRIOR_FACTOR) / (classes[2:] + _PRIOR_FACTOR)
    return Switching(np.clip(chance, 1e-7, MOST), factor, share_alone(explained))


def smoothed_together(
    histories: Histories, grid: Grid, neighbours: np.ndarray, model: Switching
) -> Iterator[tuple[Window, np.ndarray, np.ndarray]]:
    """The whole series, a window at a time.

    With (3, rows, m) f8: P(occupied), P(arrived) and P(left) since the row before, of every site given all frames of
    all sites; and (2, rows, m) f8, the chances to fill and to empty that these follow from.
    """
    p = equilibrium(model.chance)  # filtered P(occupied) before the window
    alone = alone_of(neighbours, model.alone)
    for window in windows(histories, grid, model.chance):
        posterior = window.alone.copy()
        chances = np.stack(over(window.steps, np.clip(model.chance, 1e-7, 0.9)))  # those it was smoothed with
        own, told = np.empty_like(chances), np.empty((*chances.shape, neighbours.shape[1]), np.float32)
        near, every = np.zeros(window.ratio.shape, np.bool_), np.arange(len(window.ratio))
        for _ in range(_TURNS):
            _by_neighbours(posterior[0], neighbours, model.factor, model.chance, own)
            over(window.steps, own)
            listen(posterior, own, chances, every, alone, neighbours, told, near, _NEGLIGIBLE)
            np.copyto(chances, own, where=~near)
            there_and_back(window.ratio, chances[0], chances[1], p, posterior)
        p = filtered(window.ratio[: window.kept + 1], chances[0], chances[1], p)
        yield window, posterior, chances


@njit(cache=True, nogil=True, error_model="numpy")
def _around(p, neighbours, k, way):
    """Occupied neighbours to be expected from P(occupied) (m,) around site k, which is empty (`way` 0) or occupied (1):
    a whole number, and what is beyond it.

    Where it is open which of two neighbours holds a column it is one column: if it is here, it is not there.
    """
    expected, here, missing = 0.0, max(p[k], 1e-12), max(1.0 - p[k], 1e-12)
    for n in neighbours[k]:
        if n >= 0:
            if way:
                expected += 1.0 - min(max((1.0 - p[n]) / here, 0.0), 1.0)
            else:
                expected += min(max(p[n] / missing, 0.0), 1.0)
    return int(expected), expected - int(expected)


@njit(cache=True, nogil=True)
def _by_neighbours(p, neighbours, factor, chance, out):
    """Fill `out` (2, rows, m): chances per frame by the neighbours in the row before; between two numbers of them in
    proportion."""
    for t in range(p.shape[0]):
        for k in range(p.shape[1]):
            for way in range(2):
                c, beyond = _around(p[max(t - 1, 0)], neighbours, k, way)
                by = (1.0 - beyond) * factor[way, c] + beyond * factor[way, c + 1]
                out[way, t, k] = min(max(chance[way, k] * by, 1e-7), MOST)


@njit(cache=True, nogil=True)
def _count(posterior, steps, first, neighbours, chance, factor, alone, total, sites, classes, explained):
    """Add up the rows from `first` on.

    `total` (2, rows, m): chances to fill and to empty. To `sites` (6, m): arrivals, departures, frames empty and
    occupied before, and these times the factor of the neighbours; to `classes` (4, k + 2): arrivals and departures by
    occupied neighbours, and those to be expected without a factor; to `explained` (2,): the switches that no
    neighbour's explains, and all.
    """
    p = posterior[0]
    for t in range(first, p.shape[0]):
        if steps[t] != 1:
            continue
        for k in range(p.shape[1]):
            for way in range(2):
                c, beyond = _around(p[t - 1], neighbours, k, way)
                switched = posterior[1 + way, t, k]
                at_risk = p[t - 1, k] if way else 1.0 - p[t - 1, k]
                low, high = (1.0 - beyond) * factor[way, c], beyond * factor[way, c + 1]
                by = low + high
                sites[way, k] += switched
                sites[2 + way, k] += at_risk
                sites[4 + way, k] += at_risk * by
                classes[way, c] += switched * low / by
                classes[way, c + 1] += switched * high / by
                classes[2 + way, c] += at_risk * chance[way, k] * (1.0 - beyond)
                classes[2 + way, c + 1] += at_risk * chance[way, k] * beyond
                explained[0] += switched * min(alone[k] * chance[way, k] * by / total[way, t, k], 1.0)
                explained[1] += switched
