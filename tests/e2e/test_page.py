"""The operator's page in a real browser: what is drawn and said, live, when frames stop, and when all is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By

from stream.publish import ResultsPublisher
from tests.helpers.browser import chromium, complaints, resize
from tests.helpers.fake_results import FakePublisher, FakeSession
from tests.helpers.page import ServedPage, until

pytestmark = pytest.mark.browser

_FITS = """
const it = document.querySelector(arguments[0]), box = it.getBoundingClientRect();
const around = it.parentElement.getBoundingClientRect();
return it.scrollWidth <= it.clientWidth && box.left >= around.left - 0.5 && box.right <= around.right + 0.5;
"""
_PIXELS = """
const canvas = document.querySelector(arguments[0] + " canvas"), copy = document.createElement("canvas");
copy.width = canvas.width; copy.height = canvas.height;
const context = copy.getContext("2d", { willReadFrequently: true });
context.drawImage(canvas, 0, 0);
const data = context.getImageData(0, 0, copy.width, copy.height).data;
let hash = 0, coloured = 0, bright = 0;
for (let i = 0; i < data.length; i += 4) {
  const high = Math.max(data[i], data[i + 1], data[i + 2]), low = Math.min(data[i], data[i + 1], data[i + 2]);
  hash = (hash * 31 + data[i] + 7 * data[i + 1] + 13 * data[i + 2]) | 0;
  coloured += high - low > 60;
  bright += high > 120;
}
const box = canvas.getBoundingClientRect();
return { hash, coloured, bright, index: Number(canvas.dataset.index), name: canvas.dataset.name,
         width: canvas.width, height: canvas.height, css_width: box.width, css_height: box.height };
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_said_before(browser: Chrome) -> None:
    browser.get("about:blank")
    complaints(browser)


def look(browser: Chrome, figure: str = "#picture") -> dict[str, Any]:
    """What a canvas shows now."""
    return browser.execute_script(_PIXELS, figure)


def text(browser: Chrome, selector: str) -> str:
    """The text under the selector, as far as it is to be seen; runs of blanks are one blank."""
    found = browser.find_elements(By.CSS_SELECTOR, selector)
    return " ".join(e.text for e in found if e.is_displayed()).replace("\u202f", " ").replace("\n", " ")


def press(browser: Chrome, key: str) -> None:
    ActionChains(browser).send_keys(key).perform()


def figure(browser: Chrome, name: str) -> int:
    return int(text(browser, f"#{name} b").replace(" ", "") or -1)


def shown_index(browser: Chrome) -> int:
    return int(text(browser, "#index").replace("–", "-1").replace(" ", ""))


def frames_move(browser: Chrome) -> dict[str, Any]:
    """Wait for the page to show frames that move; what it shows then."""
    until(lambda: text(browser, "#index").replace(" ", "").isdigit(), "a first frame")
    first = look(browser)
    return until(lambda: (now := look(browser))["index"] > first["index"] + 3 and now, "frames that move")


def test_a_session_as_the_operator_sees_it(browser: Chrome) -> None:
    session = FakeSession(8, hops_per_frame=1.0)
    alarms: list[dict[str, Any]] = []
    said = lambda: session.status(alarms=list(alarms))  # noqa: E731
    with FakePublisher(session, fps=20) as published, ServedPage(published.endpoint, status=said) as page:
        browser.get(page.url)
        before = frames_move(browser)
        _the_picture_moves(browser, before)
        _columns_are_drawn_and_can_be_hidden(browser, session)
        _maps_are_drawn(browser)
        assert text(browser, "#facts") == (
            "series 7 engine au-on-oxide-hrtem frame 512 × 512 pixel 20.0 pm dose 31 000 e/nm²"
        )
        until(lambda: text(browser, "#link") == "running", "the first status")
        assert text(browser, "#alarms") == ""
        assert browser.title == "hopscope"
        session.lost_frames = 1234
        until(
            lambda: "not recognized for 1 234 frames" in text(browser, "#alarms"), "that the specimen is lost"
        )
        session.lost_frames = 0
        until(lambda: not text(browser, "#alarms"), "that it is found again")

        published.__exit__()
        until(lambda: "no frame for" in text(browser, "#picture .veil"), "staleness")
        _figures_are_those_of_the_session(browser, session)
        _events_are_listed(browser, session)

        alarms.append(
            {"since_s": 12.3, "severity": "error", "text": "<b>Recording stopped</b>: the disk is full"}
        )
        until(lambda: text(browser, "#alarms"), "the alarm")
        assert text(browser, "#alarms").startswith("<b>Recording stopped</b>: the disk is full 1")
        assert browser.title == "▲ <b>Recording stopped</b>: the disk is full"
        size = browser.find_element(By.CSS_SELECTOR, "#alarms p").value_of_css_property("font-size")
        assert float(size.removesuffix("px")) >= 20
        alarms.clear()
        until(lambda: not text(browser, "#alarms"), "the alarm's end")
        assert complaints(browser) == []

        page.kill()
        until(
            lambda: "Connection lost: retrying" in text(browser, "#alarms"), "the lost connection to be said"
        )
        assert text(browser, "#link") == "connection lost"
        assert "no frame for" in text(browser, "#picture .veil")
        with (
            FakePublisher(session, endpoint=published.endpoint, fps=20),
            ServedPage(published.endpoint, port=page.port, status=said),
        ):
            until(lambda: not text(browser, "#alarms"), "the page to recover")
            last = before["index"]
            until(lambda: look(browser)["index"] > last and not text(browser, "#picture .veil"), "new frames")
            until(lambda: text(browser, "#link") == "running", "a new status")
            frames_move(browser)


def _the_picture_moves(browser: Chrome, before: dict[str, Any]) -> None:
    now = look(browser)
    assert now["hash"] != before["hash"] or now["index"] == before["index"]
    until(lambda: look(browser)["hash"] != now["hash"], "the picture to change")
    assert text(browser, "#picture .veil") == ""


def _columns_are_drawn_and_can_be_hidden(browser: Chrome, session: FakeSession) -> None:
    press(browser, "f")
    until(lambda: "frozen" in text(browser, "#picture .veil"), "the picture to freeze")
    frozen = until(lambda: (a := look(browser)) == look(browser) and a, "the picture to stand")
    assert frozen["coloured"] > 5 * session.columns
    press(browser, "c")
    until(lambda: look(browser)["coloured"] == 0, "the columns to go")
    assert look(browser)["index"] == frozen["index"]
    press(browser, "c")
    until(lambda: look(browser)["hash"] == frozen["hash"], "the columns to come back")
    received = figure(browser, "frames-received")
    until(lambda: figure(browser, "frames-received") > received, "figures to go on while frozen")
    assert look(browser)["index"] == frozen["index"]
    browser.find_element(By.ID, "freeze").click()
    until(lambda: look(browser)["index"] > frozen["index"], "the picture to go on")


def _maps_are_drawn(browser: Chrome) -> None:
    events = until(lambda: (m := look(browser, "#map"))["bright"] > 100 and m, "the map of events")
    assert (events["name"], text(browser, "#map-title")) == ("events", "Events")
    seen = {}
    for name, title in (
        ("occurrence", "Occurrence"),
        ("rate", "Rate"),
        ("residence", "Residence"),
        ("raw_events", "Raw flips"),
    ):
        assert text(browser, "#kind span") == title.lower()
        press(browser, "m")
        seen[name] = until(
            lambda name=name: (m := look(browser, "#map"))["name"] == name and m["bright"] > 100 and m, title
        )
        assert text(browser, "#map-title") == title
        if name == "occurrence":
            assert text(browser, "#map-max") == "1"
    assert (
        seen["occurrence"]["bright"] > 2 * seen["rate"]["bright"]
    )  # most sites are occupied, few see events
    browser.find_element(By.ID, "kind").click()
    until(lambda: look(browser, "#map")["name"] == "events", "the first map again")


def _figures_are_those_of_the_session(browser: Chrome, session: FakeSession) -> None:
    counters = session.status()["counters"]
    until(lambda: figure(browser, "frames-analysed") == counters["analysed"], "the last figures")
    for name in ("received", "recorded", "skipped"):
        assert figure(browser, f"frames-{name}") == counters[name], name
    for name in ("columns", "sites", "events"):
        assert figure(browser, f"specimen-{name}") == counters[name], name
    assert figure(browser, "frames-gaps") == 4
    assert text(browser, "#frames-gaps small") == "skipped-live 3 · wire 1"
    assert text(browser, "#speed-frames-s b") == "49.7"
    assert text(browser, "#speed-latency-p50 b").endswith(" ms")
    assert text(browser, "#recording-disk small") == "2025-03-14_series-7.h5"
    assert text(browser, "#group-processes") == "acquire analyse serve"


def _events_are_listed(browser: Chrome, session: FakeSession) -> None:
    rows = browser.find_elements(By.CSS_SELECTOR, "#events tr")
    assert 5 < len(rows) <= min(80, session.events)
    for row, event in zip(rows, reversed(session.history), strict=False):
        frame, kind, sites, probability = (cell.text for cell in row.find_elements(By.TAG_NAME, "td"))
        assert frame == str(event["frame"])
        assert kind.endswith(event["kind"])
        assert sites == " → ".join(str(event[end]) for end in ("from_site", "to_site") if event[end] >= 0)
        assert float(probability.lstrip(">")) == pytest.approx(event["probability"], abs=0.01)
    before = look(browser)["hash"]
    ActionChains(browser).move_to_element(rows[0]).perform()
    until(lambda: look(browser)["hash"] != before, "the event to be marked in the picture")


@pytest.mark.parametrize(
    ("size", "ratio"), [((1280, 720), 1.0), ((1920, 1080), 1.5), ((3840, 2160), 1.0), ((900, 1200), 2.0)]
)
def test_it_fits_every_screen_and_never_stretches(
    browser: Chrome, size: tuple[int, int], ratio: float
) -> None:
    series = {
        "type": "series",
        "series": "<i>oblong</i>",
        "shape_yx": [96, 240],
        "pixel_size_nm": None,
        "frame_period_s": None,
        "engine": "any",
        "dose_e_nm2": None,
    }
    columns = np.array([[0, 0], [95, 239], [48, 120]], np.float32)
    frame = {
        "type": "frame",
        "series": "<i>oblong</i>",
        "index": 1234567,
        "t_ns": None,
        "recv_ns": 0,
        "shape_yx": [96, 240],
        "yx_px": columns,
        "score": np.ones(3, np.float32),
        "p_occupied": np.array([1.0, np.nan, 0.0], np.float32),
        "site_yx_px": columns[:1],
        "site_p": np.ones(1, np.float32),
        "site_proposed": np.zeros(1, np.uint8),
        "drift_yx_px": [0.0, 0.0],
        "lost_frames": 0,
        "events": [],
        "stage_ms": {},
        "picture": np.full((32, 80), 90, np.uint8),
        "picture_stride": 3,
    }
    heat = np.full((48, 120), np.nan, np.float32)
    heat[0, 0] = 3.0
    maps = {"type": "map", "name": "events", "array": heat, "yx_origin_nm": [0.0, 0.0], "nm_per_px": 0.05}
    resize(browser, size, ratio)
    with ResultsPublisher("tcp://127.0.0.1:*") as publisher, ServedPage(publisher.endpoint) as page:
        browser.get(page.url)
        assert text(browser, "#picture .veil") in ("", "waiting for the first frame")
        publisher.send(series)
        publisher.send(maps)
        until(lambda: _sent(publisher, frame) and text(browser, "#index") == "1 234 567", "the frame")
        for shown in (look(browser), look(browser, "#map")):
            assert shown["css_width"] / shown["css_height"] == pytest.approx(2.5, rel=0.01)
            assert shown["width"] == pytest.approx(shown["css_width"] * ratio, abs=1)
            assert shown["height"] == pytest.approx(shown["css_height"] * ratio, abs=1)
            assert shown["css_width"] > 0.3 * size[0]
        assert (
            text(browser, "#facts")
            == "series <i>oblong</i> engine any frame 240 × 96 pixel unknown dose unknown"
        )
        overflow = browser.execute_script(
            "const e = document.scrollingElement; return [e.scrollWidth - innerWidth, e.scrollHeight - innerHeight]"
        )
        assert overflow[0] <= 0
        assert overflow[1] <= 0 or size[0] < size[1]  # a tall screen scrolls
        # A column at pixel (0, 0) is drawn half a pixel inside the corner; one without a site is grey.
        scale = shown["width"] / 240
        colours = browser.execute_script(
            """const canvas = document.querySelector("#picture canvas"), copy = document.createElement("canvas");
            copy.width = canvas.width; copy.height = canvas.height;
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            return arguments[0].map(([y, x]) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3));""",
            [[int((y + 0.5) * scale), int((x + 0.5) * scale)] for y, x in columns.tolist()],
        )
        occupied, unknown, empty = (np.array(colour, int) for colour in colours)
        assert occupied[0] > 200
        assert occupied[1] > 200
        assert occupied[2] < 90
        assert np.ptp(unknown) < 25
        assert empty[2] > empty[0] + 40
        assert complaints(browser) == []
    resize(browser, (1280, 720))


def test_before_the_first_frame_it_says_what_is_waited_for(browser: Chrome) -> None:
    session = FakeSession(8)
    now = {"state": "starting"}

    def said() -> dict[str, Any]:
        status = session.status(**now)
        alive = None if now["state"] == "starting" else True
        status["processes"] |= {"detector": {"pid": None, "alive": alive, "restarts": 0}}
        return status

    with (
        ResultsPublisher("tcp://127.0.0.1:*") as publisher,
        ServedPage(publisher.endpoint, status=said) as page,
    ):
        browser.get(page.url)
        until(
            lambda: text(browser, "#picture .veil") == "starting: a minute or two, the first time",
            "the start",
        )
        assert text(browser, "#link") == "starting"
        assert browser.execute_script(_FITS, "#picture .veil"), "nothing of it is cut off"
        assert browser.find_element(By.ID, "process-detector").get_attribute("class") == "process waiting"
        now["state"] = "running"
        until(lambda: text(browser, "#picture .veil") == "waiting for the first frame", "the camera's turn")
        assert browser.find_element(By.ID, "process-detector").get_attribute("class") == "process alive"
        assert complaints(browser) == []


def test_a_proposed_place_is_marked(browser: Chrome) -> None:
    frame = FakeSession(3, side_px=256).frame()
    none = {"yx_px": np.zeros((0, 2), np.float32), "score": np.zeros(0, np.float32)}
    frame |= none | {"p_occupied": none["score"], "site_p": np.ones_like(frame["site_p"])}
    coloured = []
    with ResultsPublisher("tcp://127.0.0.1:*") as publisher, ServedPage(publisher.endpoint) as page:
        browser.get(page.url)
        assert "proposed" in text(browser, "#picture .legend")
        for index, proposed in enumerate((False, True)):
            marks = {"index": index, "site_proposed": np.full(len(frame["site_p"]), proposed, np.uint8)}
            shown = lambda now=frame | marks: _sent(publisher, now) and shown_index(browser) == now["index"]  # noqa: E731
            until(shown, "the frame")
            coloured.append(look(browser)["coloured"])
        assert complaints(browser) == []
    whole, dashed = coloured
    assert 0.1 < dashed / whole < 0.6


def _sent(publisher: ResultsPublisher, message: dict[str, Any]) -> bool:
    publisher.send(message)
    return True
