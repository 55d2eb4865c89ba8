"""Progress bars on stderr, only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from autotune.core.progress import Advance, Reporter, no_progress
from autotune.core.text import printable


class TerminalReporter(Reporter):
    """Stages as rich progress bars on a terminal, as single lines elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, quiet=quiet)
        self.live = sys.stderr.isatty() and not quiet

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """A bar with count and time left, or one line."""
        name = printable(name)
        if not self.live:
            self._print(name, style="dim")
            yield no_progress
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as bars:
            task = bars.add_task(name, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
            total = bars.tasks[0].total or 1
            bars.update(task, completed=total, total=total)

    def note(self, text: str) -> None:
        """Print one line above the progress bars."""
        self._print(printable(text))

    def _print(self, text: str, style: str = "") -> None:
        """One line, which is wrapped on a terminal only: elsewhere a line of text stays whole."""
        self.console.print(
            text, style=style, highlight=False, markup=False, soft_wrap=not self.live
        )
