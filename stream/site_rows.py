"""The table of sites: what is known of each, of a live session so far and of a replay at its end."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream.hopping import Hopping
from stream.occupancy import Occupancy
from stream.sites import SiteMap

Fields = dict[str, tuple[str, str]]  # of a table: a type, and a meaning with its unit

_PER = {
    "event": "events per second observed",
    "arrival": "arrivals per second empty",
    "departure": "departures per second occupied",
}
_ENDS = {
    "": "most likely number of",
    "_low": "lower end of the 95 % interval (Garwood) of",
    "_high": "upper end of the 95 % interval (Garwood) of",
}
SITES: Fields = {
    "site": ("<i8", "its number, for ever"),
    "y_nm": ("<f8", "position, specimen's frame (the first frame's), nm"),
    "x_nm": ("<f8", "position, specimen's frame (the first frame's), nm"),
    "y_error_nm": ("<f8", "standard error of the position, nm; NaN where fewer than two columns were seen"),
    "x_error_nm": ("<f8", "standard error of the position, nm; NaN where fewer than two columns were seen"),
    "born_frame": ("<i8", "the frame that first gave evidence of it; -1 where none did"),
    "proposed": ("?", "a place of the lattice beside columns where hardly any was ever seen"),
    "retired_frame": ("<i8", "since when nobody looked there, as hardly a column ever was; -1 where one did"),
    "merged_into": ("<i8", "the older site in the same place, whose row has this one's record; -1 for none"),
    "observed_s": ("<f8", "time it was observed, s"),
    "occupied_s": ("<f8", "expected part of that time in which it was occupied, s"),
    "appeared": ("<i8", "events: filled, from nowhere known"),
    "disappeared": ("<i8", "events: emptied, to nowhere known"),
    "hopped_away": ("<i8", "events: emptied to a neighbouring site"),
    "hopped_here": ("<i8", "events: filled from a neighbouring site"),
    "raw_flips": ("<i8", "detected in one frame and not in the next, or the reverse; for comparison"),
    "arrivals": ("<f8", "expected number, what the evidence leaves open counted by its probability"),
    "departures": ("<f8", "expected number, what the evidence leaves open counted by its probability"),
    "worth": ("<f4", "what the evidence says of its rates, against the same switches seen beyond doubt"),
    **{
        f"{kind}_rate{end}_hz": ("<f8", f"{meaning} {per}")
        for kind, per in _PER.items()
        for end, meaning in _ENDS.items()
    },
    "fast": ("?", "switches so often that of the events, each seen, more than one in ten is missing"),
}


def table_type(fields: Fields) -> np.dtype[Any]:
    """The type of a table's rows."""
    return np.dtype([(name, kind) for name, (kind, _) in fields.items()])


def site_rows(sites: SiteMap, occupancy: Occupancy, hopping: Hopping, raw_flips: np.ndarray) -> np.ndarray:
    """A row of SITES per site.

    Parameters
    ----------
    occupancy, hopping : of the same sites.
    raw_flips : (m,), of the live tracker.
    """
    rows = np.zeros(len(sites), table_type(SITES))
    rates = hopping.rates(occupancy)
    rows["site"], rows["born_frame"] = sites.site_id, sites.born_frame
    rows["proposed"], rows["arrivals"], rows["departures"] = (
        sites.proposed,
        occupancy.arrivals,
        occupancy.departures,
    )
    rows["retired_frame"], rows["merged_into"] = sites.retired_frame, sites.merged_into
    rows["y_nm"], rows["x_nm"] = sites.yx_nm.T
    rows["y_error_nm"], rows["x_error_nm"] = sites.error_nm.T
    rows["observed_s"], rows["occupied_s"] = occupancy.observed_s, occupancy.occupied_s
    for name, counts in zip(
        ("appeared", "disappeared", "hopped_away", "hopped_here"), hopping.counts, strict=True
    ):
        rows[name] = counts
    rows["raw_flips"], rows["fast"] = raw_flips, occupancy.fast
    rows["worth"] = occupancy.worth
    for kind in ("event", "arrival", "departure"):
        rows[f"{kind}_rate_hz"] = rates[kind].rate_hz
        rows[f"{kind}_rate_low_hz"], rows[f"{kind}_rate_high_hz"] = rates[kind].low_hz, rates[kind].high_hz
    return rows
