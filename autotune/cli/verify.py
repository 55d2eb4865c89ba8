"""`autotune verify FOLDER`: check a finished result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.main import emit, format_option
from autotune.results.quality_verdict import QualityVerdict

if TYPE_CHECKING:
    from autotune.results.checks import Check, Verification


@click.command("verify", epilog="Example: autotune verify out")
@click.argument("folder", type=click.Path(path_type=Path))
@format_option
def command(folder: Path, output_format: str) -> int:
    """Check a finished tuning or an export: files, forms, parity, latency and quality.

    Exit code 0 if every check holds (VALID) and the budget is met, 1 if a check fails (INVALID),
    the budget is missed or the quality is lost, and 5 if only the interval of the latency does not
    decide.
    """
    from autotune.cli.reporting import make_reporter
    from autotune.tuning.verify import verify

    found = verify(folder, make_reporter())
    warnings = [f"warning: {text}" for text in found.warnings]
    lines = [*map(_line, found.checks), *warnings, _last_line(found)]
    emit(output_format, found.to_json(), lines=lines)
    return found.exit_code


def _last_line(found: Verification) -> str:
    failed = sum(not check.holds for check in found.checks)
    if failed:
        return f"INVALID: {failed} of {len(found.checks)} checks failed"
    budget = f", budget {found.verdict}" if found.verdict else ""
    if found.floor_missed:
        budget += ", quality floor missed"
    reduced = found.quality_verdict not in (None, QualityVerdict.KEPT)
    return f"VALID{budget}" + (f", quality {found.quality_verdict}" if reduced else "")


def _line(check: Check) -> str:
    facts = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in check.facts_json().items()
    )
    state = "ok    " if check.holds else "WRONG "
    return state + ": ".join(filter(None, (check.title, check.reason or facts)))
