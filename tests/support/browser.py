"""A real browser without a window, which reads a page from a file."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
ARTEFACTS = Path(os.environ.get("ACCORD_ARTEFACTS", Path(__file__).parents[1] / "artefacts"))
"""Where screenshots are kept."""


class Browser:
    """A page at a time, at a chosen size and colour scheme."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = 1280, scheme: str = "light", script: bool = True) -> None:
        """Load a file as a reader would who has a screen this wide, and this colour scheme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.command("Emulation.setDeviceMetricsOverride", size)
        self.command("Emulation.setEmulatedMedia", media)
        self.command("Emulation.setScriptExecutionDisabled", {"value": not script})
        self.driver.get(path.resolve().as_uri())

    def ask(self, expression: str, *arguments: Any) -> Any:
        """The value of a JavaScript expression; its arguments are ``arguments``."""
        return self.driver.execute_script(f"return {expression}", *arguments)

    def command(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """A command of the developer tools."""
        return self.driver.execute_cdp_cmd(name, options)

    def log(self) -> list[dict[str, Any]]:
        """What the console has said since it was last asked."""
        return self.driver.get_log("browser")

    def press(self, key: str) -> None:
        """One key, where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def click(self, selector: str) -> None:
        """The first element of a selector, where it can be seen and clicked."""
        self.driver.find_element("css selector", selector).click()

    def shoot(self, name: str, height: int = 2400) -> Path:
        """Keep a picture of the upper part of the page."""
        width, whole = self.ask("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, whole), "scale": 1}
        data = self.command("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})["data"]
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        path.write_bytes(base64.b64decode(data))
        return path


def why_not() -> str:
    """Why there is no browser here; empty where there is one."""
    try:
        import selenium  # noqa: F401
    except ModuleNotFoundError:
        return "selenium is not installed"
    if _found(BROWSERS) is None:
        return f"no browser ({', '.join(BROWSERS)}) on the path"
    return "" if _found(DRIVERS) else "no chromedriver on the path"


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, closed at the end; without one the test is skipped, or fails where ACCORD_BROWSER is set."""
    if reason := why_not():
        assert not os.environ.get("ACCORD_BROWSER"), f"{reason}, but ACCORD_BROWSER is set"
        pytest.skip(reason)
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = _found(BROWSERS)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(_found(DRIVERS)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _found(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)
