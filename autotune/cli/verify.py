"""`autotune verify DIR`: check a finished result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from autotune.cli.main import emit, format_option


@click.command("verify", epilog="Example: autotune verify out")
@click.argument("folder", type=click.Path(path_type=Path))
@format_option
def command(folder: Path, output_format: str) -> int:
    """Check a result: files, ranks, parity, latency and quality; exit code 1 if INVALID."""
    from autotune.cli.reporting import make_reporter
    from autotune.tune.verify import verify

    record = verify(folder, make_reporter())
    lines = [_line(finding) for finding in record["findings"]]
    wrong = sum(not finding["holds"] for finding in record["findings"])
    lines.append(f"INVALID: {wrong} of {len(lines)} checks failed" if wrong else "VALID")
    emit(output_format, record, lines)
    return 0 if record["valid"] else 1


def _line(finding: dict[str, Any]) -> str:
    facts = {k: v for k, v in finding.items() if k not in ("check", "holds", "reason")}
    said = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()
    )
    state = "ok    " if finding["holds"] else "WRONG "
    return state + ": ".join(filter(None, (finding["check"], finding["reason"] or said)))
