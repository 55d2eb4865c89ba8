"""Measure a finished result again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.errors import UsageError
from autotune.measuring import network_policy, network_subject, time_subjects
from autotune.paths import default_measure_seconds
from autotune.profiler.backends import require_backend
from autotune.profiler.shard import ShardRunner
from autotune.progress import Reporter
from autotune.result import read_result
from autotune.units import parse_quantity


def bench(folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Time the compressed model of a run folder in turn with its dense model, now.

    Raises:
        UsageError: no finished run there, or its cache was removed.
        MeasurementError: the backend failed.
    """
    record = read_result(folder)
    paths = {name: folder / path for name, path in record["artefacts"].items()}
    gone = [path for path in paths.values() if not path.exists()]
    if gone:
        raise UsageError(
            f"{gone[0]} is gone, so there is nothing to compare with; run the tuning again on "
            f"{folder}"
        )
    backend = require_backend(record["backend"], "cpu")
    runner = ShardRunner(backend=backend.name, threads=record["device"]["threads"])
    subjects = [network_subject(paths[name], paths["inputs"]) for name in ("dense", "compressed")]
    with reporter.stage("measure the result") as advance:
        policy = network_policy(default_measure_seconds(), final=True)
        timing = time_subjects(runner, subjects, policy, advance)
    limit = record["budget"].get("latency")
    ratio = timing.ratios[1]
    target = 1.0
    if limit:
        quantity = parse_quantity(limit, "latency")
        target = quantity.value if quantity.relative else quantity.value / timing.latencies_s[0]
    return {
        "folder": str(folder),
        "latency_s": timing.latencies_s[1],
        "dense_latency_s": timing.latencies_s[0],
        "ratio": ratio,
        "ratio_low": timing.ratio_lows[1],
        "ratio_high": timing.ratio_highs[1],
        "tuned_ratio": record["measured_ratio"],
        "budget_ratio": target,
        "within_budget": ratio <= target,
    }
