"""What must hold of a command that judges something, whichever way its verdict goes.

A short timing on a busy machine may miss its budget, which is no error of the program. The exit
code must then agree with what the command wrote: nothing else may make it differ from 0.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from autotune.core.quantities import parse_quantity

# The exit code by verdict, and by `within_budget`, of tune and bench.
MET, MISSED, UNDECIDED = 0, 1, 5
_BY_VERDICT = {"met": MET, "missed": MISSED, "undecided": UNDECIDED}
_BY_WITHIN_BUDGET = {True: MET, False: MISSED, None: UNDECIDED}


def last_record(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON document that a command with `--format json` ends with."""
    assert process.stdout.strip(), process.stderr
    record: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return record


def assert_agrees(process: subprocess.CompletedProcess[str], record: dict[str, Any]) -> None:
    """The exit code, the verdicts and the interval of `record` say the same."""
    within = record["within_budget"]
    lost = record.get("quality_verdict") == "lost" and not record.get("allow_quality_loss")
    lost = record.get("quality_lost", lost)  # of a verification
    expected = MISSED if lost else _BY_WITHIN_BUDGET[within]
    assert process.returncode == expected, (process.returncode, process.stderr)
    if "allow_quality_loss" in record:  # a tuning, not a verification
        assert ("the quality is lost" in process.stderr) == lost
    if "verdict" in record:
        assert _BY_VERDICT[record["verdict"]] == _BY_WITHIN_BUDGET[within], record["verdict"]
    assert "Traceback" not in process.stderr
    low, high, target = _interval(record)
    if target is not None:  # whichever rule decides between met and missed inside the interval
        assert low <= high
        assert not (within and low > target), (low, target)
        assert not (within is False and high <= target), (high, target)


def _interval(record: dict[str, Any]) -> tuple[float, float, float | None]:
    """The measured interval of the ratio to dense and its limit; None where neither was given."""
    if "budget_ratio" in record:  # of a bench
        return record["ratio_low"], record["ratio_high"], record["budget_ratio"]
    limit = record["budget"].get("latency")
    if limit is None or record["measured_ratio"] is None:
        return 0.0, 0.0, None
    quantity = parse_quantity(limit, "latency")
    target = quantity.value if quantity.relative else quantity.value / record["dense_latency_s"]
    return record["measured_ratio_low"], record["measured_ratio_high"], target


def assert_finished(
    process: subprocess.CompletedProcess[str], folder: Path | None = None
) -> dict[str, Any]:
    """A tuning or a bench has ended with a result, and its exit code is that result's verdict.

    The result is read from `folder`/result.json or, without a folder, from the last line of
    stdout. Budgets that are counted rather than timed must hold in any case. Returns the result.
    """
    if folder is None:
        record = last_record(process)
    else:
        assert (folder / "result.json").is_file(), process.stderr
        record = json.loads((folder / "result.json").read_text())
    assert_agrees(process, record)
    for name, budget in record.get("budgets", {}).items():
        assert name == "latency" or budget["used"] <= budget["limit"] * (1 + 1e-9), (name, budget)
    return record
