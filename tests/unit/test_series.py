"""Messages as they happen to arrive become whole series."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from stream.frame import Encoding, Frame, Item, SeriesHeader
from stream.series import FAR, SeriesOrder
from stream.wire.messages import BadImage, Channel, EndMessage, ImageMessage, Message, StartMessage
from tests.helpers.camera import check_rules, outline

SHAPE = (2, 3)


def image(
    index: int, series: Any = 1, shape: tuple[int, int] = SHAPE, dtype: str = "<u2", **fields: Any
) -> ImageMessage:
    key = series if isinstance(series, tuple) else (series, "")
    encoding = Encoding(shape, np.dtype(dtype))
    names = fields.pop("channels", ["threshold_1"])
    channels = {name: Channel(memoryview(bytes(encoding.frame_bytes)), encoding) for name in names}
    return ImageMessage(key, index, None, channels, fields)


def start(series: int | None = 1, name: str = "", **fields: Any) -> StartMessage:
    return StartMessage((series, name), **fields)


def end(series: int = 1, name: str = "") -> EndMessage:
    return EndMessage((series, name))


def bad(index: int, series: int | None = 1) -> BadImage:
    return BadImage((series, ""), index, "as it pleases")


def run(*messages: Message | BadImage | str) -> tuple[list[Item], Counter[str]]:
    """Items and faults; "silence" stands for itself."""
    faults: Counter[str] = Counter()
    order = SeriesOrder(lambda kind, reason: faults.update([kind]))
    items: list[Item] = []
    for message in messages:
        items += order.silence() if isinstance(message, str) else order.take(message)
    check_rules(items)
    return items, faults


def told(*messages: Message | BadImage | str) -> list[str]:
    items, faults = run(*messages)
    assert not faults
    return outline(items)


def test_a_whole_series() -> None:
    assert told(start(), image(0), image(1), end()) == ["header 1", "frame 0", "frame 1", "end 1"]


def test_missing_images_are_gaps() -> None:
    words = told(start(), image(2), image(3), image(7), end())
    assert words == ["header 1", "gap 0+2 wire", "frame 2", "frame 3", "gap 4+3 wire", "frame 7", "end 1"]


def test_a_series_joined_under_way_begins_with_what_comes_first() -> None:
    assert told(image(57), image(59)) == ["header 1", "frame 57", "gap 58+1 wire", "frame 59"]


def test_the_end_may_come_twice_or_never() -> None:
    words = told(start(1), image(0), end(1), end(1), start(2), image(0, 2), start(3), image(0, 3))
    assert words[3:] == ["header 2", "frame 0", "end 2", "header 3", "frame 0"]


def test_an_end_of_another_series_ends_nothing() -> None:
    assert told(image(4, 2), end(1), image(5, 2)) == ["header 2", "frame 4", "frame 5"]


def test_leftovers_of_what_is_over_are_dropped() -> None:
    items, faults = run(
        start(1), image(0, 1), end(1), image(1, 1), start(2), image(2, 1), image(0, 2), image(3, 1)
    )
    assert outline(items) == ["header 1", "frame 0", "end 1", "header 2", "frame 0"]
    assert faults == {"leftover": 3}


def test_an_image_of_another_series_ends_the_one_before() -> None:
    assert told(image(4, 1), image(9, 2)) == ["header 1", "frame 4", "end 1", "header 2", "frame 9"]


def test_a_restarted_detector_may_use_a_number_again() -> None:
    assert (
        told(start(1), image(0), end(1), start(1), image(0), end(1)) == ["header 1", "frame 0", "end 1"] * 2
    )


def test_unique_names_tell_series_of_one_number_apart() -> None:
    words = told(image(3, (1, "a")), image(0, (1, "b")), image(1, (1, "b")))
    assert words == ["header 1", "frame 3", "end 1", "header 1", "frame 0", "frame 1"]
    assert run(image(3, (1, "a")), image(0, (1, "b")), image(4, (1, "a")))[1] == {"leftover": 1}
    assert told(start(1, "a"), image(0, 1), end(1)) == ["header 1", "frame 0", "end 1"]  # one that omits it


def test_a_new_start_ends_the_series_before() -> None:
    assert told(start(1), image(0), start(1), image(0)) == [
        "header 1",
        "frame 0",
        "end 1",
        "header 1",
        "frame 0",
    ]


def test_repeated_and_turned_back_images_are_not_delivered_twice() -> None:
    items, faults = run(start(), image(0), image(0), image(1), image(4), image(2), image(4), image(5))
    assert outline(items) == ["header 1", "frame 0", "frame 1", "gap 2+2 wire", "frame 4", "frame 5"]
    assert faults == {"repeated": 2, "out-of-order": 1}


def test_silence_ends_a_series_that_may_go_on() -> None:
    words = told(start(1), image(0), "silence", "silence", image(3), end(1), end(1))
    assert words == ["header 1", "frame 0", "end 1", "header 1", "gap 1+2 wire", "frame 3", "end 1"]


def test_silence_does_not_end_what_is_armed() -> None:
    assert told(start(1), "silence", image(0)) == ["header 1", "frame 0"]


def test_what_fell_silent_is_over_with_the_next_series() -> None:
    items, faults = run(image(3, 1), "silence", start(2), image(0, 2), image(4, 1))
    assert outline(items) == ["header 1", "frame 3", "end 1", "header 2", "frame 0"]
    assert faults == {"leftover": 1}
    assert run(image(3, 1), "silence", end(1), image(4, 1))[1] == {"leftover": 1}


def test_a_series_may_be_empty() -> None:
    assert told(start(shape_yx=SHAPE, dtype=np.dtype("u2")), end()) == ["header 1", "end 1"]
    items, faults = run(start(), end())
    assert (items, faults) == ([], {"empty-series": 1})


def test_a_spoiled_image_is_a_gap_of_its_own_kind() -> None:
    items, faults = run(start(), bad(0), image(1), bad(2), bad(4), image(6), bad(7), end())
    assert outline(items) == [
        "header 1",
        "gap 0+1 decode",
        "frame 1",
        "gap 2+1 decode",
        "gap 3+1 wire",
        "gap 4+1 decode",
        "gap 5+1 wire",
        "frame 6",
        "gap 7+1 decode",
        "end 1",
    ]
    assert faults == {"bad-image": 4}


def test_a_spoiled_image_may_come_again() -> None:
    items, _ = run(start(), bad(0), image(0), bad(1), bad(1), image(1), bad(1), image(2), end())
    assert outline(items) == ["header 1", "frame 0", "frame 1", "frame 2", "end 1"]


@pytest.mark.parametrize("series", [2, 1])
def test_a_spoiled_image_neither_begins_nor_ends_a_series(series: int) -> None:
    items, _ = run(bad(3), image(4), bad(5, 2), bad(FAR * 2, series), image(5), end())
    assert outline(items) == ["header 1", "frame 4", "frame 5", "end 1"]


def test_only_spoiled_images_are_all_gaps() -> None:
    count = (1 << 16) + 10
    items, _ = run(start(shape_yx=SHAPE, dtype=np.dtype("u2")), image(0), *map(bad, range(1, count)), end())
    assert len(items) == count + 2


def test_a_far_jump_must_be_said_twice() -> None:
    items, faults = run(image(0), image(FAR * 9), image(1), image(FAR * 9), image(FAR * 9 + 1))
    assert outline(items) == [
        "header 1",
        "frame 0",
        "frame 1",
        f"gap 2+{FAR * 9 - 1} wire",
        f"frame {FAR * 9 + 1}",
    ]
    assert faults == {"far-index": 2}


def test_the_dtype_is_the_images() -> None:
    for dtype in ("<u2", ">u2"):
        items, faults = run(start(shape_yx=SHAPE, dtype=np.dtype("u2")), image(0, dtype=dtype))
        assert isinstance(items[0], SeriesHeader)
        assert items[0].dtype.str == dtype
        assert not faults


def test_a_start_that_disagrees_with_its_images_is_a_fault() -> None:
    mask = np.zeros((9, 9), bool)
    items, faults = run(start(shape_yx=(9, 9), facts={"bad_pixels": mask, "exposure_s": 0.1}), image(0))
    assert isinstance(items[0], SeriesHeader)
    assert items[0].shape_yx == SHAPE
    assert items[0].bad_pixels is None
    assert items[0].exposure_s == 0.1
    assert faults == {"start-disagrees": 1}
    assert run(start(dtype=np.dtype("u4")), image(0))[1] == {"start-disagrees": 1}


@pytest.mark.parametrize("other", [{"shape": (3, 2)}, {"dtype": "<u4"}, {"dtype": ">u2"}])
def test_an_image_of_another_shape_is_a_gap(other: dict[str, Any]) -> None:
    items, faults = run(start(), image(0), image(1, **other), image(2))
    assert outline(items) == ["header 1", "frame 0", "gap 1+1 decode", "frame 2"]
    assert faults == {"other-shape": 1}


def test_the_first_channel_announced_is_taken_or_the_first_there_is() -> None:
    encoding = Encoding(SHAPE, np.dtype("<u2"))
    channels = {name: Channel(memoryview(name.encode() * 12), encoding) for name in "ab"}
    for announced, expected in ((("b", "a"), b"b"), (("a",), b"a"), (("1",), b"a"), ((), b"a")):
        items, faults = run(start(channels=announced), ImageMessage((1, ""), 0, None, channels))
        assert isinstance(items[1], Frame)
        assert items[1].payload == expected * 12
        assert not faults
    items, faults = run(
        image(0, channels=["a", "b"]), image(1, channels=["b"]), image(2, channels=["b", "a"])
    )
    assert outline(items) == ["header 1", "frame 0", "gap 1+1 decode", "frame 2"]
    assert faults == {"no-channel": 1}


def test_facts_of_a_missing_start_are_taken_from_the_image() -> None:
    items, faults = run(image(5, pixel_size_nm=0.02, user_data={"frame_period_s": 0.1}))
    assert isinstance(items[0], SeriesHeader)
    assert (items[0].pixel_size_nm, items[0].frame_period_s) == (0.02, 0.1)
    assert not faults
    items, faults = run(image(5, pixel_size_nm=-1))
    assert isinstance(items[0], SeriesHeader)
    assert items[0].pixel_size_nm is None
    assert faults == {"bad-facts": 1}


def test_without_numbers_a_series_begins_where_the_index_turns_back_or_the_shape_changes() -> None:
    messages = [image(3, None), image(4, None), image(0, None), image(1, None), image(2, None, (4, 4))]
    words = told(*messages, "silence", image(3, None, (4, 4)), "silence", image(0, None, (4, 4)))
    assert words == [
        *("header 1", "frame 3", "frame 4", "end 1"),
        *("header 2", "frame 0", "frame 1", "end 2"),
        *("header 3", "frame 2", "end 3", "header 3", "frame 3", "end 3"),
        *("header 4", "frame 0"),
    ]


def test_without_numbers_a_repeated_image_is_still_a_repeated_one() -> None:
    items, faults = run(image(3, None), image(3, None), bad(0, None), image(4, None))
    assert outline(items) == ["header 1", "frame 3", "frame 4"]
    assert faults == {"repeated": 1, "bad-image": 1}


def calibrations(items: list[Item]) -> list[tuple[float | None, float | None]]:
    headers = [item for item in items if isinstance(item, SeriesHeader)]
    return [(header.pixel_size_nm, header.dose_rate_e_nm2_s) for header in headers]


def test_images_that_say_another_calibration_go_on_under_another_header() -> None:
    said = [(0.02, 100.0), (0.0201, 108.0), (0.021, None), (0.021, 100.0), (0.021, 120.0), (None, None)]
    images = [
        image(2 * k, 1, pixel_size_nm=size_nm, dose_rate_e_nm2_s=dose)
        for k, (size_nm, dose) in enumerate(said)
    ]
    items, faults = run(*images, "silence", image(12, 1, dose_rate_e_nm2_s=90.0))
    assert outline(items) == [
        *("header 1", "frame 0", "gap 1+1 wire", "frame 2", "end 1"),
        *("header 1", "gap 3+1 wire", "frame 4", "gap 5+1 wire", "frame 6", "end 1"),
        *("header 1", "gap 7+1 wire", "frame 8", "gap 9+1 wire", "frame 10", "end 1"),
        *("header 1", "gap 11+1 wire", "frame 12"),
    ]
    assert calibrations(items) == [(0.02, 100.0), (0.021, 100.0), (0.021, 120.0), (0.021, 90.0)]
    assert faults == {"other-calibration": 3}


def test_images_that_say_another_calibration_than_their_start_are_gone_by() -> None:
    facts = {"pixel_size_nm": 0.02, "exposure_s": 0.1}
    items, faults = run(start(facts=facts), image(0), image(1, user_data={"pixel_size_nm": 0.03}), image(2))
    assert outline(items) == ["header 1", "frame 0", "end 1", "header 1", "frame 1", "frame 2"]
    assert calibrations(items) == [(0.02, None), (0.03, None)]
    assert [item.exposure_s for item in items if isinstance(item, SeriesHeader)] == [0.1, 0.1]
    assert faults == {"other-calibration": 1}
    items, faults = run(start(facts=facts), image(0, pixel_size_nm=0.03), image(1, pixel_size_nm=0.03), end())
    assert outline(items) == ["header 1", "frame 0", "frame 1", "end 1"]
    assert calibrations(items) == [(0.03, None)]
    assert faults == {"other-calibration": 1}


def test_a_calibration_that_cannot_be_changes_nothing() -> None:
    items, faults = run(
        image(0, pixel_size_nm=0.02), image(1, pixel_size_nm=-1), image(2, pixel_size_nm=0.02)
    )
    assert outline(items) == ["header 1", "frame 0", "frame 1", "frame 2"]
    assert faults == {"bad-facts": 1}
