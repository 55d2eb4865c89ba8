"""Measure a finished tuning again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from autotune.core.checksums import Checksums, checksum_file
from autotune.core.errors import UsageError
from autotune.core.progress import Reporter
from autotune.results.bench_record import BenchRecord
from autotune.results.measured import Measured, MeasuredPass
from autotune.results.record import TuneRecord
from autotune.results.result import read_result
from autotune.results.verdict import Verdict, latency_limit
from autotune.tuning.machines import local_machine
from autotune.tuning.options import MachineOptions
from autotune.tuning.spells import at_any_time


def bench(folder: str | Path, reporter: Reporter | None = None) -> BenchRecord:
    """Time the compressed model of a run folder alternately with its dense model.

    Raises:
        UsageError: the folder has no finished tuning, nothing was measured in it, or the models
            that were timed have been removed.
        MeasurementError: the backend failed.
    """
    folder, reporter = Path(folder), reporter or Reporter()
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
            limit,
            measured.ratio,
            ratio_low=measured.ratio_low,
            ratio_high=measured.ratio_high,
            is_dense=record.is_dense,
        ),
    )


def _require_builds(folder: Path, record: TuneRecord) -> None:
    """Refuse to time what has been removed or is not what the tuning timed.

    Raises:
        UsageError: it names the file.
    """
    again = f"so there is nothing to compare with; run the tuning again on {folder}"
    for build in record.builds.values():
        for name in (build.dense, build.compressed, build.inputs):
            if not (folder / name).exists():
                raise UsageError(f"{folder / name} has been removed, {again}")
            entry = folder.joinpath(*Path(name).parts[:2])  # .cache/ENTRY
            # Entries of earlier versions have no checksum.
            problem = checksum_file(entry).exists() and Checksums().damage(entry)
            if problem:
                raise UsageError(f"{entry} {problem}, {again}")


def time_pass(
    folder: Path, record: TuneRecord, *, phase: str, compressed: Path, reporter: Reporter
) -> MeasuredPass:
    """Time the model `compressed` in one phase, alternately with the dense model of the tuning.

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
    return at_any_time(
        MeasuredPass.of(phase, timing),
        [(site.layer_count, site.form) for site in record.sites],
        product_sd_s=machine.product_sd_s,
    )
