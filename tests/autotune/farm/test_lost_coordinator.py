"""The coordinator of a farm dies: what was measured is kept, and a job goes on when it is back."""

import importlib.util
import os
import subprocess
import sys
import time

import pytest

from autotune.farm.errors import FarmUnreachableError
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.service.client import Client
from tests.autotune.farm.conftest import Farm, kill_tree
from tests.autotune.service.browser import serving
from tests.waiting import wait_for

pytestmark = [pytest.mark.farm, pytest.mark.faults, pytest.mark.duration(100)]

WIDTHS = range(64, 64 * 14, 64)


@pytest.fixture
def own_farm(tmp_path):
    """A farm of this test's own, as another process sees it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'lowrank-autotune[farm]'")
    found = Farm(tmp_path)
    try:
        yield found
    finally:
        found.stop()


def rows(path):
    with LatencyDatabase(path) as store:
        return sum(len(store.measurements(mark)) for mark in store.fingerprints())


def settings(farm):
    return {
        **os.environ,
        "AUTOTUNE_FARM": farm.address,
        "AUTOTUNE_FARM_TOKEN": farm.token,
        "AUTOTUNE_MEASURE_SECONDS": "20",
    }


def test_a_command_says_that_the_farm_went_away(own_farm, tmp_path):
    database = tmp_path / "latency.sqlite"
    coordinator, _ = own_farm.up()
    shapes = [text for width in WIDTHS for text in ("--shape", f"{width}x96")]
    command = [sys.executable, "-m", "autotune", "profile", "--tokens", "128", "--threads", "1"]
    for _ in range(20):  # until the worker has joined
        process = subprocess.Popen(
            [*command, *shapes, "--db", str(database)],
            env=settings(own_farm),
            text=True,
            stderr=subprocess.PIPE,
        )
        wait_for(lambda p=process: p.poll() is not None or rows(database) > 4)
        if process.poll() is None:
            break
        time.sleep(1)
    kill_tree(coordinator)
    _, said = process.communicate(timeout=300)
    assert process.returncode == FarmUnreachableError.exit_code, said
    assert "lost the connection to the farm" in said
    assert rows(database) > 4
    with LatencyDatabase(database) as store:
        assert find_problems(store) == []


def test_a_job_goes_on_when_the_farm_is_back(own_farm, tmp_path):
    database = tmp_path / "latency.sqlite"
    own_farm.up()
    spec = {
        "tokens": [128],
        "shapes": [f"{width}x96" for width in WIDTHS],
        "ranks": [8, 16],
        "threads": 1,
    }
    environment = settings(own_farm)
    with serving(tmp_path / "data", "--db", database, environment=environment) as server:
        with Client(server.address) as client:
            job = client.submit("profile", spec)
            wait_for(lambda: rows(database) > 4)
            own_farm.lose_coordinator()
            job = client.wait(job["id"])
    assert job["state"] == "succeeded", job["error"]
    assert job["attempt"] > 1
    assert rows(database) == 3 * len(WIDTHS)
