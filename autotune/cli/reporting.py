"""Where a command's progress goes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autotune.core.progress.pipe import VARIABLE, PipeReporter

if TYPE_CHECKING:
    from autotune.core.progress import Reporter


def make_reporter(quiet: bool = False) -> Reporter:
    """To the program that started this one if it asked for it, else to the terminal."""
    if VARIABLE in os.environ:
        return PipeReporter(int(os.environ[VARIABLE]))
    from autotune.core.progress.terminal import TerminalReporter

    return TerminalReporter(quiet=quiet)
