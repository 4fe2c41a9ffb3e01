"""From what a frame shows at a site to evidence: log-likelihood ratios of occupied to empty.

The occupancy filter takes such ratios and nothing else, so another source of evidence needs only to give them. Here
they come from levels, the lowest first: whether a column was found (missed, found), or how high the network's map rises
(`stream.reading`). P(level | empty) and P(level | occupied) are learned per site, drawn towards their common value
while a site has been seen little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

# of P(hit | empty) and P(hit | occupied): a column seen less often is none; one miss is no proof,
# and a site that the network finds hard (thick, near a contrast reversal) is soon known as such
_LOWEST, _HIGHEST = (0.002, 0.2), (0.25, 0.995)
_TRUSTED = 0.95  # however reliably a site was seen so far, a miss says no more than this lets it
_MOST = float(np.log(_HIGHEST[1] / _LOWEST[0]))  # that one frame says
_ALL = slice(None)
_POOL_FRAMES = 500.0  # weight of the start values against all sites together, in site-frames
_SITE_FRAMES = 5.0  # weight of the common value against one site's own record
_REFRESH = 1, 10  # updates after which worths are made anew: a tenth of all so far, within these


@njit(cache=True, nogil=True)
def _learn(code, p_occupied, keep, seen):
    """Count what was seen (m,) for either state by its probability, and forget a little; `seen` (2, levels, m)."""
    seen *= keep
    for k in range(len(code)):
        if code[k] > 0:
            seen[0, code[k] - 1, k] += 1.0 - p_occupied[k]
            seen[1, code[k] - 1, k] += p_occupied[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _worth(pooled, seen, hits):
    """Of each site: P(hit | empty) and P(hit | occupied) (2, m), log ratios (1 + levels, m), the first of what was not
    observed, and how far those of occupied and empty frames lie apart on average (m,)."""
    levels, sites = seen.shape[1:]
    hit, ratio, told = np.empty((2, sites)), np.zeros((1 + levels, sites)), np.zeros(sites)
    share = np.empty((2, levels))
    for k in range(sites):
        for state in range(2):
            total, held = 0.0, 0.0
            for level in range(levels):
                share[state, level] = _SITE_FRAMES * pooled[state, level] + seen[state, level, k]
                total += share[state, level]
                held += share[state, level] if level >= hits else 0.0
            held /= total
            hit[state, k] = min(max(held, _LOWEST[state]), _HIGHEST[state])
            above, below = hit[state, k] / held / total, (1.0 - hit[state, k]) / (1.0 - held) / total
            for level in range(levels):
                share[state, level] *= above if level >= hits else below
        doubt = (1.0 - min(hit[1, k], _TRUSTED)) / (1.0 - hit[1, k])
        for level in range(levels):
            odds = share[1, level] * (doubt if level < hits else 1.0) / share[0, level]
            ratio[1 + level, k] = min(max(np.log(odds), -_MOST), _MOST)
            told[k] += (share[1, level] - share[0, level]) * ratio[1 + level, k]
    return hit, ratio, told


@njit(cache=True, nogil=True)
def _each(ratio, code):
    """Of log ratios (1 + levels, b), those that codes (k, b) say."""
    out = np.empty(code.shape)
    for i in range(code.shape[0]):
        for k in range(code.shape[1]):
            out[i, k] = ratio[code[i, k], k]
    return out


class Emission:
    """What each level is worth; refined from the smoothed occupancy.

    Parameters
    ----------
    start : (2, levels), P(level | empty) and P(level | occupied) to begin with.
    hits : the first of the levels that speak for a column.
    memory_frames : older frames are gradually forgotten.

    Raises
    ------
    ValueError
        If these are no probabilities, or a hit would be no evidence of a column.
    """

    def __init__(
        self,
        start: Sequence[Sequence[float]] = ((0.95, 0.05), (0.1, 0.9)),
        hits: int = 1,
        memory_frames: float = 2000.0,
    ) -> None:
        self._start, self._hits = np.array(start, np.float64), hits
        empty, occupied = self._start[:, hits:].sum(axis=1)
        whole = (self._start > 0).all() and np.allclose(self._start.sum(axis=1), 1.0)
        if not whole or not empty < occupied:
            raise ValueError(
                "a hit must be evidence: expected chances above 0 of every level, that add up to 1 if empty and if "
                f"occupied, and P(hit | empty) < P(hit | occupied); got {self._start.tolist()}"
            )
        self._keep = 1.0 - 1.0 / memory_frames
        self._seen = np.zeros((*self._start.shape, 0))  # frames of either state that showed a level, per site
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._learned = np.zeros(2, np.int64)  # updates, and those when the worths were made

    @property
    def pooled(self) -> np.ndarray:
        """(2, levels) f8, P(level | empty) and P(level | occupied) of all sites together."""
        seen = _POOL_FRAMES * self._start + self._seen.sum(axis=2)
        return seen / seen.sum(axis=1, keepdims=True)

    @property
    def hit(self) -> np.ndarray:
        """(2, m) f8, P(hit | empty) and P(hit | occupied) of each site."""
        return self._worth()[0]

    @property
    def told(self) -> np.ndarray:
        """(m,) f8, how far the log ratios of occupied and empty frames lie apart on average: what it is worth."""
        return self._worth()[2]

    def _worth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As the function; made anew when sites came, or enough was learned since."""
        learned, made = self._learned.tolist()
        least, most = _REFRESH
        if self._known is None or learned - made >= min(max(learned // 10, least), most):
            self._known = _worth(self.pooled, self._seen, self._hits)
            self._learned[1] = learned
        return self._known

    def add(self, sites: int) -> None:
        """Make room for that many new sites, after the others."""
        room = np.zeros((*self._start.shape, sites))
        self._seen = np.concatenate([self._seen, room], axis=2)
        self._known = None

    def forget(self, site: np.ndarray) -> None:
        """Sites (b,) begin anew."""
        self._seen[:, :, site] = 0.0
        self._known = None

    def merge(self, a: int, b: int) -> None:
        """Site a takes in site b, in the same place: it was occupied whenever one of them was."""
        empty, occupied = self._seen[0, :, a], self._seen[1][:, [a, b]]
        left = (
            empty.sum() - occupied[:, 1].sum()
        )  # of the frames in which a was empty, b was occupied in some
        self._seen[0, :, a] *= max(left, 0.0) / max(empty.sum(), 1e-9)
        self._seen[1, :, a] = occupied.sum(axis=1)
        self.forget(np.array([b]))

    def log_ratio(self, code: np.ndarray, site: np.ndarray | slice = _ALL) -> np.ndarray:
        """log P(code | occupied) / P(code | empty).

        Parameters
        ----------
        code : (..., b) u1, 1 for the lowest level and so on; 0 where a site was not observed.
        site : (b,) i8, whose; by default all.

        Returns
        -------
        (..., b) f8; 0 where a site was not observed.
        """
        ratio = self._worth()[1][:, site]
        return _each(ratio, np.atleast_2d(code)).reshape(code.shape)

    def learn(self, code: np.ndarray, p_occupied: np.ndarray) -> None:
        """Refine from codes (m,) and the smoothed P(occupied) (m,) of the same frame.

        One step of the EM algorithm, online: what was seen counts for either state by its probability.
        """
        _learn(code, p_occupied, self._keep, self._seen)
        self._learned[0] += 1

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        hit, ratio, told = self._worth()
        known = {"hit": hit.copy(), "ratio": ratio.copy(), "told": told.copy()}
        return {"seen": self._seen.copy(), "learned": self._learned.copy(), **known}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of an Emission made with the same arguments."""
        self._seen, self._learned = np.array(state["seen"]), np.array(state["learned"])
        self._known = tuple(np.array(state[name]) for name in ("hit", "ratio", "told"))  # type: ignore[assignment]
