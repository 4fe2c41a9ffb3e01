"""Events from smoothed occupancy: hysteresis, dates, pairs; rates with exact intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import poisson

from stream.hopping import Hop, Hopping
from stream.occupancy import Occupancy, Smoothed
from stream.places import DETECTED, MISSED, UNOBSERVED
from stream.poisson import hidden, rate

PERIOD_S = 0.1
LINE = np.array([[1, -1], [0, 2], [1, 3], [2, -1]])  # four sites in a row


def run(p, neighbours=None, hopping=None, frames=None, observed=None, finish=True) -> list[Hop]:
    """The events of P(occupied) (frames, m)."""
    p = np.asarray(p, np.float64)
    hopping = hopping or Hopping(PERIOD_S)
    neighbours = np.full((p.shape[1], 1), -1) if neighbours is None else neighbours
    frames = np.arange(len(p)) if frames is None else np.asarray(frames)
    observed = np.ones(p.shape, bool) if observed is None else observed
    events = []
    for frame, row, seen in zip(frames.tolist(), p, observed, strict=True):
        elapsed = PERIOD_S
        events += hopping.update(Smoothed(frame, frame * 10**8, elapsed, row, seen), neighbours)
    return events + (hopping.finish(neighbours) if finish else [])


def steps(*switch_at: int | None, frames: int = 30, start: bool = False, sure: float = 0.99) -> np.ndarray:
    """P(occupied) (frames, m) of sites that switch once each; all start alike."""
    on = np.array([[(at is not None and f >= at) != start for at in switch_at] for f in range(frames)])
    return np.where(on, sure, 1 - sure)


def test_appear_and_disappear_are_dated_where_one_half_is_crossed():
    p = np.array(
        [[0.01], [0.02], [0.3], [0.6], [0.7], [0.95], [0.99], [0.99], [0.4], [0.3], [0.1], [0.01], [0.0]]
    )
    appear, disappear = run(p)
    assert (appear.kind, appear.frame, appear.t_ns) == ("appear", 3, 3 * 10**8)
    assert (appear.from_site, appear.to_site) == (-1, 0)
    assert appear.probability == pytest.approx(0.99 * 0.95)
    assert (disappear.kind, disappear.frame) == ("disappear", 8)
    assert (disappear.from_site, disappear.to_site) == (0, -1)
    assert disappear.probability == pytest.approx(0.99 * 0.9)


def test_hesitation_is_no_event():
    p = np.array([0.01, 0.6, 0.8, 0.6, 0.1, 0.55, 0.02, 0.84, 0.3, 0.01])[:, None]
    assert run(p) == []
    assert len(run(np.where(p == 0.84, 0.86, p))) == 2


def test_what_was_there_from_the_beginning_did_not_appear():
    assert run(np.full((20, 1), 0.99)) == []
    late = np.full((20, 2), 0.99)
    hopping = Hopping(PERIOD_S)
    assert run(late[:10, :1], hopping=hopping, finish=False) == []
    assert run(late[10:], hopping=hopping, frames=np.arange(10, 20)) == []  # a site more


def test_departure_and_arrival_beside_are_one_hop():
    p = np.concatenate([steps(10, start=True), steps(11), steps(20, start=True), steps(None)], axis=1)
    hopping = Hopping(PERIOD_S)
    hop, single = run(p, LINE, hopping)
    assert (hop.kind, hop.from_site, hop.to_site) == ("hop", 0, 1)
    assert hop.frame in (10, 11)
    assert hop.probability == pytest.approx(0.99**4, rel=1e-4)
    assert hop.others == ()
    assert (single.kind, single.from_site, single.frame) == ("disappear", 2, 20)
    assert hopping.counts.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("arrival", [3, 1])
def test_too_far_apart_in_space_or_time_is_no_hop(arrival):
    at = {3: 10, 1: 14}[arrival]
    p = np.full((30, 4), 0.01)
    p[:10, 0] = 0.99
    p[at:, arrival] = 0.99
    assert sorted(event.kind for event in run(p, LINE)) == ["appear", "disappear"]


def readings(events: list[Hop]) -> dict[tuple[int, int], float]:
    """Every pair told of, and its probability; each once."""
    told = [(e.from_site, e.to_site, e.probability) for e in events if e.kind == "hop"]
    told += [other for event in events for other in event.others]
    assert len({pair[:2] for pair in told}) == len(told)
    return {(a, b): probability for a, b, probability in told}


def test_a_hop_that_may_have_been_another_tells_of_both():
    """Two leave at once and one comes: one hop, of either; two and two, all beside each other: two hops."""
    beside = np.array([[1, 2, -1], [0, -1, -1], [0, -1, -1]])
    events = run(np.concatenate([steps(10), steps(10, 10, start=True)], axis=1), beside)
    assert sorted(event.kind for event in events) == ["disappear", "hop"]
    assert readings(events) == pytest.approx({(1, 0): 0.48, (2, 0): 0.48}, abs=0.01)
    beside = np.array([[2, 3], [2, 3], [0, 1], [0, 1]])
    events = run(np.concatenate([steps(10, 10, start=True), steps(10, 10)], axis=1), beside)
    assert [event.kind for event in events] == ["hop", "hop"]
    assert readings(events) == pytest.approx(dict.fromkeys([(0, 2), (0, 3), (1, 2), (1, 3)], 0.48), abs=0.01)


def test_probabilities_add_up_to_the_hops_that_are_expected():
    """Sites in a ring that switch at random: no event belongs to more than one hop, whatever is told when."""
    rng = np.random.default_rng(8)
    p = np.where(np.repeat(rng.random((400, 10)) < 0.5, 3, axis=0), 0.999, 0.001)
    neighbours = (np.arange(10)[:, None] + [1, -1]) % 10
    events = run(p, neighbours)
    best = sum(event.kind == "hop" for event in events)
    told = [(e, *pair) for e in events for pair in [(e.from_site, e.to_site, e.probability), *e.others]]
    by_end: dict[tuple[int, int], float] = {}
    for event, a, b, probability in told:
        if event.kind == "hop":
            for site in (a, b):
                by_end[site, event.frame] = by_end.get((site, event.frame), 0.0) + probability
    assert max(by_end.values()) < 1.001
    assert sum(len(event.others) for event in events) > 50
    expected = sum(probability for event, *_, probability in told if event.kind == "hop")
    assert expected == pytest.approx(best, rel=0.03)


def test_pairs_are_one_to_one_as_many_as_possible():
    # 1 and 2 leave at once; 0 (beside 1 only) and 3 (beside both) fill: pairing 1 with 3 would leave two alone
    beside = np.array([[1, -1], [0, 3], [3, -1], [1, 2]])
    p = np.concatenate([steps(10), steps(10, 10, start=True), steps(10)], axis=1)
    hops = run(p, beside)
    assert {(hop.from_site, hop.to_site) for hop in hops} == {(1, 0), (2, 3)}
    assert {round(hop.probability, 1) for hop in hops} == {1.0}
    # the nearer in time is the likelier partner
    p = np.concatenate([steps(10, start=True), steps(10), steps(12)], axis=1)
    hop = next(e for e in run(p, np.array([[1, 2], [0, -1], [0, -1]])) if e.kind == "hop")
    assert (hop.from_site, hop.to_site) == (0, 1)
    assert hop.probability > 0.9


def test_events_come_in_time_and_each_once():
    rng = np.random.default_rng(3)
    p = np.where(np.repeat(rng.random((40, 12)) < 0.5, 5, axis=0), 0.99, 0.01)
    neighbours = (np.arange(12)[:, None] + [1, -1]) % 12
    hopping = Hopping(PERIOD_S)
    late = [
        frame - event.frame
        for frame in range(len(p))
        for event in run(p[[frame]], neighbours, hopping, frames=[frame], finish=False)
    ]
    assert max(late) <= hopping.wait_frames
    events = run(p, neighbours)
    switches = np.argwhere(np.diff(p > 0.5, axis=0))
    told = [(e.frame - 1, s) for e in events for s in (e.from_site, e.to_site) if s >= 0]
    assert sorted(told) == sorted(map(tuple, switches.tolist()))


def test_unobserved_frames_decide_nothing_and_share_the_event():
    p = steps(8)
    observed = np.ones(p.shape, bool)
    observed[8:12] = False
    hopping = Hopping(PERIOD_S)
    (event,) = run(p, hopping=hopping, observed=observed)
    assert event.frame == 12  # the first that shows it


def occupancy(arrivals: float, departures: float, observed_s: float, occupied_s: float) -> Occupancy:
    numbers = (np.array([value]) for value in (observed_s, occupied_s, arrivals, departures))
    return Occupancy(np.zeros(1, np.float32), *numbers, np.zeros(1, bool), 30, np.ones(1))


def test_rates_are_switches_per_time_at_risk():
    rates = Hopping(PERIOD_S, sure=0.85).rates(occupancy(2.0, 1.0, 400.0, 100.0), total=True)
    # one switch in 100 s at 0.1 s: 1e-3 per frame, of which half of a thousandth more are hidden
    assert rates["arrival"].rate_hz == pytest.approx(2 / 300, rel=1e-3)
    assert rates["departure"].rate_hz == pytest.approx(1 / 100, rel=1e-3)
    assert rates["event"].rate_hz == pytest.approx(3 / 400, rel=1e-3)
    assert rates["hop"].events == 0
    per_site = Hopping(PERIOD_S)
    per_site.see(np.array([DETECTED]))
    assert per_site.rates(occupancy(2.0, 1.0, 400.0, 100.0))["arrival"].rate_hz.shape == (1,)


@pytest.mark.parametrize(("a", "b"), [(0.02, 0.05), (0.2, 0.2), (0.5, 0.1)])
def test_switches_between_two_frames_are_added(a, b):
    """A telegraph with rates a and b per frame differs from frame to frame as known in closed form."""
    frames, empty = 1e6, b / (a + b)
    differs = -np.expm1(-(a + b))
    shows = frames * empty * a / (a + b) * differs
    seen = occupancy(shows, shows, frames, frames * (1 - empty))
    more = hidden(seen.arrivals, seen.departures, seen.observed_s * empty, seen.occupied_s, 1.0)
    assert more * shows / (frames * empty) == pytest.approx(a, rel=1e-6)


def test_hops_are_a_share_of_the_departures():
    hopping = Hopping(PERIOD_S)
    p = np.full((40, 4), 0.01)
    p[:20, 1] = p[20:, 2] = p[:, 0] = 0.99  # from 1 to 2
    run(p, LINE, hopping)
    each = np.ones(4)
    seen = Occupancy(np.zeros(4, np.float32), 4 * each, 2 * each, 0 * each, 1.0 * each, each > 1, 40, each)
    hops = hopping.rates(seen)["hop"]
    assert hops.events == pytest.approx([0, 1, 0, 0], abs=0.1)


def test_raw_flips_are_counted_as_in_the_papers():
    hopping = Hopping(PERIOD_S)
    codes = np.array(
        [
            [DETECTED, MISSED, UNOBSERVED],
            [MISSED, MISSED, DETECTED],
            [DETECTED, UNOBSERVED, MISSED],
            [DETECTED, DETECTED, UNOBSERVED],
        ]
    )
    flips = np.array([hopping.see(code) for code in codes])
    assert flips.tolist() == [[False] * 3, [True, False, False], [True, False, True], [False, True, False]]
    assert hopping.raw_flips.tolist() == [2, 1, 1]


def test_rate_has_garwoods_interval():
    # Garwood (1936), table: 95 % limits of a Poisson mean
    for n, low, high in [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (30, 20.241, 42.827)]:
        r = rate(n, 10.0)
        assert float(r.rate_hz) == n / 10
        assert float(r.low_hz) == pytest.approx(low / 10, abs=2e-4)
        assert float(r.high_hz) == pytest.approx(high / 10, abs=2e-4)
    several = rate(np.array([0, 3]), np.array([0.0, 2.0]))
    assert np.isnan([several.rate_hz[0], several.low_hz[0], several.high_hz[0]]).all()
    assert several.rate_hz[1] == 1.5


@pytest.mark.parametrize("mean", [0.5, 3.0, 20.0])
def test_the_interval_covers_at_least_as_often_as_it_says(mean):
    n = np.arange(200)
    r = rate(n.astype(float), 1.0, confidence=0.9)
    covered = poisson.pmf(n, mean)[(r.low_hz <= mean) & (mean <= r.high_hz)].sum()
    assert covered >= 0.9


@pytest.mark.parametrize(("events", "time_s", "confidence"), [(-1, 1, 0.95), (1, -1, 0.95), (1, 1, 1.0)])
def test_impossible_rates_are_refused(events, time_s, confidence):
    with pytest.raises(ValueError, match="a rate needs"):
        rate(events, time_s, confidence)


@pytest.mark.parametrize("changes", [{"sure": 0.4}, {"sure": 1.0}, {"pair_frames": 9}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match="expected"):
        Hopping(PERIOD_S, **changes)


def test_goes_on_from_its_state():
    rng = np.random.default_rng(4)
    p = np.where(np.repeat(rng.random((40, 12)) < 0.5, 3, axis=0), 0.99, 0.01)
    neighbours = (np.arange(12)[:, None] + [1, -1]) % 12
    a, b = Hopping(PERIOD_S), Hopping(PERIOD_S)
    run(p[:62], neighbours, a, finish=False)
    a.see(np.full(12, DETECTED))
    b.restore(a.state())
    rest = np.arange(62, 120)
    assert run(p[62:], neighbours, a, rest) == run(p[62:], neighbours, b, rest)
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_array_equal(a.see(np.full(12, MISSED)), b.see(np.full(12, MISSED)))
