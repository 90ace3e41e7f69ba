# SPDX-License-Identifier: MIT
"""A real headless Chromium for tests of what people see."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Debian's packages chromium and chromium-driver"
)
# Without background networking nothing is asked of the outside; as root there is no sandbox.
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """One page in one Chromium."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def script(self, text: str, *arguments: object) -> Any:
        """What JavaScript `text` returns."""
        return self.driver.execute_script(text, *arguments)

    def wait(self, condition: str, deadline_s: float = 60) -> Any:
        """The first true value of the JavaScript expression `condition`."""
        until = time.monotonic() + deadline_s
        while not (value := self.script(f"return {condition}")):
            assert time.monotonic() < until, f"never true in {deadline_s} s: {condition}"
            time.sleep(0.02)
        return value

    def size(self, width: int, height: int = 900) -> None:
        """Make the window that large, as a telephone where it is narrow."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Prefer "dark" or "light"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """What the page's console and the browser had to complain of."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def main_thread_s(self) -> float:
        """CPU time of the busiest renderer's main thread, which other work does not lengthen."""
        ticks = os.sysconf("SC_CLK_TCK")
        spent = [0.0]
        for process in psutil.Process(self.driver.service.process.pid).children(recursive=True):
            try:
                if "--type=renderer" in process.cmdline():
                    stat = Path(f"/proc/{process.pid}/task/{process.pid}/stat").read_text()
                    fields = stat.rsplit(")", 1)[1].split()
                    spent.append((int(fields[11]) + int(fields[12])) / ticks)
            except (psutil.NoSuchProcess, OSError):
                continue
        return max(spent)


@contextmanager
def browse(
    profile: Path, page: Path | str, width: int = 1200, scheme: str = "light"
) -> Iterator[Browser]:
    """Chromium with `page` open, a file or an address."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER or ""))
    try:
        browser = Browser(driver)
        browser.size(width)
        browser.prefer(scheme)
        driver.get(page.as_uri() if isinstance(page, Path) else page)
        yield browser
    finally:
        driver.quit()
