"""Which modules take the time of a run: that of their tests and fixtures, in all processes."""

from __future__ import annotations

from collections import Counter

import pytest


def add_option(parser: pytest.Parser) -> None:
    """`--module-times`: how many to list."""
    parser.addoption(
        "--module-times",
        type=int,
        default=0,
        metavar="N",
        help="list the N modules that took longest (default: none)",
    )


class ModuleTimes:
    """Lists the slowest modules at the end of a run."""

    def __init__(self, count: int) -> None:
        """`count` is how many to list."""
        self.count = count

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line a module; their markers of `duration` should say about as much."""
        seconds: Counter[str] = Counter()
        for reports in terminalreporter.stats.values():
            for report in reports:
                if isinstance(report, pytest.TestReport):
                    seconds[report.nodeid.partition("::")[0]] += report.duration
        terminalreporter.section(
            f"{min(self.count, len(seconds))} slowest of {len(seconds)} modules"
        )
        for module, each_s in seconds.most_common(self.count):
            terminalreporter.write_line(f"{each_s:8.1f}s {module}")
        terminalreporter.write_line(f"{seconds.total():8.1f}s all")
