"""How the phantom moves: columns that hop, come and go at the particle's edge, and the specimen's drift.

Both are functions of (settings, frame): asked for in any order, for any frame, they answer the same.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_BLOCK = 256  # frames of kinetics simulated at once

hop_dtype = np.dtype([("frame", "<i8"), ("from_site", "<i8"), ("to_site", "<i8")])


@njit(cache=True, nogil=True)
def _uniform(seed: np.uint64, frame: int, site: int) -> float:
    """A number in [0, 1) that depends on its arguments only: splitmix64's mixer, twice.

    G. L. Steele, D. Lea, C. H. Flood, OOPSLA 2014.
    """
    z = seed + np.uint64(frame) * np.uint64(0x9E3779B97F4A7C15)
    z ^= np.uint64(site) * np.uint64(0xD1B54A32D192ED03)
    for _ in range(2):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return float(z >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True)
def _beside(state: np.ndarray, neighbours: np.ndarray, site: int, but: int) -> int:
    """Occupied neighbours of `site`, not counting `but`."""
    count = 0
    for d in range(6):
        other = neighbours[site, d]
        if other >= 0 and other != but and state[other]:
            count += 1
    return count


@njit(cache=True, nogil=True)
def _run(state, neighbours, ease, seed, first, count, hop_rate, binding, exchange_rate):
    """Move `state` on from frame first - 1 to first + count - 1; the moves as (n, 3) frame, from, to.

    A site changes at most once per frame, so that the moves between two frames can be told apart.
    """
    moves = []
    sites = state.size
    stirred = np.full(sites, -1, np.int64)
    for frame in range(first, first + count):
        start = int(_uniform(seed, frame, sites) * sites)  # no site is always the first to move
        for k in range(sites):
            site = (start + k) % sites
            if stirred[site] == frame:
                continue
            beside = _beside(state, neighbours, site, -1)
            luck = _uniform(seed, frame, site)
            if not state[site]:
                if beside >= 2 and luck < exchange_rate:
                    state[site] = True
                    stirred[site] = frame
                    moves.append((frame, -1, site))
                continue
            if beside == 6:
                continue
            rate = hop_rate * ease[site] * np.exp(-binding * max(0, beside - 1))
            if luck < 6 * rate:
                target = neighbours[site, min(5, int(luck / rate))]
                free = target >= 0 and not state[target] and stirred[target] != frame
                if free and _beside(state, neighbours, target, site) > 0:
                    state[site] = False
                    state[target] = True
                    stirred[site] = frame
                    stirred[target] = frame
                    moves.append((frame, site, target))
                continue
            leave = exchange_rate * ease[site] * np.exp(-binding * max(0, beside - 3))
            if 1 - luck < (leave if beside > 0 else 0.2):  # nothing holds a column left alone
                state[site] = False
                stirred[site] = frame
                moves.append((frame, site, -1))
    table = np.empty((len(moves), 3), np.int64)
    for n in range(len(moves)):
        table[n, 0], table[n, 1], table[n, 2] = moves[n]
    return table


@njit(cache=True, nogil=True)
def _redo(state: np.ndarray, moves: np.ndarray, last: int) -> None:
    """Make the moves up to frame `last`."""
    for n in range(len(moves)):
        if moves[n, 0] > last:
            break
        if moves[n, 1] >= 0:
            state[moves[n, 1]] = False
        if moves[n, 2] >= 0:
            state[moves[n, 2]] = True


class Kinetics:
    """Which sites are occupied in which frame, simulated as far as asked and remembered.

    A lattice gas (K. Kawasaki, Phys. Rev. 145 (1966) 224): a column with n neighbours hops to each
    vacant neighbouring site, where another column must hold it, with probability
    hop_rate · exp(-hold - binding · (n - 1)) per frame. With probability exchange_rate per frame a
    column appears at a vacant site with two or more neighbours; one with up to three disappears with
    probability exchange_rate · exp(-hold), and each further neighbour keeps it by exp(-binding).

    Parameters
    ----------
    neighbours : (m, 6) i8, sites around each site, -1 where there is none.
    hold : (m,) f8, energy over kT with which a site itself holds its column.
    occupied : (m,) bool, in frame 0.
    seed : same seed, same history.
    hop_rate, exchange_rate : probabilities per frame.
    binding : energy of a neighbour over kT.
    """

    def __init__(
        self,
        neighbours: np.ndarray,
        hold: np.ndarray,
        occupied: np.ndarray,
        *,
        seed: int,
        hop_rate: float,
        binding: float,
        exchange_rate: float,
    ) -> None:
        if not 0 <= hop_rate <= 1 / 6 or not 0 <= exchange_rate <= 0.5 or binding < 0:
            raise ValueError(
                "impossible kinetics: hop_rate is per site and frame, 0 to 1/6, exchange_rate 0 to 0.5, "
                f"binding >= 0; got {hop_rate}, {exchange_rate}, {binding}"
            )
        self._neighbours, self._ease = neighbours, np.exp(-hold)
        self._seed = np.uint64(seed)
        self._rates = (float(hop_rate), float(binding), float(exchange_rate))
        self._states = [occupied.copy()]  # before each block's first move
        self._moves: list[np.ndarray] = []

    def _block(self, number: int) -> np.ndarray:
        while len(self._moves) <= number:
            block = len(self._moves)
            state = self._states[block].copy()
            first = max(1, block * _BLOCK)  # frame 0 is the start
            count = (block + 1) * _BLOCK - first
            moves = _run(state, self._neighbours, self._ease, self._seed, first, count, *self._rates)
            self._moves.append(moves)
            self._states.append(state)
        return self._moves[number]

    def occupancy_at(self, index: int) -> np.ndarray:
        """(m,) bool, the sites occupied in frame `index`."""
        block = index // _BLOCK
        moves = self._block(block)
        state = self._states[block].copy()
        _redo(state, moves, index)
        return state

    def moves(self, frames: int) -> np.ndarray:
        """Every move seen in frames 1 to frames - 1, of `hop_dtype`, in order.

        `frame` is the first frame that shows the column at its new place.
        """
        blocks = [self._block(b) for b in range(-(-frames // _BLOCK))]
        table = np.concatenate([np.empty((0, 3), np.int64), *blocks])
        table = table[table[:, 0] < frames]
        return np.rec.fromarrays(table.T, dtype=hop_dtype).view(np.ndarray)


class Drift:
    """Wandering of the specimen: eight slow sines per axis with random phases, plus jumps.

    A finite sum of sines is smooth, bounded and known at any time without its past.

    Parameters
    ----------
    rng : draws periods (60 to 1200 frames), phases and jumps.
    speed_px : rms speed along each axis, px per frame; each sine brings the same share.
    jump_px, jump_every : after every `jump_every` frames the specimen sits elsewhere, up to `jump_px` away
        along each axis.
    limit_px : the sines' amplitudes add up to this at most; a faster drift turns round sooner.
    """

    def __init__(
        self, rng: np.random.Generator, speed_px: float, jump_px: float, jump_every: int, limit_px: float
    ) -> None:
        if not (speed_px >= 0 and jump_px >= 0 and jump_every >= 1):
            raise ValueError(
                "impossible drift: expected a speed and jumps of 0 px or more, and at least 1 frame between "
                f"jumps, got {speed_px}, {jump_px}, {jump_every}"
            )
        periods = np.geomspace(60, 1200, 8) * rng.uniform(0.9, 1.1, (2, 8))
        amplitude = speed_px / np.sqrt(8) * np.sqrt(2) * periods / (2 * np.pi)
        shrink = min(1.0, limit_px / max(amplitude.sum(axis=1).max(), 1e-9))
        self._amplitude, self._period = amplitude * shrink, periods * shrink
        self._phase = rng.uniform(0, 2 * np.pi, (2, 8))
        self._jump_px, self._jump_every = jump_px, jump_every
        self._jump_key = int(rng.integers(2**63))
        self.reach_px = float(2 * self._amplitude.sum(axis=1).max() + jump_px)

    def at(self, index: int | np.ndarray) -> np.ndarray:
        """(..., 2) f8 of (y, x) in px; 0 in frame 0."""
        t = np.asarray(index)[..., None, None]
        turns = 2 * np.pi * t / self._period + self._phase
        drift = (self._amplitude * (np.sin(turns) - np.sin(self._phase))).sum(axis=-1)
        if self._jump_px > 0:
            epochs, where = np.unique(np.asarray(index) // self._jump_every, return_inverse=True)
            draws = [np.random.default_rng([self._jump_key, int(e)]).uniform(-1, 1, 2) for e in epochs]
            offsets = np.where(epochs[:, None] > 0, draws, 0.0) * self._jump_px
            drift = drift + offsets[where.reshape(np.shape(index))]
        return drift


class Turn:
    """Slow turning of the specimen: four sines with random phases.

    Parameters
    ----------
    rng : draws periods (400 to 2400 frames) and phases.
    most_deg : the turn never exceeds this.
    """

    def __init__(self, rng: np.random.Generator, most_deg: float) -> None:
        if not 0 <= most_deg <= 45:
            raise ValueError(f"impossible turn: expected at most 0 to 45 degrees, got {most_deg}")
        self.most_rad = np.deg2rad(most_deg)
        self._period = np.geomspace(400, 2400, 4) * rng.uniform(0.9, 1.1, 4)
        self._phase = rng.uniform(0, 2 * np.pi, 4)

    def at(self, index: int | np.ndarray) -> np.ndarray:
        """(...,) f8, in rad, clockwise as pictures are shown; 0 in frame 0."""
        turns = 2 * np.pi * np.asarray(index)[..., None] / self._period + self._phase
        return self.most_rad * (np.sin(turns) - np.sin(self._phase)).sum(axis=-1) / 8
