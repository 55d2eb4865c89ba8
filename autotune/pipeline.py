"""The whole run: stages, closed loop, final measurement, artefacts."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.compress.calibration import CalibrationData
from autotune.compress.factorize import FactorStore
from autotune.compress.loading import load_model
from autotune.devices.detect import check_threads, require_device
from autotune.loop import (
    Planner,
    Round,
    applied,
    best_rounds,
    build_layers,
    find_knobs,
    measure_plan,
    run_loop,
)
from autotune.predictor.network import NetworkModel
from autotune.profiler.backends import require_backend
from autotune.profiler.database import LatencyDatabase
from autotune.progress import Reporter
from autotune.request import TuneRequest
from autotune.result import Measured, TuneResult, result_text
from autotune.runfolder import RunFolder
from autotune.search.lagrangian import pareto_front
from autotune.search.tables import Resources, count_resources
from autotune.stages import (
    DTYPE,
    Context,
    anchor_network,
    artefact_key,
    calibrate,
    candidates,
    dense_artefact,
    error_table,
    make_context,
    network_inputs,
    network_model,
    profile_layers,
)
from autotune.types import break_even_rank


def run(request: TuneRequest, reporter: Reporter) -> TuneResult:
    """Run `request` to its result; see `autotune.api.tune` for what is raised."""
    started = time.monotonic()
    device = require_device(request.device)
    backend = require_backend(request.backend, device.spec.kind)
    threads = check_threads(request.threads)
    _quiet_libraries(threads)
    with RunFolder(request.output) as folder, LatencyDatabase(request.database) as database:
        with reporter.stage("load the model"):
            loaded = load_model(request.model)
        context = make_context(request, folder, reporter, loaded, device, backend, threads)
        dense = dense_artefact(context)
        data, store, factors_key = calibrate(context)
        table = profile_layers(context, database)
        network = network_model(context, anchor_network(context, dense), table)
        totals = _totals(context, network)
        planner = Planner(context, error_table(context, store), network, totals)
        planner.solve({})  # an infeasible budget is refused before anything long
        knobs = find_knobs(context, planner, store, data, factors_key)
        rounds = run_loop(context, planner, store, factors_key, dense, knobs)
        final = _final(context, planner, dense, rounds)
        quality = _quality(context, data, store, factors_key, final)
        record = {
            **_record(context, planner, final, rounds, quality, store),
            "artefacts": _artefacts(context, dense, final),
            "knobs": dict(knobs),
            "calibration": {"origin": data.origin, "sha256": data.sha256},
            "cost": {
                "seconds": time.monotonic() - started,
                "peak_memory_bytes": _peak_memory_bytes(),
            },
        }
        return _hand_out(context, planner, store, final, record)


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


def _totals(context: Context, network: NetworkModel) -> Resources:
    parameters = list(context.loaded.model.parameters())
    return count_resources(
        context.sites.sites,
        sum(p.numel() for p in parameters),
        sum(p.numel() * p.element_size() for p in parameters),
        network,
    )


def _final(context: Context, planner: Planner, dense: Path, rounds: Sequence[Round]) -> Round:
    """Measure the preferred round afresh: the loop chose it by its measurement, which flatters.

    When the second look misses the budget, the next round is looked at.
    """
    looked: list[Round] = []
    for candidate in best_rounds(planner, list(rounds)):
        outcome = measure_plan(
            context, planner, candidate.allocation, dense, candidate.artefact,
            candidate.correction, "measure the result", final=True,
        )  # fmt: skip
        looked.append(outcome)
        if planner.within(outcome):
            break
    return best_rounds(planner, looked)[0]


def _quality(
    context: Context, data: CalibrationData, store: FactorStore,
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
            with applied(context, build_layers(context, store, ranks)):
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


def _record(
    context: Context, planner: Planner, final: Round, rounds: Sequence[Round],
    quality: Mapping[str, Any], store: FactorStore,
) -> dict[str, Any]:  # fmt: skip
    request = context.request
    # What was promised before anything was built: no correction.
    promised = planner.network.predict(final.allocation.ranks)
    return {
        "model": context.loaded.name,
        "model_sha256": context.loaded.weights_sha256,
        "task": context.loaded.task,
        "device": context.fingerprint.to_json(),
        "fingerprint": context.fingerprint.id,
        "backend": context.backend.name,
        "workload": dataclasses.asdict(request.workload),
        "budget": {name: q.text for name, q in request.budget.limits().items()},
        "within_budget": planner.within(final),
        "dense_latency_s": final.dense_latency_s,
        "rest_latency_s": planner.network.rest_s,
        "predicted_latency_s": promised.latency_s,
        "predicted_latency_low_s": promised.low_s,
        "predicted_latency_high_s": promised.high_s,
        "predicted_ratio": promised.ratio,
        "measured_latency_s": final.measured_latency_s,
        "measured_ratio": final.ratio,
        "measured_ratio_low": final.ratio_low,
        "measured_ratio_high": final.ratio_high,
        "quality": dict(quality),
        **_sizes(context, final),
        "solver": {
            "name": final.allocation.solver,
            "loss": final.allocation.loss,
            "lower_bound": final.allocation.lower_bound,
            "certified_gap": final.allocation.gap,
        },
        "rounds": [_round_record(planner, outcome) for outcome in rounds],
        "pareto": _pareto(planner),
        "uniform": _uniform(context, planner),
        "sites": _site_records(context, planner, final, store),
    }


def _artefacts(context: Context, dense: Path, final: Round) -> dict[str, str]:
    """What `bench` times again, relative to the run folder."""
    paths = {"dense": dense, "compressed": final.artefact, "inputs": network_inputs(context)}
    return {name: str(path.relative_to(context.folder.path)) for name, path in paths.items()}


def _sizes(context: Context, final: Round) -> dict[str, Any]:
    """Parameters, stored bytes and FLOPs, dense and compressed, of the whole model.

    FLOPs count the factorizable layers.
    """
    model = context.loaded.model
    dense = sum(p.numel() for p in model.parameters())
    size = next(model.parameters()).element_size()
    removed = flops = kept_flops = 0
    for site in context.sites.sites:
        rank = final.allocation.ranks[site.name]
        removed += site.shape().parameters - site.shape(rank).parameters
        flops += site.shape().flops
        kept_flops += site.shape(rank).flops
    return {
        "parameters": {"dense": dense, "compressed": dense - removed},
        "stored_bytes": {"dense": dense * size, "compressed": (dense - removed) * size},
        "flops": {"dense": flops, "compressed": kept_flops},
    }


def _round_record(planner: Planner, outcome: Round) -> dict[str, Any]:
    return {
        "predicted_ratio": outcome.predicted.ratio,
        "measured_ratio": outcome.ratio,
        "measured_ratio_low": outcome.ratio_low,
        "measured_ratio_high": outcome.ratio_high,
        "correction": outcome.correction,
        "loss": outcome.allocation.loss,
        "within_budget": planner.within(outcome),
    }


def _pareto(planner: Planner) -> list[dict[str, float]]:
    """Predicted latency ratio against predicted loss, without any budget."""
    if "latency" not in planner.limits:
        return []
    problem = planner.problem({}, 1.0, 0.0)
    latency = problem.resources.index("latency")
    single = dataclasses.replace(
        problem,
        resources=("latency",),
        limits=(problem.limits[latency],),
        options=tuple(
            tuple(dataclasses.replace(o, costs=(o.costs[latency],)) for o in site)
            for site in problem.options
        ),
    )
    dense, rest = planner.totals.dense["latency"], planner.totals.rest["latency"]
    return [{"ratio": (cost + rest) / dense, "loss": loss} for cost, loss in pareto_front(single)]


def _uniform(context: Context, planner: Planner) -> list[dict[str, float]]:
    """The same curve for plans that keep one ratio of the parameters at every site."""
    curve = []
    for percent in range(95, 25, -5):
        ranks: dict[str, int | None] = {}
        for site in context.sites.sites:
            most = percent / 100 * break_even_rank(site.in_features, site.out_features)
            fitting = [rank for rank in candidates(context, site) if rank <= most]
            ranks[site.name] = fitting[-1] if fitting else None
        loss = sum(planner.errors[name][rank] for name, rank in ranks.items() if rank)
        ratio = planner.network.predict(ranks).ratio
        curve.append({"keep_ratio": percent / 100, "ratio": ratio, "loss": loss})
    return curve


def _site_records(
    context: Context, planner: Planner, final: Round, store: FactorStore
) -> list[dict[str, Any]]:
    measured = _node_latencies(context, final)
    records = []
    for site in context.sites.sites:
        rank = final.allocation.ranks[site.name]
        dense = planner.network.predictor.estimate(site.shape(None, DTYPE))
        chosen = planner.network.predictor.estimate(site.shape(rank, DTYPE))
        errors = planner.errors[site.name]
        records.append(
            {
                "name": site.name,
                "group": site.group,
                "block": site.block,
                "tokens": site.tokens,
                "in_features": site.in_features,
                "out_features": site.out_features,
                "rank": rank,
                "keep_ratio": site.shape(rank).parameters / site.shape().parameters,
                "dense_latency_s": dense.latency_s,
                "predicted_latency_s": chosen.latency_s,
                "predicted_low_s": chosen.low_s,
                "predicted_high_s": chosen.high_s,
                "source": chosen.source,
                "measured_latency_s": measured.get(site.name),
                "error": errors[rank] if rank is not None else 0.0,
                "reason": _reason(rank, bool(errors)),
            }
        )
    records += [
        {"name": name, "rank": None, "reason": reason}
        for name, reason in context.sites.left_out.items()
    ]
    return records


def _reason(rank: int | None, has_candidates: bool) -> str:
    if rank is not None:
        return "factorized: the least total loss within the budget"
    if not has_candidates:
        return "left dense: no aligned rank below break-even"
    return "left dense: elsewhere the same latency costs less loss"


def _node_latencies(context: Context, final: Round) -> dict[str, float]:
    """Seconds of every site inside the final network, where the backend can tell."""
    from autotune.profiler.nodes import site_latencies

    if context.backend.name != "onnxruntime-cpu":
        return {}

    def compute() -> dict[str, float]:
        with context.reporter.stage("measure the sites in the network"):
            names = [site.name for site in context.sites.sites]
            return site_latencies(final.artefact, network_inputs(context), context.threads, names)

    key = {
        "artefact": artefact_key(context, final.artefact),
        "inputs": network_inputs(context).name,
        "fingerprint": context.fingerprint.id,
    }
    values: dict[str, float] = context.folder.json_stage("nodes", key, compute)
    return values


def _hand_out(
    context: Context, planner: Planner, store: FactorStore, final: Round, record: dict[str, Any]
) -> TuneResult:
    """Write model/, model.onnx, report.html and, last, result.json."""
    from autotune.compress.checkpoint import save_checkpoint
    from autotune.report.html import write_report

    folder = context.folder
    ranks = dict(final.allocation.ranks)
    key = artefact_key(context, final.artefact)
    stamp = folder.path / "model" / "autotune.json"
    if not (stamp.is_file() and json.loads(stamp.read_text()).get("key") == key):
        with applied(context, build_layers(context, store, ranks)):

            def build(path: Path) -> None:
                save_checkpoint(context.loaded.model, context.loaded.tokenizer, path)
                (path / "autotune.json").write_text(json.dumps({"key": key}))

            folder.write(folder.path / "model", build)
    if final.artefact.suffix == ".onnx":
        _copy_onnx(folder, final.artefact)
    rows = _staircases(context, planner)
    folder.write(folder.path / "report.html", lambda path: write_report(record, rows, path))
    folder.write(folder.path / "result.json", lambda path: _write_text(path, result_text(record)))
    return TuneResult(
        folder=folder.path,
        ranks=ranks,
        measured=Measured(
            latency_s=final.measured_latency_s,
            dense_latency_s=final.dense_latency_s,
            ratio=final.ratio,
            ratio_low=final.ratio_low,
            ratio_high=final.ratio_high,
        ),
        within_budget=planner.within(final),
        record=record,
    )


def _copy_onnx(folder: RunFolder, artefact: Path) -> None:
    data = artefact.with_name(f"{artefact.name}.data")
    if data.is_file():
        folder.write(folder.path / data.name, lambda path: _ignore(shutil.copyfile(data, path)))
    folder.write(folder.path / "model.onnx", lambda path: _ignore(shutil.copyfile(artefact, path)))


def _ignore(_: object) -> None:
    return None


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _staircases(context: Context, planner: Planner) -> list[dict[str, Any]]:
    """Latency against rank for every distinct shape, for the report."""
    curves = []
    for shape in sorted({site.shape(None, DTYPE) for site in context.sites.sites}):
        site = next(s for s in context.sites.sites if s.shape(None, DTYPE) == shape)
        points = []
        for rank in planner.errors[site.name]:
            estimate = planner.network.predictor.estimate(dataclasses.replace(shape, rank=rank))
            points.append({"rank": rank, **dataclasses.asdict(estimate)})
        dense = planner.network.predictor.estimate(shape)
        curves.append(
            {
                "tokens": shape.tokens,
                "in_features": shape.in_features,
                "out_features": shape.out_features,
                "dense_latency_s": dense.latency_s,
                "points": points,
            }
        )
    return curves
