"""Where a command's progress goes, and how a tuning's result is printed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autotune.cli.main import echo, emit
from autotune.core.progress.pipe import VARIABLE, PipeReporter
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.verdict import Verdict

if TYPE_CHECKING:
    from autotune.core.progress import Reporter
    from autotune.results.result import TuneResult


def make_reporter(quiet: bool = False) -> Reporter:
    """To the program that started this one if it asked for it, else to the terminal."""
    if VARIABLE in os.environ:
        return PipeReporter(int(os.environ[VARIABLE]))
    from autotune.core.progress.terminal import TerminalReporter

    return TerminalReporter(quiet=quiet)


def print_result(result: TuneResult, output_format: str, *, rounds_left: bool = False) -> int:
    """Print a tuning's result, and why it is no success where it is none; its exit code.

    `rounds_left`: not all rounds were used.
    """
    from autotune.report.summary import loss_text, miss_text, quality_text, summary

    record = result.record
    values = {**record.to_json(), "output": str(result.folder)}
    emit(output_format, values, lines=summary(record, result.folder))
    if result.verdict is not Verdict.MET:
        echo(f"autotune: {miss_text(record, rounds_left=rounds_left)}", err=True)
    if record.quality_lost:
        echo(f"autotune: {loss_text(record)}", err=True)
    elif result.quality_verdict is not QualityVerdict.KEPT:
        echo(f"autotune: warning: {quality_text(record)}", err=True)
    return record.exit_code
