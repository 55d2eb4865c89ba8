"""The whole run: stages, closed loop, final measurement, artefacts."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune.compress.calibration import CalibrationData
from autotune.compress.factors import Factors
from autotune.compress.loading import load_model
from autotune.compress.lowrank import replaced
from autotune.compress.sites import kv_cache_bytes
from autotune.core.files import file_sha256
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.core.types import digest
from autotune.devices.detect import check_threads
from autotune.devices.specs import DTYPE_BYTES
from autotune.predictor.network.model import NetworkModel
from autotune.profiler.database.latency import LatencyDatabase
from autotune.results.result import TuneResult, result_text
from autotune.search.evidence import Evidence
from autotune.search.outer import Knobs
from autotune.search.tables import Resources, count_resources
from autotune.tune.builds import artefact_key, dense_artefact
from autotune.tune.context import Context, make_context
from autotune.tune.decisions import measure_decisions
from autotune.tune.loop import (
    best_rounds,
    build_artefact,
    find_knobs,
    measure_plan,
    plan_layers,
    predict_plan,
    run_loop,
)
from autotune.tune.measuring import measure_layers, network_model, profile_layers
from autotune.tune.planner import Planner, Round
from autotune.tune.predicted import predicted_network
from autotune.tune.record import run_record, staircases
from autotune.tune.request import TuneRequest
from autotune.tune.stages import (
    calibrate,
    error_table,
    load_data,
    make_evaluators,
)


def run(request: TuneRequest, reporter: Reporter) -> TuneResult:
    """Run `request` to its result; see `autotune.api.tune` for what is raised."""
    started = time.monotonic()
    target = request.target()
    if not target.is_here:
        _ = target.table  # read now: what it lacks is refused before anything long
    threads = check_threads(request.threads)
    _quiet_libraries(threads)
    with RunFolder(request.output) as folder, LatencyDatabase(request.database) as database:
        with reporter.stage("load the model"):
            loaded = load_model(request.model)
        context = make_context(request, folder, reporter, loaded, target, threads)
        data = load_data(context)
        for run in request.workload.passes if target.is_here else ():
            dense_artefact(context, run)
        factors, factors_key = calibrate(context, data)
        network = _network(context, database)
        totals = _totals(context, network)
        with make_evaluators(context, factors, data) as evaluators:
            evidence = Evidence(
                context.loaded.model, context.task, context.sites.sites, factors, data.search,
                request.seed, context.folder.cache, digest([factors_key, len(data.search)]),
                context.joint, evaluators,
            )  # fmt: skip
            planner = Planner(context, error_table(context, factors), network, totals, evidence)
            planner.require_feasible()  # an infeasible budget is refused before anything long
            if request.sensitivity_turns:
                with reporter.stage("sensitivity of every layer") as advance:
                    planner.rescale(request.sensitivity_turns, advance)
            knobs = find_knobs(context, planner, factors_key)
            if target.is_here:
                planner.network = _decided(context, database, planner, knobs)
                rounds = run_loop(context, planner, factors, factors_key, knobs)
            else:
                rounds = [predict_plan(context, planner, knobs, factors, factors_key)]
        final = _final(context, planner, rounds) if target.is_here else rounds[0]
        quality = _quality(context, data, factors, factors_key, final)
        record = {
            **run_record(context, planner, final, rounds, quality),
            "knobs": dict(knobs),
            "calibration": {
                "origin": data.origin,
                "sha256": data.sha256,
                "plan": asdict(request.calibration),
            },
            "cost": {
                "seconds": time.monotonic() - started,
                "peak_memory_bytes": _peak_memory_bytes(),
            },
        }
        return _hand_out(context, planner, factors, factors_key, final, record)


def _peak_memory_bytes() -> int:
    """This process's peak plus the largest measuring process's: they ran side by side."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(one).ru_maxrss for one in who) * 1024


def _quiet_libraries(threads: int) -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _network(context: Context, database: LatencyDatabase) -> NetworkModel:
    """The whole network's latency model: from measurements here, or from a device's table."""
    if not context.target.is_here:
        return predicted_network(context)
    return network_model(context, profile_layers(context, database))


def _decided(
    context: Context, database: LatencyDatabase, planner: Planner, knobs: Knobs
) -> NetworkModel:
    """The latency model with those ranks measured whose guesses could change the plan."""
    if "latency" not in planner.limits:
        return planner.network
    return measure_decisions(
        planner.network,
        lambda network: planner.hoped_for(network, knobs),
        lambda shapes: measure_layers(context, database, shapes, "measure doubtful ranks"),
    )


def _totals(context: Context, network: NetworkModel) -> Resources:
    parameters = list(context.loaded.model.parameters())
    return count_resources(
        context.sites.sites,
        sum(p.numel() for p in parameters),
        sum(p.numel() * DTYPE_BYTES[context.dtype] for p in parameters),
        network,
        kv_cache_bytes(context.loaded.config, context.request.workload, context.dtype)
        if context.loaded.task == "causal-lm"
        else 0,
    )


def _final(context: Context, planner: Planner, rounds: Sequence[Round]) -> Round:
    """Measure the preferred round afresh: the loop chose it by its measurement, which flatters.

    When the second look misses the budget, the next round is looked at.
    """
    looked: list[Round] = []
    for candidate in best_rounds(planner, list(rounds)):
        outcome = measure_plan(
            context, candidate.network, candidate.allocation, candidate.artefacts,
            "measure the result", final=True,
        )  # fmt: skip
        looked.append(outcome)
        if planner.within(outcome):
            break
    return best_rounds(planner, looked)[0]


def _quality(
    context: Context, data: CalibrationData, factors: Factors,
    factors_key: Mapping[str, Any], final: Round,
) -> dict[str, Any]:  # fmt: skip
    """Held-out quality of the dense and the compressed model."""
    task, model = context.task, context.loaded.model
    ranks = dict(final.allocation.ranks)

    def compute() -> dict[str, float]:
        with context.reporter.stage("judge quality on held-out data") as advance:
            references = task.references(model, data.heldout)
            advance(1, 3)
            dense = task.mean_loss(model, data.heldout, references)
            advance(2, 3)
            with replaced(context.loaded.model, plan_layers(context, factors, ranks)):
                compressed = task.mean_loss(model, data.heldout, references)
        return {"dense": dense, "compressed": compressed}

    key = {**factors_key, "ranks": ranks, "data": data.sha256}
    losses = context.folder.json_stage("quality", key, compute)
    return {
        "metric": task.metric,
        "dense": task.figure(losses["dense"]),
        "compressed": task.figure(losses["compressed"]),
        "higher_is_better": task.higher_is_better,
        "protocol": task.protocol(data.heldout),
    }


def _hand_out(
    context: Context, planner: Planner, factors: Factors, factors_key: Mapping[str, Any],
    final: Round, record: dict[str, Any],
) -> TuneResult:  # fmt: skip
    """Write model/, the ONNX graphs, report.html and, last, result.json."""
    from autotune.compress.checkpoint import save_checkpoint
    from autotune.compress.companions import copy_companions
    from autotune.report.card import model_card
    from autotune.report.html import write_report

    folder = context.folder
    ranks = dict(final.allocation.ranks)
    # Whatever the budget is of, the graph of whole sequences belongs to the result.
    whole = final.artefacts.get("prefill") or build_artefact(
        context, "prefill", factors, factors_key, ranks
    )
    graphs = {**final.artefacts, "prefill": whole}
    key = artefact_key(context, whole)
    stamp = folder.path / "model" / "autotune.json"

    def save(path: Path) -> None:
        model, tokenizer = context.loaded.model, context.loaded.tokenizer
        save_checkpoint(model, tokenizer, path, context.request.storage, context.dtype)
        copy_companions(context.loaded.folder, path)
        (path / "autotune.json").write_text(json.dumps({"key": key}))

    with context.reporter.stage("write the result") as advance:
        advance(0, 4)
        if not (stamp.is_file() and json.loads(stamp.read_text()).get("key") == key):
            with replaced(context.loaded.model, plan_layers(context, factors, ranks)):
                folder.write(folder.path / "model", save)
        card = model_card(record)
        folder.write(folder.path / "model" / "README.md", lambda path: _write_text(path, card))
        advance(1, 4)
        for graph in graphs.values():
            if graph.suffix == ".onnx":
                _copy_onnx(folder, graph)
        advance(2, 4)
        record = {**record, "staircases": staircases(context, planner)}
        folder.write(folder.path / "report.html", lambda path: write_report(record, path))
        advance(3, 4)
        record = {**record, "files": _hashes(folder.path)}
        text = result_text(record)
        folder.write(folder.path / "result.json", lambda path: _write_text(path, text))
        advance(4, 4)
    return TuneResult(
        folder=folder.path,
        ranks=ranks,
        measured=final.measured,
        within_budget=planner.within(final),
        record=record,
    )


def _hashes(path: Path) -> dict[str, str]:
    """sha256 of everything that somebody loads, for `verify`."""
    files = [*path.glob("model*.onnx*"), *(path / "model").rglob("*")]
    return {str(f.relative_to(path)): file_sha256(f) for f in sorted(files) if f.is_file()}


def _copy_onnx(folder: RunFolder, artefact: Path) -> None:
    data = artefact.with_name(f"{artefact.name}.data")
    if data.is_file():
        folder.write(folder.path / data.name, lambda path: _ignore(shutil.copyfile(data, path)))
    target = folder.path / artefact.name
    folder.write(target, lambda path: _ignore(shutil.copyfile(artefact, path)))


def _ignore(_: object) -> None:
    return None


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
