"""A real headless Chromium, for looking at the page as an operator would."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--hide-scrollbars",
)


@contextlib.contextmanager
def chromium(
    profile: Path, *, size: tuple[int, int] = (1280, 720), device_pixel_ratio: float = 1.0
) -> Iterator[Chrome]:
    """A browser whose page is `size` (width, height) CSS pixels large.

    Skips the test where Chromium or its driver is missing; fails it there if HOPSCOPE_REQUIRE_BROWSER is set,
    as it is where the page's test must not be left out.
    """
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        text = "no Chromium with chromedriver here; on Debian: apt-get install chromium chromium-driver"
        pytest.fail(text) if os.environ.get("HOPSCOPE_REQUIRE_BROWSER") else pytest.skip(text)
    options = ChromeOptions()
    options.binary_location = binary
    for flag in (
        *_FLAGS,
        f"--user-data-dir={profile}",
        f"--force-device-scale-factor={device_pixel_ratio:g}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(driver))
    try:
        resize(browser, size, device_pixel_ratio)
        yield browser
    finally:
        browser.quit()


def resize(browser: Chrome, size: tuple[int, int], device_pixel_ratio: float = 1.0) -> None:
    """Make the page `size` (width, height) CSS pixels large, whatever the window's frame."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": device_pixel_ratio, "mobile": False},
    )


def complaints(browser: Chrome) -> list[str]:
    """Warnings and errors of the console since the last look."""
    return [f"{e['level']}: {e['message']}" for e in browser.get_log("browser") if e["level"] != "INFO"]
