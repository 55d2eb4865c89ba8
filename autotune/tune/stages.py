"""The cached stages of a run, from the model to the tables that a plan is chosen from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from autotune.compress.calibration import CalibrationData, load_calibration
from autotune.compress.factorizers import make_factorizer
from autotune.compress.factors import (
    Factors,
    FactorStore,
    Refactored,
    Stored,
    build_factor_store,
)
from autotune.compress.metrics import make_metric
from autotune.compress.statistics import collect_statistics, load_statistics, save_statistics
from autotune.core.types import Site
from autotune.devices.alignment import saving_ranks
from autotune.search.evaluator import Evaluators, EvaluatorSetup
from autotune.search.judges import JudgePool
from autotune.search.tables import ErrorTable
from autotune.tune.context import Context

# Metrics by what the mean loss averages over: tokens, or whole sequences (docs/methods).
DEFAULT_METRIC = {"causal-lm": "kfac"}
FALLBACK_METRIC = "kfac-seq"


def chosen_metric(context: Context) -> str:
    """The metric asked for, else the task's default."""
    return context.request.method.metric or DEFAULT_METRIC.get(context.loaded.task, FALLBACK_METRIC)


def load_data(context: Context) -> CalibrationData:
    """The calibration data; early in a run, as it is what is most often given wrong."""
    return load_calibration(context.loaded, context.request.calibration, context.request.workload)


def calibrate(context: Context, data: CalibrationData) -> tuple[Factors, dict[str, Any]]:
    """Factors of every site in the chosen metric, and the factors' key."""
    request = context.request
    metric = make_metric(chosen_metric(context))
    statistics_key = {
        **context.model_key,
        "calibration": data.sha256,
        "moments": sorted(metric.moments),
        "seed": request.seed,
    }

    def build_statistics(path: Path) -> None:
        with context.reporter.stage("collect statistics") as advance:
            statistics = collect_statistics(
                context.loaded.model, context.sites.sites, context.task, data.statistics,
                metric.moments, seed=request.seed, progress=advance,
            )  # fmt: skip
        save_statistics(statistics, path)

    factors_key = {
        **statistics_key, "metric": metric.name, "parameters": vars(metric),
        "joint": [site.name for site in context.joint],
    }  # fmt: skip

    def statistics_file() -> Path:
        return context.folder.stage("statistics", statistics_key, ".safetensors", build_statistics)[
            0
        ]

    def build_factors(path: Path) -> None:
        with context.reporter.stage("factorize") as advance:
            build_factor_store(
                context.loaded.model, context.sites.sites, metric,
                load_statistics(statistics_file()), path, advance, context.joint,
            )  # fmt: skip

    file, _ = context.folder.stage("factors", factors_key, ".safetensors", build_factors)
    factors: Factors = FactorStore(file)
    factorizer = make_factorizer(request.method.factorizer)
    if factorizer.name != "svd":
        factors_key |= {"factorizer": factorizer.name, "factorizer_parameters": vars(factorizer)}
        factors = Refactored(
            FactorStore(file), factorizer, metric, context.loaded.model,
            lambda: load_statistics(statistics_file()), context.task, data.statistics,
        )  # fmt: skip
    if request.method.storage != "fp32":
        factors_key |= {"storage": request.method.storage}
        factors = Stored(factors, request.method.storage)
    return factors, factors_key


def make_evaluators(
    context: Context, factors: Factors, data: CalibrationData
) -> AbstractContextManager[JudgePool | None]:
    """Processes that judge plans side by side, where there is more than one to run.

    Factors that are computed on demand live in this process only.
    """
    jobs = context.request.search.jobs or max(1, context.threads // 4)
    store = factors.inner if isinstance(factors, Stored) else factors
    farm = context.request.machine.farm
    if (jobs == 1 and not farm) or not isinstance(store, FactorStore):
        return nullcontext()

    def save(path: Path) -> None:
        tensors = {
            f"{number}:{name}": tensor.contiguous()
            for number, batch in enumerate(data.search)
            for name, tensor in batch.items()
        }
        save_file(tensors, path)

    key = {**context.model_key, "calibration": data.sha256}
    batches, _ = context.folder.stage("search-batches", key, ".safetensors", save)
    setup = EvaluatorSetup(
        model=str(context.loaded.folder), task=context.loaded.task, sites=context.sites.sites,
        joint=context.joint, factors=str(store.path), storage=context.request.method.storage,
        batches=str(batches),
    )  # fmt: skip
    if farm:
        from autotune.farm.judging import FarmEvaluators
        from autotune.farm.ray_executor import RayExecutor

        context.reporter.note(f"plans are judged by the farm at {farm}")
        return FarmEvaluators(RayExecutor(farm, context.request.machine.farm_token or ""), setup)
    return Evaluators(setup, jobs, max(1, context.threads // jobs))


def error_table(context: Context, factors: Factors) -> ErrorTable:
    """Predicted loss increase by site and candidate rank.

    Errors of a metric that is not in units of the loss are taken relative to the site's own output,
    else the layers of largest activations alone would decide; those of joint sites are stored so.
    """
    in_loss_units = make_metric(chosen_metric(context)).in_loss_units
    table: dict[str, dict[int, float]] = {}
    for site in context.units:
        errors, least = factors.errors(site), factors.least_rank(site)
        if not in_loss_units and not site.members:
            errors = errors / errors[0].clamp_min(1e-300)
        table[site.name] = {r: float(errors[r]) for r in candidates(context, site) if r >= least}
    return table


def candidates(context: Context, site: Site) -> list[int]:
    """The aligned ranks of one site."""
    return saving_ranks(context.target.rank_multiple, site.in_features, site.out_features)
