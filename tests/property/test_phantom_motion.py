"""Whatever the settings: frames do not depend on the order they are asked for, and hops keep columns."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.phantom import Phantom
from stream.phantom_motion import Drift, Kinetics
from stream.phantom_particle import gold_particle

_settings = settings(max_examples=25, deadline=None, derandomize=True)


@settings(_settings, max_examples=8)
@given(seed=st.integers(0, 2**31), order=st.lists(st.integers(0, 699), min_size=2, max_size=8))
def test_frames_depend_on_seed_and_index_only(seed: int, order: list[int]) -> None:
    make = {"seed": seed, "shape_px": 112, "frames": 700, "jump_px": 2.0, "jump_every": 50}
    wandering = Phantom(**make)
    seen = [wandering.render(index) for index in order]
    straight = Phantom(**make)
    for index in sorted(set(order)):
        expected = straight.render(index)
        for k, other in enumerate(order):
            if other == index:
                np.testing.assert_array_equal(seen[k], expected)
    assert not np.array_equal(Phantom(**{**make, "seed": seed + 1}).render(order[0]), seen[0])


@_settings
@given(
    seed=st.integers(0, 2**31),
    diameter_nm=st.floats(1.2, 6),
    hop_rate=st.floats(0, 1 / 6),
    binding=st.floats(0, 3),
    exchange_rate=st.floats(0, 0.05),
)
def test_every_hop_conserves_columns(seed, diameter_nm, hop_rate, binding, exchange_rate) -> None:
    particle = gold_particle(diameter_nm, 10, 0.3, (0.05, 0.02))
    kinetics = Kinetics(
        particle.neighbours,
        particle.hold,
        particle.occupied,
        seed=seed,
        hop_rate=hop_rate,
        binding=binding,
        exchange_rate=exchange_rate,
    )
    frames = 400
    states = np.array([kinetics.occupancy_at(index) for index in range(frames)])
    moves = kinetics.moves(frames)
    np.testing.assert_array_equal(states[0], particle.occupied)
    assert (np.diff(moves["frame"]) >= 0).all()
    for index in range(1, frames):
        now = moves[moves["frame"] == index]
        left, came = now["from_site"][now["from_site"] >= 0], now["to_site"][now["to_site"] >= 0]
        touched = np.concatenate([left, came])
        assert len(np.unique(touched)) == len(touched)  # a site changes once per frame
        assert states[index - 1][left].all()
        assert not states[index - 1][came].any()
        expected = states[index - 1].copy()
        expected[left], expected[came] = False, True
        np.testing.assert_array_equal(states[index], expected)
    hops = moves[(moves["from_site"] >= 0) & (moves["to_site"] >= 0)]
    beside = particle.neighbours[hops["from_site"]]
    assert (beside == hops["to_site"][:, None]).any(axis=1).all()


@_settings
@given(diameter_nm=st.floats(1.0, 12), rotation=st.floats(-3, 3), y=st.floats(0, 0.2), x=st.floats(0, 0.14))
def test_particles_hang_together_and_stay_off_their_support(diameter_nm, rotation, y, x) -> None:
    particle = gold_particle(diameter_nm, 14, rotation, (y, x))
    depth = particle.yx_nm @ particle.down_yx
    assert depth.max() < particle.support_nm
    for site, around in enumerate(particle.neighbours):
        real = around[around >= 0]
        assert len(real) > 0
        gap = np.linalg.norm(particle.yx_nm[real] - particle.yx_nm[site], axis=1)
        assert ((gap > 0.249) & (gap < 0.289)).all()
        assert all(site in particle.neighbours[other] for other in real)
    assert particle.height.min() >= 2
    assert particle.height.max() <= 14


@_settings
@given(
    seed=st.integers(0, 2**31),
    speed=st.floats(0, 3),
    jump=st.floats(0, 10),
    every=st.integers(1, 100),
    limit=st.floats(1, 50),
)
def test_drift_is_bounded_and_the_same_however_it_is_asked(seed, speed, jump, every, limit) -> None:
    drift = Drift(np.random.default_rng(seed), speed, jump, every, limit)
    index = np.arange(0, 3000, 7)
    path = drift.at(index)
    assert np.abs(path).max() <= drift.reach_px + 1e-9
    assert drift.reach_px <= 2 * limit + jump + 1e-9
    np.testing.assert_array_equal(path[0], 0)
    np.testing.assert_array_equal(drift.at(index[100]), path[100])
