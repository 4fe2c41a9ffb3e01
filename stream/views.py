"""What of the specimen the frames showed so far: a place nobody asked about has a past, too.

The last frames are remembered one by one; of those before, only how many had which shift and turn.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stream.places import GATE, MISSED, UNOBSERVED

_MARGIN = 0.5  # of the spacing: nearer to the border, detection is not to be trusted
_BLIND = 0.25  # of the pixels around a place: if so many are bad, it is not seen
_VIEW_PX = 4.0  # where the frame's corners lay in the past is remembered so closely
_MOST_VIEWS = 4096  # of these; with more of them, they are remembered less closely


@njit(cache=True, nogil=True, error_model="numpy")
def _shown(yx_nm, pixel_size_nm, views, margin_px, shape):
    """Positions (n, 2) in frames shifted and turned by views (k, 3): (k, n, 2) px, and (k, n) bool, whether they lie in
    the frame, so far from its border."""
    n = len(yx_nm)
    yx_px, inside = np.empty((len(views), n, 2)), np.empty((len(views), n), np.bool_)
    for v in range(len(views)):
        cosine, sine = np.cos(views[v, 2]), np.sin(views[v, 2])
        for k in range(n):
            y = yx_nm[k, 0] / pixel_size_nm + views[v, 0] - 0.5 * (shape[0] - 1)
            x = yx_nm[k, 1] / pixel_size_nm + views[v, 1] - 0.5 * (shape[1] - 1)
            py, px = (
                cosine * y + sine * x + 0.5 * (shape[0] - 1),
                cosine * x - sine * y + 0.5 * (shape[1] - 1),
            )
            yx_px[v, k, 0], yx_px[v, k, 1] = py, px
            inside[v, k] = (margin_px <= py <= shape[0] - 1 - margin_px) and (
                margin_px <= px <= shape[1] - 1 - margin_px
            )
    return yx_px, inside


class BlindSpots:
    """Where the camera's bad pixels hide a column.

    Parameters
    ----------
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed.
    """

    def __init__(self, bad_pixels: np.ndarray) -> None:
        self._bad = np.zeros(np.add(bad_pixels.shape, 1), np.int64)  # that many above and left of a corner
        self._bad[1:, 1:] = bad_pixels.cumsum(axis=0).cumsum(axis=1)

    def hide(self, yx_px: np.ndarray, reach_px: float) -> np.ndarray:
        """(n,) bool, whether a quarter of the pixels within `reach_px` of positions (n, 2) or more are bad; what lies
        outside of the frame is not."""
        low, high = (np.rint(yx_px + side * reach_px).astype(np.int64) for side in (-1, 1))
        last = np.array(self._bad.shape) - 1
        (top, left), (bottom, right) = np.clip(low, 0, last).T, np.clip(high + 1, 0, last).T
        bad = (
            self._bad[bottom, right] - self._bad[top, right] - self._bad[bottom, left] + self._bad[top, left]
        )
        pixels = (bottom - top) * (right - left)
        return (pixels > 0) & (bad >= _BLIND * pixels)


class Views:
    """Where the camera looked.

    Parameters
    ----------
    shape_yx, pixel_size_nm : of the frames.
    memory : frames that are remembered one by one.
    bad_pixels : (ny, nx) bool, True where a pixel must not be believed: a place behind many of them is not seen.
    """

    def __init__(
        self, shape_yx: tuple[int, int], pixel_size_nm: float, memory: int, bad_pixels: np.ndarray | None
    ) -> None:
        self._shape, self._pixel_size_nm = np.asarray(shape_yx, np.float64), pixel_size_nm
        self._blind = BlindSpots(bad_pixels) if bad_pixels is not None and bad_pixels.any() else None
        self._last = np.zeros((memory, 4))  # of the last frames: shift y, x in px, turn, and 1 if observed
        self._before: dict[tuple[int, ...], int] = {}  # rounded shifts and turns of all frames before those
        self._step_px = _VIEW_PX
        self._corner_px = (
            float(np.hypot(*self._shape)) / 2
        )  # from the middle: a turn moves it by so much per rad

    def note(self, shift_yx_px: np.ndarray, turn_rad: float, *, lost: bool) -> None:
        """Take the next frame; one that was lost showed nothing."""
        *view, observed = self._last[0]
        if observed:
            self._round(np.array(view))
        self._last[:-1] = self._last[1:]
        self._last[-1] = (*shift_yx_px, turn_rad, 0.0 if lost else 1.0)

    def show(
        self, yx_nm: np.ndarray, spacing_px: float, shift_yx_px: np.ndarray, turn_rad: float = 0.0
    ) -> np.ndarray:
        """(n,) bool: whether specimen positions lie in a frame so shifted and turned, away from its border, and not
        where the camera is blind."""
        return self._show(yx_nm, spacing_px, np.array([[*shift_yx_px, turn_rad]]), _MARGIN)[0]

    def _show(self, yx_nm: np.ndarray, spacing_px: float, views: np.ndarray, margin: float) -> np.ndarray:
        """(k, n) bool, as `show`, of frames shifted and turned by views (k, 3); `margin` spacings from the border."""
        yx_px, seen = _shown(
            *(np.ascontiguousarray(yx_nm), self._pixel_size_nm, views, margin * spacing_px, self._shape)
        )
        if self._blind is not None:
            seen &= ~self._blind.hide(yx_px.reshape(-1, 2), GATE * spacing_px).reshape(seen.shape)
        return seen

    def missed(self, yx_nm: np.ndarray, spacing_px: float) -> np.ndarray:
        """(memory, n) u1, MISSED or UNOBSERVED: what the last frames say of places without a column, oldest first.

        At the very border they say nothing: a column found just outside would have opened nothing.
        """
        shown = self._show(yx_nm, spacing_px, self._last[:, :3], _MARGIN + GATE)
        return np.where(shown & (self._last[:, 3:] > 0), MISSED, UNOBSERVED).astype(np.uint8)

    def before(self, yx_nm: np.ndarray, spacing_px: float) -> np.ndarray:
        """(n,) f8, how many of the frames before the last ones showed places, not at their very border."""
        if not len(yx_nm) or not self._before:
            return np.zeros(len(yx_nm))
        frames = np.array(list(self._before.values()), np.float64)
        views = np.array(list(self._before), np.float64) * self._steps
        return frames @ self._show(yx_nm, spacing_px, views, _MARGIN + GATE)

    @property
    def _steps(self) -> np.ndarray:
        """(3,) f8, how closely shifts along y and x in px and turns in rad are remembered."""
        return self._step_px / np.array([1.0, 1.0, self._corner_px])

    def _round(self, view: np.ndarray) -> None:
        y, x, turn = np.rint(view / self._steps).astype(int).tolist()
        self._before[y, x, turn] = self._before.get((y, x, turn), 0) + 1
        if len(self._before) > _MOST_VIEWS:
            finer, self._before = self._before, {}
            self._step_px *= 2
            for one, frames in finer.items():
                coarse = tuple(round(v / 2) for v in one)
                self._before[coarse] = self._before.get(coarse, 0) + frames

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies."""
        before = [(*view, count) for view, count in self._before.items()]
        return {
            "last": self._last.copy(),
            "before": np.array(before, np.int64).reshape(-1, 4),
            "step_px": np.array(self._step_px),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()`."""
        self._last = np.array(state["last"])
        self._before = {tuple(view): count for *view, count in state["before"].tolist()}
        self._step_px = float(state["step_px"])
