"""Which backend runs a model fastest on this machine, before anything else is decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from autotune.compress.loading import LoadedModel
from autotune.core.errors import AutotuneError, MeasurementError, option_name
from autotune.profiler.backends import BACKENDS, make_backend
from autotune.tuning.builders import Builder, make_builder
from autotune.tuning.machine import Machine
from autotune.tuning.machines import AUTO, local_machine
from autotune.tuning.model import TracedModel, trace_model
from autotune.tuning.request import TuneRequest
from autotune.tuning.workspace import Workspace

# By how much the brief measurements of two backends may differ between times of the day.
_ALIKE = 1.1


def fastest_backend(
    request: TuneRequest,
    loaded: LoadedModel,
    *,
    usual: Machine,
    workspace: Workspace,
    keep_timings: bool = False,
) -> tuple[TuneRequest, Mapping[str, float]]:
    """The request with the backend that runs the dense model fastest, and the seconds of all.

    One that opens ONNX graphs is preferred to another that is faster by less than 10 %: a graph
    runs without PyTorch, and its layers are measured without being compiled.

    Seconds are of the whole workload, by name of the backend and, where it is another than the
    model's own, the dtype that the network was run in. A backend that does not run the model is
    left out, and said so. With `keep_timings` nothing is timed again that is known.

    Raises:
        MeasurementError: no backend runs the model.
    """
    model = trace_model(loaded, request.workload)
    found: dict[str, float] = {}
    fastest: dict[str, float] = {}
    for name in candidates(usual):
        options = replace(request.machine, backend=name)
        try:
            with local_machine(options) as machine:
                if keep_timings:
                    machine.keep_timings()
                for dtype, seconds in _dense_latencies(
                    request, model, machine=machine, workspace=workspace
                ):
                    found[name if dtype == machine.dtype else f"{name} {dtype}"] = seconds
                    fastest[name] = min(seconds, fastest.get(name, seconds))
        except AutotuneError as error:
            workspace.note(f"{name} is not compared: {error}")
    if not fastest:
        raise MeasurementError(
            f"{option_name('machine.backend')} {AUTO}: no backend on this machine runs the model"
        )
    best = _chosen(fastest, workspace, kind=usual.spec.kind)
    return replace(request, machine=replace(request.machine, backend=best)), found


def _chosen(fastest: Mapping[str, float], workspace: Workspace, *, kind: str) -> str:
    """The fastest backend, or one that opens ONNX and is as fast for all that is known."""
    best = min(fastest, key=lambda name: fastest[name])
    graphs = [name for name in fastest if make_backend(name, kind).opens_onnx]
    closest = min(graphs, key=lambda name: fastest[name], default=best)
    if closest == best or fastest[closest] > _ALIKE * fastest[best]:
        workspace.note(f"{best} runs the dense model fastest")
        return best
    workspace.note(
        f"{closest} is taken: it opens ONNX graphs, and {best} is faster by less than "
        f"{_ALIKE - 1:.0%}"
    )
    return closest


def candidates(usual: Machine) -> list[str]:
    """Backends that are installed for the kind of device, the usual one first.

    Those that take long to prepare a network are left out.
    """
    kind, first = usual.spec.kind, usual.backend.name
    names = [first, *(name for name in BACKENDS if name != first)]
    backends = [make_backend(name, kind) for name in names]
    return [
        each.name
        for each in backends
        if kind in each.device_kinds and not each.prepare_limit_s and not each.missing()
    ]


def _dense_latencies(
    request: TuneRequest, model: TracedModel, *, machine: Machine, workspace: Workspace
) -> Iterator[tuple[str, float]]:
    """Seconds of the dense model in every dtype that the request offers."""
    for dtype in machine.network_dtypes(request.network_dtypes, all_of_them=False):
        inside = machine.in_dtype(dtype) if dtype != machine.dtype else machine
        yield dtype, _dense_latency_s(model, inside, workspace=workspace)


def _dense_latency_s(model: TracedModel, machine: Machine, *, workspace: Workspace) -> float:
    """Seconds of the dense model over all phases."""
    builder = make_builder(model, machine, workspace=workspace)
    counts = model.workload.passes
    return sum(count * _phase_latency_s(builder, phase) for phase, count in counts.items())


def _phase_latency_s(builder: Builder, phase: str) -> float:
    machine, workspace = builder.machine, builder.workspace
    dense, inputs = builder.dense(phase), builder.inputs(phase)

    def compute() -> dict[str, Any]:
        label = f"measure the dense model in {machine.backend.name}, {machine.dtype}, {phase}"
        with workspace.stage(label) as advance:
            # Backends lie farther apart than a brief measurement is unsure.
            timing = machine.compare_briefly([dense], inputs, advance=advance) or machine.compare(
                [dense], inputs, final=False, advance=advance
            )
        return {"latency_s": timing.latencies_s[0], "settled": timing.converged}

    key = {
        "build": builder.key(dense),
        "fingerprint": machine.fingerprint.id,
        "inputs": inputs.name,
        "measure_seconds": machine.measure_seconds,
    }
    found = workspace.value(
        "dense-latency",
        key,
        compute=compute,
        reuse=lambda one: bool(one["settled"]) or machine.keeps_timings,
    )
    return float(found["latency_s"])
