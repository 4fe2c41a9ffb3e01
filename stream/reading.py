"""What the network's map shows at sites that are known already: evidence that no threshold has cut.

What is missed by a hair is not missed like that of which the map shows nothing, and a maximum that just makes a column
is not one that is beyond doubt. So each site's maximum is read off the map, and how high it is, in a few levels, is
evidence whose worth is learned per site (`stream.emission`).
"""

from __future__ import annotations

import numpy as np

from stream.emission import Emission
from stream.picture import Picture, highest

_EDGES = np.array([0.015, 0.05, 0.14, 0.32, 0.65], np.float32)  # of P(column), between the levels
_HITS = 3  # levels from here on speak for a column
_START = (0.8, 0.08, 0.05, 0.04, 0.02, 0.01), (0.03, 0.03, 0.04, 0.1, 0.2, 0.6)  # if empty, if occupied
_REACH = 0.25  # of the spacing: maxima farther than that are a neighbour's, at low dose


class Reading:
    """Evidence from the network's maps.

    Parameters
    ----------
    lag : updates after which it is known what a site was.
    """

    def __init__(self, lag: int) -> None:
        self.emission = Emission(_START, _HITS)
        self._past = np.zeros((lag + 1, 0), np.uint8)  # levels in the last frames, oldest first

    def add(self, sites: int) -> None:
        """Make room for that many new sites, after the others."""
        self.emission.add(sites)
        self._past = np.concatenate([self._past, np.zeros((len(self._past), sites), np.uint8)], axis=1)

    def forget(self, site: np.ndarray) -> None:
        """Sites (b,) begin anew."""
        self.emission.forget(site)
        self._past[:, site] = 0

    def log_ratio(
        self, picture: Picture, yx_px: np.ndarray, observed: np.ndarray, spacing_px: float
    ) -> np.ndarray:
        """log P(map | occupied) / P(map | empty) of each site.

        Parameters
        ----------
        picture : of the newest frame, with its map.
        yx_px : (m, 2), the sites in that frame's pixels.
        observed : (m,) bool, sites in view.
        spacing_px : between neighbouring columns, in the frame's pixels.

        Returns
        -------
        (m,) f8, 0 where not observed.
        """
        reach = max(1, int(_REACH * spacing_px / picture.map_px))
        height = highest(picture.background, picture.to_map_px(yx_px), observed, reach)
        self._see(np.where(observed, 1 + np.searchsorted(_EDGES, height, side="right"), 0))
        return self.emission.log_ratio(self._past[-1])

    def skip(self) -> None:
        """A frame without a map."""
        self._see(0)

    def learn(self, p_occupied: np.ndarray) -> None:
        """Take in the levels of `lag` updates ago, of which the smoothed P(occupied) (m,) is known now."""
        self.emission.learn(self._past[0], p_occupied)

    def _see(self, level: np.ndarray | int) -> None:
        self._past = np.concatenate([self._past[1:], self._past[:1]])
        self._past[-1] = level

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies; levels in the last frames are left out, and not learned from."""
        return self.emission.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of a Reading made with the same arguments."""
        self.emission.restore(state)
        self._past = np.zeros((len(self._past), state["seen"].shape[2]), np.uint8)
