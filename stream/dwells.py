"""How long sites stayed occupied or empty, read from a result file, with all that censors it.

A dwell lasts from the first frame that shows a site occupied (or empty) to the first that shows it
otherwise. One is censored on the left where its beginning was not seen, on the right where its end was
not: at the ends of the series, out of view, behind bad pixels (where the file holds what was observed of
every site), and in every gap longer than `longest_gap` frames. A shorter gap is bridged: what stood
before it and stands after it is taken to have stood in it, and a switch within it is dated by the frame
after it. Events without time, and time without events, both bias a rate; here neither remains of a long
gap, and both of a short one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stream.session import Session

LONGEST_GAP = 3  # frames; bridged if not longer
_MARGIN = 0.5  # of the spacing: nearer to the border, sites are not looked at (as in the site map)
_AT_ONCE = 2_000_000  # site-frames in memory
_FOREVER = np.iinfo(np.int64).max // 4

DWELL = np.dtype(
    [
        ("site", "<i8"),
        ("occupied", "?"),
        ("begin_ns", "<i8"),
        ("end_ns", "<i8"),
        ("begun", "?"),  # its beginning was seen
        ("ended", "?"),  # its end was seen
        ("hopped", "?"),  # its end was a hop
        ("hop_share", "<f8"),  # the probability of that, given that it ended
        ("coordination", "<i8"),  # occupied neighbours; -1 where not looked up
    ]
)


def site_dwells(session: Session, longest_gap: int = LONGEST_GAP) -> np.ndarray:
    """Every dwell of every site, DWELL rows in order of site and time, cut where nobody looked.

    Parameters
    ----------
    longest_gap : frames; longer gaps censor.
    """
    whole = uncut(session)
    all_views = _views(session.t_ns, session.period_s, longest_gap)
    m = len(session.sites)
    rows_of = _row_ranges(whole["site"], m)
    at_once = max(1, _AT_ONCE // len(session.t_ns))
    always, parts = np.ones(m, np.bool_), []
    for first in range(0, m, at_once):
        some = slice(first, min(first + at_once, m))
        looked = _looked(session, some)
        always[some] = looked.all(axis=0)
        for site in (first + np.flatnonzero(~always[some])).tolist():
            views = _views(session.t_ns[looked[:, site - first]], session.period_s, longest_gap)
            parts.append(cut(whole[rows_of[site] : rows_of[site + 1]], *views))
    dwells = np.concatenate([cut(whole[always[whole["site"]]], *all_views), *parts])
    return dwells[np.lexsort((dwells["begin_ns"], dwells["site"]))]


def uncut(session: Session) -> np.ndarray:
    """The dwells as the events tell them, from the first frame to the last, gaps ignored."""
    site, t_ns, arrival, hop, share = _switches(session)
    known_ns = np.concatenate([session.t_ns[:1], session.t_ns[-1:]])
    m = len(session.sites)
    rows_of = _row_ranges(site, m)
    count = np.diff(rows_of)
    # before a site's first switch it was in the other state; without any, in the likelier
    sites = session.sites
    first = rows_of[:-1]
    mostly = sites["occupied_s"] > 0.5 * sites["observed_s"]
    at_first = np.append(arrival, False)[np.minimum(first, len(arrival))]
    initially = np.where(count > 0, ~at_first, mostly)
    lead = np.zeros(m, DWELL)
    lead["site"], lead["occupied"] = np.arange(m), initially
    lead["begin_ns"] = np.where(initially, _born_ns(session), known_ns[0])
    after = np.zeros(len(site), DWELL)
    after["site"], after["occupied"] = site, arrival
    after["begin_ns"], after["begun"] = t_ns, True
    dwells = np.concatenate([lead, after])
    order = np.lexsort((np.concatenate([np.full(m, -1), np.arange(len(site))]), dwells["site"]))
    dwells = dwells[order]
    switch = np.concatenate([np.full(m, -1), np.arange(len(site))])[order]
    # a dwell ends with the next switch of its site
    last = np.append(dwells["site"][1:] != dwells["site"][:-1], True)
    ends = np.where(last, -1, np.append(switch[1:], -1))
    dwells["ended"] = ends >= 0
    end_ns = np.append(t_ns, known_ns[1])
    dwells["end_ns"] = np.where(ends >= 0, end_ns[ends], known_ns[1])
    dwells["hopped"] = np.append(hop, False)[ends] & dwells["ended"]
    dwells["hop_share"] = np.append(share, 0.0)[ends] * dwells["ended"]
    dwells["coordination"] = -1
    # two arrivals in a row: what was between them is not known
    following = np.append(dwells["occupied"][1:], False)
    unknown = dwells["ended"] & (following == dwells["occupied"])
    # nobody looked at a site that was retired, and one that was merged is no site
    dwells["end_ns"] = np.minimum(dwells["end_ns"], _retired_ns(session)[dwells["site"]])
    none = session.merged_into[dwells["site"]] >= 0
    return dwells[~unknown & ~none & (dwells["end_ns"] >= dwells["begin_ns"])]


def cut(dwells: np.ndarray, begin_ns: np.ndarray, end_ns: np.ndarray) -> np.ndarray:
    """The parts of dwells within windows of time, sorted and apart; what is cut off is censored.

    An event dated at the very beginning of a window happened before it, where nobody looked.
    """
    begin_ns, end_ns = np.atleast_1d(begin_ns), np.atleast_1d(end_ns)
    first = np.searchsorted(end_ns, dwells["begin_ns"], side="right")
    last = np.searchsorted(begin_ns, dwells["end_ns"], side="left")
    count = np.maximum(last - first, 0)
    row = np.repeat(np.arange(len(dwells)), count)
    window = np.repeat(first, count) + np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    parts = dwells[row]
    low, high = begin_ns[window], end_ns[window]
    parts["begun"] &= parts["begin_ns"] > low
    parts["ended"] &= parts["end_ns"] <= high
    parts["hopped"] &= parts["ended"]
    parts["hop_share"] *= parts["ended"]
    parts["begin_ns"] = np.maximum(parts["begin_ns"], low)
    parts["end_ns"] = np.minimum(parts["end_ns"], high)
    return parts[parts["end_ns"] > parts["begin_ns"]]


def by_coordination(dwells: np.ndarray, session: Session) -> np.ndarray:
    """The same dwells, split wherever the number of occupied neighbours changes; `coordination` filled in.

    A part ends in an event only if the dwell does; its coordination is that just before.
    """
    site, t_ns, after = _coordination(session)
    span = max(int(session.t_ns[-1] - session.t_ns[0]), 1) + 2
    origin = int(session.t_ns[0]) - 1

    def key(of: np.ndarray, at: np.ndarray) -> np.ndarray:
        return of * span + np.clip(at - origin, 0, span - 1)

    keys = key(site, t_ns)
    first = np.searchsorted(keys, key(dwells["site"], dwells["begin_ns"]), side="right")  # changes after it
    stop = np.searchsorted(keys, key(dwells["site"], dwells["end_ns"]), side="left")  # and before its end
    count = np.maximum(stop - first, 0) + 1
    row = np.repeat(np.arange(len(dwells)), count)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    parts = dwells[row]
    change = np.repeat(first, count) + nth  # the change that ends this part
    is_first, is_last = nth == 0, nth == np.repeat(count, count) - 1
    padded = np.append(t_ns, 0)
    parts["begin_ns"] = np.where(is_first, parts["begin_ns"], padded[change - 1])
    parts["end_ns"] = np.where(is_last, parts["end_ns"], padded[np.minimum(change, len(t_ns))])
    parts["begun"] &= is_first
    parts["ended"] &= is_last
    parts["hopped"] &= is_last
    parts["hop_share"] *= is_last
    # every site has a row at the beginning of time, so the row before is its own
    parts["coordination"] = after[change - 1]
    return parts[parts["end_ns"] > parts["begin_ns"]]


def seconds(dwells: np.ndarray) -> np.ndarray:
    """(k,) f8, how long each lasted, s."""
    return (dwells["end_ns"] - dwells["begin_ns"]) * 1e-9


def _switches(session: Session) -> tuple[Any, ...]:
    """Events as switches of single sites (a hop is two), sorted: site, t_ns, arrival, hop, P(hop) of departures."""
    events = session.events
    leaves, fills = events[events["from_site"] >= 0], events[events["to_site"] >= 0]
    site = np.concatenate([leaves["from_site"], fills["to_site"]])
    t_ns = np.concatenate([leaves["t_ns"], fills["t_ns"]])
    arrival = np.arange(len(site)) >= len(leaves)
    hop = np.concatenate([leaves["to_site"] >= 0, fills["from_site"] >= 0])
    share = np.concatenate([_hop_shares(leaves, session.hops), np.zeros(len(fills))])
    order = np.lexsort((arrival, t_ns, site))  # replaced within one frame: it leaves, then the other comes
    return site[order], t_ns[order], arrival[order], hop[order], share[order]


def _hop_shares(leaves: np.ndarray, hops: np.ndarray | None) -> np.ndarray:
    """P(hop) of each departure, given that it happened: the shares of all pairings that it has.

    A pairing is dated like the event it is told with, at most a few frames beside its departure, and no site empties
    twice in that time: so it is the nearest departure's of its site. Where pairings are not known, hops count whole.
    """
    if hops is None or not len(leaves):
        return (leaves["to_site"] >= 0).astype(np.float64)
    t_ns = np.concatenate([leaves["t_ns"], hops["t_ns"]])
    lasted = int(np.ptp(t_ns))
    site = np.concatenate([leaves["from_site"], hops["from_site"]])
    key = site * (2 * lasted + 2) + t_ns - t_ns.min()  # of one site never so far apart as of two
    order = np.argsort(key[: len(leaves)])
    keys, wanted = key[order], key[len(leaves) :]
    after = np.searchsorted(keys, wanted)
    beside = np.clip([after - 1, after], 0, len(keys) - 1)
    apart = np.abs(keys[beside] - wanted)
    nearest = order[np.where(apart[0] <= apart[1], *beside)]
    own = apart.min(axis=0) <= lasted
    return np.minimum(np.bincount(nearest[own], hops["share"][own], len(leaves)), 1.0)


def _born_ns(session: Session) -> np.ndarray:
    """(m,) i8, when each site was first seen; before that it was not looked for."""
    row = np.searchsorted(session.frame, session.sites["born_frame"])
    return session.t_ns[np.minimum(row, len(session.t_ns) - 1)]


def _retired_ns(session: Session) -> np.ndarray:
    """(m,) i8, from when on nobody looked at each site."""
    retired = session.retired_frame
    row = np.minimum(np.searchsorted(session.frame, retired), len(session.t_ns) - 1)
    return np.where(retired >= 0, session.t_ns[row], _FOREVER)


def _views(t_ns: np.ndarray, period_s: float, longest_gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of time without a long gap between looks: (w,) begin_ns, (w,) end_ns."""
    if not len(t_ns):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    broken = np.flatnonzero(np.diff(t_ns) > (longest_gap + 1.5) * period_s * 1e9)
    return t_ns[np.concatenate([[0], broken + 1])], t_ns[np.concatenate([broken, [len(t_ns) - 1]])]


def _looked(session: Session, sites: slice) -> np.ndarray:
    """(n, sites) bool, whether each frame showed each site: as it was kept, or by where the site must have been."""
    if session.evidence is not None:
        row = np.searchsorted(session.evidence.frame, session.frame)
        every = session.evidence.log_ratio(slice(0, len(session.evidence.frame)), sites)
        return np.isfinite(every[row])
    pixel_nm = session.header.pixel_size_nm or 1.0
    border = _MARGIN * session.spacing_nm / pixel_nm if np.isfinite(session.spacing_nm) else 0.0
    yx_px = session.yx_nm[sites] / pixel_nm + session.drift_yx_px[:, None]
    shape = np.asarray(session.header.shape_yx, np.float64)
    return np.all((yx_px >= border) & (yx_px <= shape - 1 - border), axis=-1)


def _row_ranges(site: np.ndarray, sites: int) -> np.ndarray:
    """Where each site's rows begin in an array sorted by site; (m + 1,)."""
    return np.searchsorted(site, np.arange(sites + 1))


def _coordination(session: Session) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every change of the number of occupied neighbours: site, t_ns and the number from then on.

    Each site has a first row before all time.
    """
    there = uncut(session)
    there = there[there["occupied"]]
    beside = session.neighbours[there["site"]]
    row, column = np.nonzero(beside >= 0)
    whom = beside[row, column]
    begin = np.where(there["begun"], there["begin_ns"], -_FOREVER)[row]
    end = np.where(there["ended"], there["end_ns"], _FOREVER)[row]
    m = len(session.sites)
    site = np.concatenate([np.arange(m), whom, whom])
    t_ns = np.concatenate([np.full(m, -_FOREVER), begin, end])
    step = np.concatenate([np.zeros(m, np.int64), np.ones(len(whom), np.int64), np.full(len(whom), -1)])
    order = np.lexsort((np.concatenate([np.zeros(m), np.ones(2 * len(whom))]), t_ns, site))
    site, t_ns, step = site[order], t_ns[order], step[order]
    total = np.cumsum(step)
    start = _row_ranges(site, m)
    before = np.concatenate([[0], total])[start[:-1]]
    return site, t_ns, total - before[site]
