"""Progress, and the error that ends a command, as JSON lines for the program that started this one.

The descriptor to write to is in `$AUTOTUNE_PROGRESS_FD`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from autotune.core.progress import Advance, Reporter
from autotune.core.text import printable

VARIABLE = "AUTOTUNE_PROGRESS_FD"
_EVERY_S = 0.25


class PipeReporter(Reporter):
    """Writes `{"stage": name}`, `{"done": n, "total": m}` and `{"note": text}`, one per line.

    Stages and notes go to stderr as well, for the log. A reader that went away is ignored.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Report the stage's name, and then its progress at most four times a second."""
        self._send(stage=name)
        sys.stderr.write(f"{printable(name)}\n")
        told = 0.0

        def advance(done: int, total: int) -> None:
            nonlocal told
            if done >= total or time.monotonic() - told >= _EVERY_S:
                told = time.monotonic()
                self._send(done=done, total=total)

        yield advance

    def note(self, text: str) -> None:
        """Report one line of text."""
        self._send(note=text)
        sys.stderr.write(f"{printable(text)}\n")

    def _send(self, **message: object) -> None:
        _write(self._descriptor, message)


def report_error(kind: str, message: str, *, exit_code: int) -> None:
    """Send `{"error": {"type": …, "message": …, "exit_code": …}}` if anybody listens.

    The listener spells the options that the message names (`autotune.core.errors.fill_names`).
    """
    if VARIABLE in os.environ:
        error = {"type": kind, "message": message, "exit_code": exit_code}
        _write(int(os.environ[VARIABLE]), {"error": error})


def _write(descriptor: int, message: Mapping[str, object]) -> None:
    with suppress(OSError):
        os.write(descriptor, json.dumps(message).encode() + b"\n")
