"""What each site looks like with its column and without: evidence from the picture itself.

Once a site is known, "is it occupied in this frame" is far easier than finding it anew. A patch of the normalized
picture around the site is compared with the mean patch of the frames that had the column and of those that had
not, both learned from this very site as its occupancy becomes known: a matched filter, whitened by the covariance of
what the means leave over (noise, neighbours that come and go, what drift correction missed), which all sites share.
With Gaussian noise this is the likelihood ratio, the best test there is (R. A. Fisher, Ann. Eugen. 7 (1936) 179).

A site in more noise than others (a neighbour that flickers, a place where nothing is but what was learned from chance)
would say more than it knows. So what it said is held against what it turned out to be, and what spreads more than a
likelihood ratio may is divided by that excess (R. W. M. Wedderburn, Biometrika 61 (1974) 439).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stream.picture import SAMPLES, Picture, look_by

_STEPS_PER_SPACING = 6  # samples from one column to the next
_MEMORY_FRAMES = 2000.0  # older frames are gradually forgotten,
_FORGET, _SHORTEST = 1.5, 30.0  # in the beginning sooner: 1.5 times a site's record, at least 30 frames
_PRIOR_FRAMES = (
    2.0,
    200.0,
)  # that what is common to all sites stands for, against a site's own: least and most
_SOME = 5  # sites, to tell how much they differ
_ENOUGH_FRAMES = 8.0  # of a site, and
# a site in one state that looks like the other: so many spreads away, and that share of the contrast
_UNLIKE, _APART = 4.0, 0.2
_STRANGE = 5.0  # spreads: so far from how empty sites look
_ENOUGH_CONTRAST = 20.0  # site-frames behind the common contrast, before it is asked
_NOISE_FRAMES = 2000.0  # site-frames of which the noise's covariance remembers
_NOISE_SITES = 64  # looked at for it in one frame, at most
_RIDGE = 0.02  # of the mean variance, added to each: the covariance is itself an estimate
_REFRESH = 5, 50  # updates from one renewal of the filters to the next: a tenth of all so far, within these
_MOST = 12.0  # no single frame says more than this


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _filtered(patch, matched, offset):
    """(m,) f8, log ratios of patches (m, samples) by the matched filters, whatever noise a site is in."""
    out = np.empty(len(patch))
    for k in range(len(patch)):
        total = np.float32(0)
        for i in range(patch.shape[1]):
            total += patch[k, i] * matched[k, i]
        out[k] = total - offset[k]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _take_in(patch, ratio, told, state, looked, age, frames, total, excess):
    """Learn from patches (m, samples), for either state by its probability (2, m); all that was learned is renewed.

    `total` (2, m, samples) and `frames` (2, m): forgotten a little, then added to. What was made of the first frames
    must not be held for what they showed: a young site forgets sooner. `excess` (m,): how far log ratios lie from what
    is expected of either state, ± half of what they are worth; the square of that should be their worth, on average.
    """
    for k in range(len(looked)):
        memory = min(max(_FORGET * age[k], _SHORTEST), _MEMORY_FRAMES)
        if told[k] > 0:
            off = (
                state[0, k] * (ratio[k] + 0.5 * told[k]) ** 2 + state[1, k] * (ratio[k] - 0.5 * told[k]) ** 2
            )
            excess[k] += (state[0, k] + state[1, k]) / memory * (off / max(told[k], 1e-9) - excess[k])
        age[k] += looked[k]
        keep = 1.0 - 1.0 / min(max(_FORGET * age[k], _SHORTEST), _MEMORY_FRAMES)
        for s in range(2):
            frames[s, k] = frames[s, k] * keep + state[s, k]
            old, new = np.float32(keep), np.float32(state[s, k])
            for i in range(patch.shape[1]):
                total[s, k, i] = total[s, k, i] * old + new * patch[k, i]


@njit(cache=True, nogil=True, error_model="numpy")
def _left_over(patch, state, frames, total, noise):
    """Add to `noise` (samples, samples) what the means leave over, for either state by its probability (2, m), at some
    of the sites; returns the site-frames that were heard."""
    samples = patch.shape[1]
    heard = np.empty(len(patch), np.int64)
    n = 0
    for k in range(len(patch)):
        if (state[0, k] > 0 and frames[0, k] >= _ENOUGH_FRAMES) or (
            state[1, k] > 0 and frames[1, k] >= _ENOUGH_FRAMES
        ):
            heard[n] = k
            n += 1
    left, frames_heard = np.empty(samples), 0.0
    for k in heard[: n : 1 + n // _NOISE_SITES]:
        for s in range(2):
            weight = state[s, k] if frames[s, k] >= _ENOUGH_FRAMES else 0.0
            if weight <= 0:
                continue
            frames_heard += weight
            weight *= frames[s, k] / (frames[s, k] + 1.0)  # a mean of n leaves (n + 1) / n of the variance
            for i in range(samples):
                left[i] = patch[k, i] - total[s, k, i] / frames[s, k]
            for i in range(samples):
                for j in range(samples):
                    noise[i, j] += weight * left[i] * left[j]
    return frames_heard


class Appearance:
    """The looks of all sites, learned while they are followed.

    Parameters
    ----------
    lag : updates after which the occupancy of a frame is told.

    Attributes
    ----------
    strange : (m,) bool, sites that look neither empty nor occupied as others do: no picture tells what they are.
    """

    def __init__(self, lag: int) -> None:
        self._step_px = np.zeros(1, np.int64)  # 0 until the first site is known
        self._frames = np.zeros((2, 0))  # seen empty and occupied, per site
        self._sum = np.zeros((2, 0, SAMPLES), np.float32)
        self._age = np.zeros(0)  # frames ever learned from
        self._noise = np.zeros((SAMPLES, SAMPLES))
        self._noise_frames = np.zeros(1)
        self._past = np.zeros((lag + 1, 0, SAMPLES), np.float32)  # patches of the last frames, a ring
        self._looked = np.zeros((lag + 1, 0), np.bool_)
        self._newest = 0
        self._filter = np.zeros((0, SAMPLES), np.float32)
        self._offset = np.zeros(0)
        self._told = np.zeros(0)
        self.strange = np.zeros(0, np.bool_)
        self._excess = np.zeros(0)  # spread of a site's log ratios over that of true ones, a variance
        self._updates = np.zeros(2, np.int64)  # learned from, and those when the filters were renewed

    def add(self, sites: int) -> None:
        """Make room for that many new sites, after the others."""

        def widen(array: np.ndarray, axis: int) -> np.ndarray:
            shape = list(array.shape)
            shape[axis] = sites
            return np.concatenate([array, np.zeros(shape, array.dtype)], axis=axis)

        for name, axis in _PER_SITE.items():
            setattr(self, name, widen(getattr(self, name), axis))

    def forget(self, site: np.ndarray) -> None:
        """Sites (b,) are learned anew, perhaps in a slightly different place."""
        for name, axis in _PER_SITE.items():
            getattr(self, name)[(slice(None),) * axis + (site,)] = 0

    def log_ratio(
        self, picture: Picture, yx_px: np.ndarray, observed: np.ndarray, spacing_px: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """log P(picture | occupied) / P(picture | empty) of each site.

        Parameters
        ----------
        picture : of the newest frame.
        yx_px : (m, 2), the sites in that frame's pixels.
        observed : (m,) bool, sites in view.
        spacing_px : between neighbouring columns, in the frame's pixels; asked for once.

        Returns
        -------
        (m,) f8, 0 where not observed, and (m,) f8, how far such ratios of occupied and empty frames lie apart on
        average: what a picture is worth as evidence, 0 while the site's looks are not known.
        """
        if not self._step_px[0]:
            spacing = spacing_px / float(np.sqrt(np.prod(picture.zoom)))
            self._step_px[0] = max(1, round(spacing / _STEPS_PER_SPACING))
        self._newest = (self._newest + 1) % len(self._past)
        self._looked[self._newest] = observed
        patch = self._past[self._newest]
        look = look_by(int(self._step_px[0]))
        look(picture.image, picture.to_image_px(yx_px), observed, patch)
        ratio = _filtered(patch, self._filter, self._offset)
        doubt = np.maximum(self._excess, 1.0)
        return np.where(observed, np.clip(ratio / doubt, -_MOST, _MOST), 0.0), self._told / doubt

    def skip(self) -> None:
        """A frame without a picture, or in which no site could be told."""
        self._newest = (self._newest + 1) % len(self._past)
        self._looked[self._newest] = False

    def learn(self, p_occupied: np.ndarray) -> None:
        """Take in the patches of `lag` updates ago, of which the smoothed P(occupied) (m,) is known now.

        One step of the EM algorithm, online: a patch counts for either state by its probability.
        """
        oldest = (self._newest + 1) % len(self._past)
        patch, looked = self._past[oldest], self._looked[oldest]
        if not looked.any():
            return
        state = np.stack([1.0 - p_occupied, p_occupied]) * looked
        self._learn_noise(patch, state)
        ratio = _filtered(patch, self._filter, self._offset)
        _take_in(
            *(patch, ratio, self._told, state, looked), *(self._age, self._frames, self._sum, self._excess)
        )
        self._updates[0] += 1
        learned, renewed = self._updates.tolist()
        least, most = _REFRESH
        if learned - renewed >= min(max(learned // 10, least), most):
            self._renew()

    def _learn_noise(self, patch: np.ndarray, state: np.ndarray) -> None:
        """What the means leave over: the older the less of it counts."""
        left = np.zeros_like(self._noise)
        heard_frames = _left_over(patch, state, self._frames, self._sum, left)
        keep = 1.0 - heard_frames / (_NOISE_FRAMES + heard_frames)
        self._noise = self._noise * keep + left
        self._noise_frames[0] = self._noise_frames[0] * keep + heard_frames

    def _renew(self) -> None:
        """Make the filters anew from what was learned."""
        self._updates[1] = self._updates[0]
        frames, noise_frames = self._frames, float(self._noise_frames[0])
        both = frames[0] * frames[1] / np.maximum(frames.sum(axis=0), 1e-9)
        both[frames.min(axis=0) < 0.5 * _ENOUGH_FRAMES] = 0.0
        if both.sum() < _ENOUGH_CONTRAST or noise_frames < 2 * SAMPLES:
            return
        mean = self._sum / np.maximum(frames, 1e-9)[:, :, None]
        own = mean[1] - mean[0]
        common = (both @ own) / both.sum()
        noise = self._noise / noise_frames
        noise = noise + _RIDGE * np.trace(noise) / SAMPLES * np.eye(SAMPLES)

        frames, mean, strange = self._set_right(mean, common, np.linalg.solve(noise, common), both)

        # what a site was not seen as is expected to differ from what it was by what is common to all
        known = both >= _ENOUGH_FRAMES
        alike = self._alike(own[known] - common, both[known], noise)
        prior = 1.0 / (1.0 / alike + 1.0 / np.maximum(frames[::-1], 1e-9))
        weight = frames + prior
        empty = (self._sum[0] + prior[0][:, None] * (mean[1] - common)) / weight[0][:, None]
        occupied = (self._sum[1] + prior[1][:, None] * (mean[0] + common)) / weight[1][:, None]

        contrast = occupied - empty
        white = np.linalg.solve(noise, contrast.T).T
        strength = np.einsum("kp,kp->k", contrast, white)
        # means of few frames differ by chance alone: that part of the strength is none (W. James, C. Stein, 1961)
        chance = SAMPLES * (1.0 / weight).sum(axis=0)
        worth = np.maximum(0.0, 1.0 - chance / np.maximum(strength, 1e-9))
        self._filter = np.ascontiguousarray(white * worth[:, None], np.float32)
        self._offset = np.einsum("kp,kp->k", self._filter, 0.5 * (empty + occupied))
        self.strange = strange
        self._told = np.where(frames.sum(axis=0) >= _ENOUGH_FRAMES, strength * worth, 0.0)

    def _set_right(
        self, mean: np.ndarray, common: np.ndarray, white: np.ndarray, both: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Share out anew the record of sites that were seen in one state only, and look like the other.

        A site that was held for empty while it was occupied would be so for ever: what it looks like would be how
        an empty site looks there. But all empty sites look much alike, and so do occupied ones, along the contrast
        that is common to them. A site that does not look empty even when it is held for empty is strange: what
        tells its states apart is something else, such as chance.

        Returns
        -------
        `_frames` and the means as they are now, and (m,) bool, strange sites.
        """
        frames, known = self._frames, both >= _ENOUGH_FRAMES
        if np.count_nonzero(known) < _SOME:
            return frames, mean, np.zeros(len(both), np.bool_)
        level = mean @ (white / (common @ white))
        # of all that were seen in a state, not only of those seen in both: columns at the rim are thinner than others
        seen = [each[often >= _ENOUGH_FRAMES] for each, often in zip(level, frames, strict=True)]
        typical = np.array([np.median(each) for each in seen])
        spread = np.array([1.48 * np.median(np.abs(each - np.median(each))) for each in seen])
        gap = typical[1] - typical[0]
        far = np.maximum(_UNLIKE * spread, _APART * gap)
        one_sided = (frames.min(axis=0) < _ENOUGH_FRAMES) & (frames.max(axis=0) >= _ENOUGH_FRAMES)
        mostly = np.argmax(frames, axis=0)
        off = (level - typical[:, None]) * np.array([[1.0], [-1.0]])  # towards the other state
        wrong = np.flatnonzero(one_sided & (np.take_along_axis(off, mostly[None], 0)[0] > far[mostly]))
        strange = known & (off[0] > max(_STRANGE * spread[0], _APART * gap))
        if gap <= 0 or not len(wrong):
            return frames, mean, strange
        total = frames[:, wrong].sum(axis=0)
        overall = self._sum[:, wrong].sum(axis=0) / total[:, None]
        at = overall @ (white / (common @ white))
        share = np.clip((at - typical[0]) / gap, 0.0, 1.0)
        empty = overall - ((at - typical[0]) * (share > 0))[:, None] * common
        looks = np.stack([empty, empty + gap * common])
        self._frames[:, wrong] = frames[:, wrong] = np.stack([1.0 - share, share]) * total
        self._sum[:, wrong] = frames[:, wrong, None] * looks
        return frames, self._sum / np.maximum(frames, 1e-9)[:, :, None], strange

    def _alike(self, differ: np.ndarray, frames: np.ndarray, noise: np.ndarray) -> float:
        """For how many frames of its own the common contrast stands: as many as make chance as large as what sites
        really differ by (k, samples), beyond the chance there is in means of `frames` (k,). Empirical Bayes."""
        least, most = _PRIOR_FRAMES
        if len(differ) < _SOME:
            return most
        spread = np.einsum("kp,kp->k", differ, np.linalg.solve(noise, differ.T).T) / SAMPLES
        return float(np.clip(1.0 / max(float((spread - 1.0 / frames).mean()), 1e-9), least, most))

    _LEARNED = (
        *("_age", "_step_px", "_frames", "_sum", "_noise", "_noise_frames"),
        *("_filter", "_offset", "_told", "_excess", "strange", "_updates"),
    )

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as copies; patches of the last frames are left out, and not learned from."""
        return {name.strip("_"): getattr(self, name).copy() for name in self._LEARNED}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state()` of an Appearance made with the same arguments."""
        self.__init__(len(self._past) - 1)
        self.add(state["frames"].shape[1])
        for name in self._LEARNED:
            setattr(self, name, np.array(state[name.strip("_")]))


_PER_SITE = {  # and the axis of the sites
    "_frames": 1,
    "_sum": 1,
    "_age": 0,
    "_past": 1,
    "_looked": 1,
    "_filter": 0,
    "_offset": 0,
    "_told": 0,
    "_excess": 0,
    "strange": 0,
}
