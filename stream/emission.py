"""From what the column finder said of a site to evidence: log-likelihood ratios of occupied to empty.

The occupancy filter takes such ratios and nothing else, so another source of evidence needs only
to give them. Here they come from detections: P(detected | occupied) and P(detected | empty) per site,
drawn towards their common value while a site has been seen little.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stream.places import DETECTED, MISSED, UNOBSERVED

# of P(detected | empty) and P(detected | occupied): a column seen less often is none; one miss is no proof,
# and a site that the network finds hard (thick, near a contrast reversal) is soon known as such
_LOWEST, _HIGHEST = (0.002, 0.2), (0.25, 0.995)
_TRUSTED = 0.95  # however reliably a site was detected so far, a miss says no more than this lets it
_ALL = slice(None)
_POOL_FRAMES = 500.0  # weight of the start values against all sites together, in site-frames
_SITE_FRAMES = 10.0  # weight of the common value against one site's own record


@njit(cache=True, nogil=True)
def _learn(code, p_occupied, keep, frames, detections):
    """Count what was seen (m,) for either state by its probability, and forget a little."""
    for k in range(len(code)):
        for state in range(2):
            share = p_occupied[k] if state else 1.0 - p_occupied[k]
            frames[state, k] = frames[state, k] * keep + share * (code[k] != UNOBSERVED)
            detections[state, k] = detections[state, k] * keep + share * (code[k] == DETECTED)


@njit(cache=True, nogil=True, error_model="numpy")
def _ratios(pooled, frames, detections):
    """(4, m) f8: P(detected | empty) and P(detected | occupied) of each site, and log ratios of a hit and of a miss."""
    out = np.empty((4, frames.shape[1]))
    for k in range(frames.shape[1]):
        for state in range(2):
            share = (_SITE_FRAMES * pooled[state] + detections[state, k]) / (_SITE_FRAMES + frames[state, k])
            out[state, k] = min(max(share, _LOWEST[state]), _HIGHEST[state])
        empty, occupied = out[0, k], out[1, k]
        out[2, k] = np.log(occupied / empty)
        out[3, k] = np.log((1.0 - min(occupied, _TRUSTED)) / (1.0 - empty))
    return out


class Emission:
    """What a detection and a miss are worth; refined from the smoothed occupancy.

    Parameters
    ----------
    detect_occupied, detect_empty : P(detected | occupied) and P(detected | empty) to begin with.
    memory_frames : older frames are gradually forgotten.

    Raises
    ------
    ValueError
        If a detection would be no evidence of a column.
    """

    def __init__(
        self,
        detect_occupied: float = 0.9,
        detect_empty: float = 0.05,
        memory_frames: float = 2000.0,
    ) -> None:
        if not 0 < detect_empty < detect_occupied < 1:
            raise ValueError(
                "a detection must be evidence: expected 0 < detect_empty < detect_occupied < 1, "
                f"got {detect_empty} and {detect_occupied}"
            )
        self._start = np.array([detect_empty, detect_occupied])
        self._keep = 1.0 - 1.0 / memory_frames
        self._frames = np.zeros((2, 0))  # frames seen empty and occupied, per site
        self._detections = np.zeros((2, 0))
        self._known: np.ndarray | None = None

    @property
    def pooled(self) -> tuple[float, float]:
        """P(detected | empty) and P(detected | occupied) of all sites together."""
        share = _POOL_FRAMES * self._start + self._detections.sum(axis=1)
        share /= _POOL_FRAMES + self._frames.sum(axis=1)
        empty, occupied = np.clip(share, _LOWEST, _HIGHEST).tolist()
        return empty, occupied

    @property
    def detect(self) -> np.ndarray:
        """(2, m) f8, P(detected | empty) and P(detected | occupied) of each site."""
        return self._worth()[:2]

    def _worth(self) -> np.ndarray:
        """(4, m) f8, as `_ratios`; made anew when something was learned since."""
        if self._known is None:
            self._known = _ratios(np.array(self.pooled), self._frames, self._detections)
        return self._known

    def add(self, sites: int) -> None:
        """Make room for that many new sites, after the others."""
        room = np.zeros((2, sites))
        self._frames = np.concatenate([self._frames, room], axis=1)
        self._detections = np.concatenate([self._detections, room], axis=1)
        self._known = None

    def forget(self, site: np.ndarray) -> None:
        """Sites (b,) begin anew."""
        self._frames[:, site] = self._detections[:, site] = 0.0
        self._known = None

    def merge(self, a: int, b: int) -> None:
        """Site a takes in site b, in the same place: it was occupied whenever one of them was."""
        empty, occupied = self._frames[:, [a, b]]
        self._frames[:, a] = max(empty[0] - occupied[1], 0.0), occupied.sum()
        self._detections[:, a] += self._detections[:, b]
        self._detections[:, a] = np.minimum(self._detections[:, a], self._frames[:, a])
        self.forget(np.array([b]))

    @property
    def told(self) -> np.ndarray:
        """(m,) f8, how far the log ratios of occupied and empty frames lie apart on average: what it is worth."""
        empty, occupied, hit, miss = self._worth()
        return (occupied - empty) * (hit - miss)

    def log_ratio(self, code: np.ndarray, site: np.ndarray | slice = _ALL) -> np.ndarray:
        """log P(code | occupied) / P(code | empty).

        Parameters
        ----------
        code : (..., b) u1, as in `Sighting`.
        site : (b,) i8, whose; by default all.

        Returns
        -------
        (..., b) f8; 0 where a site was not observed.
        """
        hit, miss = self._worth()[2:, site]
        return np.where(code == DETECTED, hit, np.where(code == MISSED, miss, 0.0))

    def learn(self, code: np.ndarray, p_occupied: np.ndarray) -> None:
        """Refine from codes (m,) and the smoothed P(occupied) (m,) of the same frame.

        One step of the EM algorithm, online: what was seen counts for either state by its probability.
        """
        _learn(code, p_occupied, self._keep, self._frames, self._detections)
        self._known = None

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        return {"frames": self._frames.copy(), "detections": self._detections.copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of an Emission made with the same arguments."""
        self._frames = np.array(state["frames"])
        self._detections = np.array(state["detections"])
        self._known = None
