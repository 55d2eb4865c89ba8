"""Which tests belong to the fast tier, and the order in which modules start.

A test without a marker is fast. The markers below put a module or a test outside the fast tier;
they are declared in pyproject.toml, and CONTRIBUTING.md says what belongs where.
"""

from __future__ import annotations

import pytest

BEYOND_FAST = frozenset({"slow", "faults", "browser", "farm", "docs"})


def add_option(parser: pytest.Parser) -> None:
    """`--tier`: what to run."""
    parser.addoption(
        "--tier",
        choices=("fast", "all"),
        default=None,
        help="fast: units, contracts and a few real tunings; all: every test (default: fast for a "
        "bare `pytest`, all for tests that are named by a path or chosen by -m)",
    )


def resolve(config: pytest.Config) -> None:
    """Set the tier where none was given; workers of pytest-xdist receive what is set here."""
    if config.option.tier is None:
        chosen = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.markexpr
        config.option.tier = "all" if chosen else "fast"


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what lies beyond the fast tier, if that is what runs."""
    if config.option.tier == "all":
        return
    beyond = [item for item in items if BEYOND_FAST & {mark.name for mark in item.iter_markers()}]
    items[:] = [item for item in items if item not in set(beyond)]
    if beyond:
        config.hook.pytest_deselected(items=beyond)


def order(items: list[pytest.Item]) -> None:
    """Start the longest modules first, so that all workers end at about the same time.

    A module's duration is what its `duration` marker says, in seconds on two cores; modules
    without one take less than ten seconds and keep the order in which they were collected.
    """
    longest: dict[str, float] = {}
    for item in items:
        mark = item.get_closest_marker("duration")
        module = item.nodeid.partition("::")[0]
        longest[module] = max(longest.get(module, 0.0), mark.args[0] if mark else 0.0)
    items.sort(key=lambda item: -longest[item.nodeid.partition("::")[0]])
