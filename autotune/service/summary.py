"""The part of a command's JSON that is stored with its job; the whole is among its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.core.errors import UsageError
from autotune.report.summary import outcome_text
from autotune.results.job_summary import TuneSummary

_MOST_FAILURES = 20  # of layers that a profile could not measure; the database has them all


def summarise(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a tuning without its sites and curves, of a profile without a long list.

    Raises:
        UsageError: the JSON of a tuning lacks keys, or has values of another type.
    """
    if kind == "tune":
        return TuneSummary.of_result(record).to_json()
    found = dict(record)
    if kind == "profile":
        failed = list(found.get("failed", ()))
        found.update(failed=failed[:_MOST_FAILURES], failed_count=len(failed))
    return found


def outcome(result: Mapping[str, Any] | None) -> str:
    """Ratio and verdict of a tuning as a job stores it; empty for other kinds."""
    try:
        found = TuneSummary.of_job(result or {})
    except UsageError as error:  # one damaged row must not hide the other jobs of a list
        return f"the stored result cannot be read: {error}"
    return outcome_text(found) if found is not None else ""
