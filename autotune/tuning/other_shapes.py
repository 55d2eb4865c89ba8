"""What is handed out, timed briefly at other batch sizes and lengths, and with several streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.errors import MeasurementError
from autotune.core.types import Workload
from autotune.results.measured import MeasuredPass
from autotune.results.measured_points import OtherShape

if TYPE_CHECKING:
    from autotune.profiler.measure.timing import PairedTiming
    from autotune.tuning.rounds import Round
    from autotune.tuning.session import Tuning

# Sequences in place of a single one, and the part of the length that shorter ones have.
_SEQUENCES, _PART = 4, 4
_LEAST_LENGTH = 8


def other_shapes(tuning: Tuning, final: Round) -> tuple[OtherShape, ...]:
    """The final round at other shapes and streams; empty where that is not asked for or possible.

    A shape at which the networks cannot be timed is noted and left out.
    """
    if final.measured is None or not tuning.request.search.other_shapes:
        return ()
    found = []
    for workload, streams in _asked(tuning):
        passes = []
        for phase, count in workload.passes.items():
            build = final.builds[phase]
            timed = _timed(tuning, build, phase=phase, workload=workload, streams=streams)
            if timed is None:
                break
            passes.append(replace(timed, count=count))
        else:
            found.append(
                OtherShape(
                    batch_size=workload.batch_size,
                    sequence_length=workload.sequence_length,
                    streams=streams,
                    passes=tuple(passes),
                )
            )
    return tuple(found)


def _asked(tuning: Tuning) -> Iterator[tuple[Workload, int]]:
    """Other workloads with one stream, and the tuning's own with one for each thread."""
    for workload in other_workloads(tuning.model.workload):
        if _shapes(tuning, workload) != _shapes(tuning, tuning.model.workload):
            yield workload, 1
    fingerprint = tuning.machine.fingerprint
    if tuning.machine.spec.kind == "cpu" and fingerprint.threads > 1:
        yield tuning.model.workload, fingerprint.threads


def other_workloads(workload: Workload) -> list[Workload]:
    """Another batch size, a shorter length, and both; as many as there are."""
    batch = 1 if workload.batch_size > 1 else _SEQUENCES
    length = max(min(_LEAST_LENGTH, workload.sequence_length), workload.sequence_length // _PART)
    pairs = [
        (batch, workload.sequence_length),
        (workload.batch_size, length),
        (batch, length),
    ]
    own = (workload.batch_size, workload.sequence_length)
    return [
        dataclasses.replace(workload, batch_size=rows, sequence_length=tokens)
        for rows, tokens in dict.fromkeys(pairs)
        if (rows, tokens) != own
    ]


def _shapes(tuning: Tuning, workload: Workload) -> dict[str, Any]:
    """Of the inputs: images have no length."""
    model = replace(tuning.model, workload=workload)
    return {
        f"{phase}:{name}": tuple(tensor.shape)
        for phase in workload.passes
        for name, tensor in model.example_inputs(phase).items()
    }


def _timed(
    tuning: Tuning, build: Path, *, phase: str, workload: Workload, streams: int
) -> MeasuredPass | None:
    """One phase, kept in the run folder; None where it cannot be timed."""
    machine, workspace, reference = tuning.machine, tuning.workspace, tuning.reference
    inputs = reference.inputs(phase, workload)
    shape = f"{workload.batch_size} x {workload.sequence_length} tokens"
    label = f"time {phase} at {shape}" if streams == 1 else f"time {phase} in {streams} streams"

    def compute() -> dict[str, Any] | None:
        with workspace.stage(label) as advance:
            try:
                timing: PairedTiming | None = machine.compare_briefly(
                    [reference.dense(phase), build], inputs, streams=streams, advance=advance
                )
            except MeasurementError as error:
                workspace.note(f"could not {label}: {error}")
                return None
        return asdict(MeasuredPass.of(phase, timing)) if timing else None

    key = {
        "fingerprint": machine.fingerprint.id,
        "build": reference.key(build),
        "inputs": inputs.name,
        "streams": streams,
    }
    # What failed is tried again when the same command is run again.
    found = workspace.value("other-shape", key, compute=compute, reuse=bool)
    return MeasuredPass(**found) if found else None
