"""Progress as JSON lines on a pipe, for the program that started this one."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from autotune.core.progress import Advance, Reporter

VARIABLE = "AUTOTUNE_PROGRESS_FD"
_EVERY_S = 0.25


class PipeReporter(Reporter):
    """Writes `{"stage": name}`, `{"done": n, "total": m}` and `{"note": text}`, one a line.

    Stages and notes go to stderr too, for the log. A reader that went away does not hold up the
    work.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Its name, and then how far it is, four times a second at most."""
        self._send(stage=name)
        sys.stderr.write(f"{name}\n")
        told = 0.0

        def advance(done: int, total: int) -> None:
            nonlocal told
            if done >= total or time.monotonic() - told >= _EVERY_S:
                told = time.monotonic()
                self._send(done=done, total=total)

        yield advance

    def note(self, text: str) -> None:
        """One line."""
        self._send(note=text)
        sys.stderr.write(f"{text}\n")

    def _send(self, **message: object) -> None:
        with suppress(OSError):
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
