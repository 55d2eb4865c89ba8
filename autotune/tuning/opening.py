"""From a request to its tuning: the model is loaded, its layers measured and factorized."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from autotune.compress.calibration import load_calibration
from autotune.compress.loading import load_model
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.core.workload import Workload
from autotune.devices.detect import check_threads
from autotune.results.result import TuneResult
from autotune.results.verdict import Verdict
from autotune.tuning.builders import make_builder
from autotune.tuning.compression import compress
from autotune.tuning.dtypes import DtypeSearch
from autotune.tuning.earlier import (
    earlier_result,
    is_answered,
    request_key,
)
from autotune.tuning.fastest_backend import fastest_backend
from autotune.tuning.judging import (
    dense_heldout_loss,
    make_judges,
)
from autotune.tuning.machine import Machine
from autotune.tuning.machines import AUTO, find_machine
from autotune.tuning.model import trace_model
from autotune.tuning.ownership import require_apart, require_replaceable
from autotune.tuning.request import TuneRequest
from autotune.tuning.session import Tuning
from autotune.tuning.workspace import Workspace


def tune(
    request: TuneRequest, reporter: Reporter | None = None, *, machine: Machine | None = None
) -> TuneResult:
    """Run `request` to its result; see `autotune.api.tune` for what is raised.

    `machine` is used instead of the one that the request names, as in tests on a simulated one.
    """
    with open_tuning(request, reporter or Reporter(), machine=machine) as tuning:
        tuning.require_feasible()
        rounds = tuning.close_loop(tuning.search())
        final = tuning.confirm(rounds)
        tuning.map_front()
        return tuning.hand_out(final, rounds)


@contextmanager
def open_tuning(
    request: TuneRequest,
    reporter: Reporter,
    *,
    machine: Machine | None = None,
    keep_timings: bool = False,
    dtype: str | None = None,
) -> Iterator[Tuning]:
    """Load the model, measure its layers and factorize them; the folder is locked meanwhile.

    With `keep_timings` nothing is measured again that is known; `dtype` is what networks are run
    in, instead of those that the request offers.

    Raises:
        UsageError: a value that cannot be used (model, calibration data, folder, …).
        DeviceMissingError: the device or its backend is not there.
        MeasurementError: a measurement failed.
    """
    started_s = time.monotonic()
    torch.set_num_threads(check_threads(request.machine.threads))
    with ExitStack() as stack:
        machine = stack.enter_context(machine or find_machine(request.machine))
        machine.prepare()
        folder = stack.enter_context(RunFolder(request.output, note=reporter.note))
        require_replaceable(folder.path)
        workspace = Workspace(folder=folder, reporter=reporter)
        earlier = earlier_result(folder)
        for text in machine.disturbances():
            workspace.note(f"warning: {text}")
        with workspace.stage("load the model"):
            loaded = load_model(request.model)
        require_apart(folder.path, loaded.folder, option="model")
        met = earlier if earlier and earlier.verdict is Verdict.MET else None
        latencies: Mapping[str, float] = {}
        if request.machine.backend == AUTO and machine.verified:
            request, latencies = fastest_backend(
                request,
                loaded,
                usual=machine,
                workspace=workspace,
                keep_timings=met is not None,
            )
            # The host was read before anything of ours ran, and is not read again.
            machine = stack.enter_context(find_machine(request.machine)).after(machine)
        model = trace_model(
            loaded,
            request.workload,
            targets=request.method.targets,
            ignore=request.method.ignore,
            joint=request.offers_joint,
            structures=machine.structures(request.structures),
            precisions=machine.precisions(
                request.precisions, all_of_them=request.method.precision != "auto"
            ),
        )
        _note_length(workspace, asked=request.workload, given=model.workload)
        data = load_calibration(loaded, request.calibration, workload=model.workload)
        dense_heldout_loss(model, data, workspace=workspace)
        key = request_key(request, model=model, data=data, machine=machine)
        # Nothing better is needed, and the same command changes nothing.
        if keep_timings or (met and is_answered(folder, met, key=key)):
            machine.keep_timings()
        builder = make_builder(model, machine, workspace=workspace)
        if machine.verified:  # a model that cannot be exported is refused before anything long
            for phase in request.workload.passes:
                builder.dense(phase)
        if request.method.precision == "auto" and request.budget.weight_bytes is None:
            model = replace(model, precisions=machine.promising_precisions(model, workspace))
            builder = make_builder(model, machine, workspace=workspace)
        compression = compress(model, request, data=data, workspace=workspace)
        given = DtypeSearch(
            request=request,
            machine=machine,
            builder=builder,
            compression=compression,
            data=data,
            workspace=workspace,
        )
        chosen, planner = given.choose(
            machine.network_dtypes(
                (dtype,) if dtype else request.network_dtypes,
                all_of_them=request.method.precision != "auto",
            )
        )
        judges = stack.enter_context(
            make_judges(
                request,
                machine,
                compression=compression,
                data=data,
                workspace=workspace,
                dtype=chosen.judged_in,
            )
        )
        yield Tuning(
            request=request,
            workspace=workspace,
            model=model,
            machine=chosen.machine,
            builder=chosen.builder,
            reference=builder,
            compression=compression,
            data=data,
            planner=given.judged_by(judges, planner, dtype=chosen),
            judged_in=chosen.judged_in,
            dense_latencies_s=latencies,
            started_s=started_s,
            key=key,
            earlier=earlier,
        )


def _note_length(workspace: Workspace, *, asked: Workload, given: Workload) -> None:
    """Say so where the inputs of the model are shorter than what was asked for."""
    if asked != given:
        workspace.note(
            f"inputs have {given.sequence_length} tokens, the most that the model takes, instead "
            f"of {asked.sequence_length}"
        )
