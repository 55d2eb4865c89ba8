"""Settings and fixtures of the runs on code-llama-3m."""

import subprocess
import sys

import pytest

from tests.conftest import LLAMA

BUDGET = "0.97x"
SMALL = (
    "--model", LLAMA, "--device", "cpu", "--latency-budget", BUDGET, "--batch-size", 1,
    "--isl", 128, "--calibration-samples", 16, "--trials", 2, "--rounds", 2,
    "--sensitivity-rounds", 0,
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the calibration text and one latency database for the whole module."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "text.txt").write_text((LLAMA / "heldout.txt").read_text()[:40_000])
    return folder


@pytest.fixture(scope="module")
def arguments(home):
    return (*SMALL, "--calibration", home / "text.txt", "--db", home / "latency.sqlite")


@pytest.fixture(scope="module")
def cli():
    def run(*args, **options):
        return subprocess.run(
            [sys.executable, "-m", "autotune", *map(str, args)], capture_output=True, text=True,
            timeout=600, **options,
        )  # fmt: skip

    return run
