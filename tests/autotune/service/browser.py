"""A real Chromium, and a real server for it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Server:
    """`autotune serve` in a process group of its own."""

    def __init__(
        self, data: Path, *arguments: object, environment: Any = None, cwd: Path | None = None
    ) -> None:
        data.parent.mkdir(parents=True, exist_ok=True)
        self.log = data.parent / f"{data.name}.log"
        command = [sys.executable, "-m", "autotune", "serve", "--port", "0", "--data", str(data)]
        with self.log.open("ab") as log:
            start = self.log.stat().st_size
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                cwd=cwd,
            )
        self.address = self._listen(start)

    def _listen(self, start: int) -> str:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            found = re.search(rb"serving on (\S+)", self.log.read_bytes()[start:])
            if found:
                return found[1].decode()
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        """As an operator does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)

    def kill(self) -> None:
        """As a power cut does, to this process alone."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def serving(
    data: Path, *arguments: object, environment: Any = None, cwd: Path | None = None
) -> Iterator[Server]:
    """A server until the end of the block."""
    server = Server(data, *arguments, environment=environment, cwd=cwd)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


@contextlib.contextmanager
def chromium(folder: Path, dark: bool = False) -> Iterator[Any]:
    """A headless browser that notes every request and everything on its console."""
    from selenium import webdriver

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs Chromium: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--user-data-dir={folder}",
        *(["--force-dark-mode"] if dark else []),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver)
    browser = webdriver.Chrome(options=options, service=service)
    try:
        yield browser
    finally:
        browser.quit()


def resize(browser: Any, width: int, height: int) -> None:
    """The page itself, not its window, gets this size; 390 is a telephone."""
    values = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", values)


def dark(browser: Any, on: bool) -> None:
    """What the reader's system prefers."""
    feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def complaints(browser: Any) -> list[str]:
    """What the console said that is no mere note."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] in ("WARNING", "SEVERE")
    ]


def requests(browser: Any) -> list[str]:
    """Every address that was asked since the last call."""
    import json

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
