"""How long work tells where it is: the pipeline reports, the front end shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """Show nothing: the `Advance` of work whose progress nobody follows."""
    del done, total


class Reporter:
    """Receives stages and notes; this one keeps silent."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Announce a stage; the yielded callable takes (done, total)."""
        del name
        yield no_progress

    def note(self, text: str) -> None:
        """One line worth telling, such as a cached stage or a failed measurement."""
        del text
