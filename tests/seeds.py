"""Random moments and kill sequences that can be replayed.

Every session draws one seed, or takes AUTOTUNE_TEST_SEED. A test derives its own generator from
the seed and its name, so that it draws the same numbers whether it runs alone or among others.
The seed stands in the report of a test that failed and at the end of its session.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Generator

import pytest

VARIABLE = "AUTOTUNE_TEST_SEED"


def session_seed() -> str:
    """The seed of this session; worker processes inherit it through the environment."""
    return os.environ.setdefault(VARIABLE, str(secrets.randbelow(2**31)))


def generator_for(name: str) -> random.Random:
    """The generator of the test `name`; equal for equal seeds, on every machine."""
    return random.Random(f"{session_seed()}:{name}")


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """Random moments and choices of one test."""
    return generator_for(request.node.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How to repeat the random choices of a session in which something failed."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"random moments: {VARIABLE}={session_seed()}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say the seed beside the failure of a test that drew from it."""
    report = yield
    if report.failed and "moments" in getattr(item, "fixturenames", ()):
        command = f"{VARIABLE}={session_seed()} python -m pytest '{item.nodeid}'"
        report.sections.append(("Replay", command))
    return report
