"""The real thing in a real browser: a demo session, its page, moving frames with columns, a clean console."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from selenium.webdriver.support.wait import WebDriverWait

from stream.processes import Supervisor
from tests.e2e.test_session import session, settings_for
from tests.helpers.browser import chromium, complaints

PATIENCE_S = 60.0
PICTURE = "HOPSCOPE_SCREENSHOT"  # a path here keeps the picture that the README shows


@pytest.mark.browser
def test_the_demo_is_seen_in_a_browser(tmp_path: Path) -> None:
    with (
        chromium(tmp_path / "profile", size=(1440, 810)) as browser,
        session(settings_for(tmp_path / "recordings"), fps=30, shape_px=512) as supervisor,
    ):
        assert supervisor.url
        browser.get(supervisor.url)

        def frame_shown() -> int:
            supervisor.tick(0.05)
            text = browser.execute_script("return document.body.innerText")
            words = str(text).split()
            after = [b for a, b in itertools.pairwise(words) if a == "Frame"]
            return int(after[0]) if after and after[0].isdigit() else -1

        wait = WebDriverWait(browser, PATIENCE_S, poll_frequency=0.05)
        first = wait.until(lambda _: frame if (frame := frame_shown()) >= 0 else False)
        wait.until(lambda _: frame_shown() > first + 60)
        if os.environ.get(PICTURE):
            wait.until(lambda _: frame_shown() > 900)
            browser.save_screenshot(os.environ[PICTURE])
        colours = _colours(browser)
        assert colours > 20  # columns are drawn in colour over a grey frame
        assert complaints(browser) == []
        summary = _stop(supervisor)
    assert summary["unaccounted"] == 0
    assert summary["alarms"] == []


def _colours(browser: object) -> int:
    """Pixels of the newest frame's canvas that are coloured, not grey."""
    return browser.execute_script(  # type: ignore[attr-defined]
        """
        const counts = [...document.querySelectorAll("canvas")].map((canvas) => {
          if (!canvas.width) return 0;
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          let coloured = 0;
          for (let i = 0; i < data.length; i += 4)
            coloured += Math.max(data[i], data[i+1], data[i+2]) - Math.min(data[i], data[i+1], data[i+2]) > 60;
          return coloured;
        });
        return counts[0];
        """
    )


def _stop(supervisor: Supervisor) -> dict[str, object]:
    return supervisor.stop()
