"""Measure a finished tuning again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autotune.core.errors import UsageError
from autotune.core.progress import Reporter
from autotune.results.bench_record import BenchRecord
from autotune.results.measured import Measured, MeasuredPass
from autotune.results.record import TuneRecord
from autotune.results.result import read_result
from autotune.results.verdict import Verdict, latency_limit
from autotune.tuning.machines import local_machine
from autotune.tuning.options import MachineOptions


def bench(folder: Path, reporter: Reporter) -> BenchRecord:
    """Time the compressed model of a run folder in turn with its dense model.

    Raises:
        UsageError: the folder has no finished tuning, nothing was measured in it, or the models
            that were timed have been removed.
        MeasurementError: the backend failed.
    """
    record = read_result(folder)
    tuned = record.measured
    if tuned is None:
        raise UsageError(
            f"{folder} was tuned for {record.device.device_name}, which was not present, so it "
            "holds no measurement to repeat; tune again on that device"
        )
    _require_builds(folder, record)
    phases = []
    for name, count in record.workload.passes.items():
        compressed = folder / record.builds[name].compressed
        timed = time_pass(folder, record, phase=name, compressed=compressed, reporter=reporter)
        phases.append(dataclasses.replace(timed, count=count))
    measured = Measured(passes=tuple(phases))
    limit = latency_limit(record.budget.get("latency"), measured.dense_latency_s)
    return BenchRecord(
        folder=str(folder),
        latency_s=measured.latency_s,
        dense_latency_s=measured.dense_latency_s,
        ratio=measured.ratio,
        ratio_low=measured.ratio_low,
        ratio_high=measured.ratio_high,
        phases=measured.passes,
        tuned_ratio=tuned.ratio,
        budget_ratio=1.0 if limit is None else limit,
        verdict=Verdict.of(
            limit, measured.ratio, ratio_low=measured.ratio_low, ratio_high=measured.ratio_high
        ),
    )


def _require_builds(folder: Path, record: TuneRecord) -> None:
    for build in record.builds.values():
        for path in (build.dense, build.compressed, build.inputs):
            if not (folder / path).exists():
                raise UsageError(
                    f"{folder / path} has been removed, so there is nothing to compare with; run "
                    f"the tuning again on {folder}"
                )


def time_pass(
    folder: Path, record: TuneRecord, *, phase: str, compressed: Path, reporter: Reporter
) -> MeasuredPass:
    """Time the model `compressed` in one phase, in turn with the dense model of the tuning.

    Raises:
        MeasurementError: the backend failed.
    """
    build = record.builds[phase]
    options = MachineOptions(
        device=record.device.device,
        backend=record.backend,
        dtype=record.dtype,
        threads=record.device.threads,
    )
    with (
        local_machine(options) as machine,
        reporter.stage(f"measure {compressed.name}, {phase}") as advance,
    ):
        both = (folder / build.dense, compressed)
        timing = machine.compare(both, folder / build.inputs, final=True, advance=advance)
    return MeasuredPass.of(phase, timing)
