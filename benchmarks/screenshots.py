"""Pictures of the service's pages for docs/, of a real tuning of the default model.

    python benchmarks/screenshots.py [--data FOLDER] [--out docs]

Starts a server and Chromium (Debian's packages chromium and chromium-driver), tunes through the
form unless the folder holds a finished tuning, and writes page-*.png. Prints what it wrote; the
last line is one JSON document, a list of names.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import presence_of_element_located
from selenium.webdriver.support.ui import WebDriverWait

from autotune.service.client import Client
from tests.autotune.service.browser import chromium, dark, resize, serving


def main() -> None:
    """Serve, tune, photograph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch) / "data"
        with serving(data, "--db", data.parent / "latency.sqlite") as server:
            with Client(server.address) as client:
                finished = tuned(client)
            with chromium(Path(scratch) / "chromium") as browser:
                names = photograph(browser, server.address, job_id=finished, out=options.out)
    print(json.dumps(names))


def tuned(client: Client) -> str:
    """The id of a finished tuning."""
    for budget in ("0.9x", "0.85x"):
        job = client.submit("tune", {"latency_budget": budget}, idempotency_key=budget)
        client.wait(job["id"])
    return str(job["id"])


def photograph(browser: Any, address: str, *, job_id: str, out: Path) -> list[str]:
    """Each page by day, one by night, one on a telephone."""
    names = []
    ids = [job_id]
    with Client(address) as client:
        ids = [job["id"] for job in client.jobs(state="succeeded")["jobs"]][:2]
    compare = "/compare?" + "&".join(f"job={each}" for each in ids)
    for name, path, width, height, night in (
        ("jobs", "/", 1280, 760, False),
        ("result", f"/jobs/{job_id}", 1280, 2250, False),
        ("result-dark", f"/jobs/{job_id}", 1280, 1900, True),
        ("device", "/devices/h200", 1280, 1100, False),
        ("compare", compare, 1280, 900, False),
        ("phone", f"/jobs/{job_id}", 390, 1400, False),
        ("phone-form", "/", 390, 1000, False),
    ):
        resize(browser, width, height)
        dark(browser, night)
        browser.get(address + path)
        if name == "device":
            browser.find_element("css selector", "#predict button").click()
            drawn = presence_of_element_located((By.CSS_SELECTOR, "#curve svg.main-svg"))
            WebDriverWait(browser, 60).until(drawn)
        time.sleep(3)
        target = out / f"page-{name}.png"
        browser.save_screenshot(str(target))
        names.append(target.name)
        print(target, flush=True)
    return names


if __name__ == "__main__":
    main()
