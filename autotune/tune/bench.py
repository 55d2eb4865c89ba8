"""Measure a finished result again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.core.errors import UsageError
from autotune.core.progress import Reporter
from autotune.core.quantities import parse_quantity
from autotune.core.types import Workload, from_mapping
from autotune.results.measured import Measured, MeasuredPass
from autotune.results.result import read_result
from autotune.tune.machines import local_machine
from autotune.tune.request import MachineOptions


def bench(folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Time the compressed model of a run folder in turn with its dense model, now.

    Raises:
        UsageError: no finished run there, or its cache was removed.
        MeasurementError: the backend failed.
    """
    record = read_result(folder)
    if record["measured_ratio"] is None:
        raise UsageError(
            f"{folder} was tuned for {record['device']['device_name']}, which was not there, so "
            "nothing of it was measured; tune again on that device"
        )
    paths = {
        run: {name: folder / path for name, path in entry.items()}
        for run, entry in record["artefacts"].items()
    }
    gone = [path for entry in paths.values() for path in entry.values() if not path.exists()]
    if gone:
        raise UsageError(
            f"{gone[0]} is gone, so there is nothing to compare with; run the tuning again on "
            f"{folder}"
        )
    passes = []
    for run, count in from_mapping(Workload, record["workload"]).passes.items():
        timed = time_pass(folder, record, run, paths[run]["compressed"], reporter)
        passes.append(dataclasses.replace(timed, count=count))
    measured = Measured(passes=tuple(passes))
    limit = record["budget"].get("latency")
    target = 1.0
    if limit:
        quantity = parse_quantity(limit, "latency")
        target = quantity.value if quantity.relative else quantity.value / measured.dense_latency_s
    return {
        "folder": str(folder),
        "latency_s": measured.latency_s,
        "dense_latency_s": measured.dense_latency_s,
        "ratio": measured.ratio,
        "ratio_low": measured.ratio_low,
        "ratio_high": measured.ratio_high,
        "passes": [dataclasses.asdict(one) for one in measured.passes],
        "tuned_ratio": record["measured_ratio"],
        "budget_ratio": target,
        "within_budget": measured.ratio <= target,
    }


def time_pass(
    folder: Path, record: Mapping[str, Any], run: str, compressed: Path, reporter: Reporter
) -> MeasuredPass:
    """Time `compressed` in turn with the dense model that the run was measured against.

    Raises:
        MeasurementError: the backend failed.
    """
    entry = record["artefacts"][run]
    device = record["device"]
    options = MachineOptions(
        device=device["device"],
        backend=record["backend"],
        dtype=record["dtype"],
        threads=device["threads"] if device["device"] == "cpu" else None,
    )
    with local_machine(options) as machine:
        with reporter.stage(f"measure {compressed.name}, {run}") as advance:
            both = (folder / entry["dense"], compressed)
            timing = machine.compare(both, folder / entry["inputs"], final=True, advance=advance)
    return MeasuredPass.of(run, timing)
