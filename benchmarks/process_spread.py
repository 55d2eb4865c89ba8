"""How far apart fresh processes find the ratio of a tuned network to its dense one.

    python benchmarks/process_spread.py --run OUT [--processes 12] [--seconds 2.5]

OUT is the folder of a finished tuning on this device. Every process times both networks in turn, as
one process of a tuning does, but with intervals of its own rounds alone. Prints one line a
process; the last line is one JSON document with the standard deviation between the processes,
relative to their median, and what of it their own intervals explain.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

from autotune.profiler.measure.intervals import NORMAL
from autotune.profiler.measure.tasks import TimingTask
from autotune.results.result import read_result
from autotune.tuning.machines import local_machine
from autotune.tuning.network_timing import network_policy, network_subject
from autotune.tuning.options import MachineOptions


def main() -> None:
    """Time, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.5, help="Of one process.")
    options = parser.parse_args()
    record = read_result(options.run)
    build = record.builds["prefill"]
    networks = (options.run / build.dense, options.run / build.compressed)
    inputs = options.run / build.inputs
    subjects = tuple(network_subject(path, inputs) for path in networks)
    machine_options = MachineOptions(
        device=record.device.device, backend=record.backend, threads=record.device.threads
    )
    ratios, errors, waits = [], [], []
    with local_machine(machine_options) as machine:
        policy = dataclasses.replace(
            network_policy(machine.spec.kind, options.seconds),
            max_seconds=options.seconds,
            target_relative_ci=0.0,
            process_sd=0.0,
        )
        task = TimingTask(subjects=subjects, policy=policy)
        for _ in range(options.processes):
            (outcome,) = machine.runner.run([task])
            assert outcome.timing is not None, outcome.error
            timing = outcome.timing
            ratios.append(timing.ratios[1])
            errors.append((timing.ratio_highs[1] - timing.ratio_lows[1]) / 2 / NORMAL)
            waits.append(timing.waiting)
            print(
                f"{ratios[-1]:.4f} ({timing.ratio_lows[1]:.4f} to {timing.ratio_highs[1]:.4f}), "
                f"{timing.disturbed_windows} of {timing.windows} windows disturbed",
                flush=True,
            )
    middle = statistics.median(ratios)
    print(
        json.dumps(
            {
                "processes": len(ratios),
                "median_ratio": middle,
                "relative_sd": statistics.stdev(ratios) / middle,
                "relative_sd_of_own_intervals": statistics.fmean(errors) / middle,
                "waiting": statistics.fmean(waits),
            }
        )
    )


if __name__ == "__main__":
    main()
