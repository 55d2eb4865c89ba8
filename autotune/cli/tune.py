"""`autotune tune`, and bare `autotune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.main import emit, format_option
from autotune.cli.options import (
    backend_option,
    database_option,
    device_option,
    dtype_option,
    extrapolation_option,
    threads_option,
    token_option,
)
from autotune.core.paths import default_output
from autotune.core.types import PHASES, Budget, Workload

if TYPE_CHECKING:
    from autotune.tune.request import TuneRequest


@click.command(
    "tune",
    epilog="Example: autotune --device cpu --latency-budget 0.85x --output out",
)
@click.option("--model", "-m", help="Folder or hub id (default: the embedded all-MiniLM-L6-v2).")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Run folder.")
@device_option
@backend_option
@dtype_option
@click.option("--latency-budget", help="Such as 20ms, or 0.85x of the dense model.")
@click.option("--params-budget", help="Such as 25M or 0.8x.")
@click.option("--memory-budget", help="Of the weights, such as 80MB or 0.8x.")
@click.option("--flops-budget", help="Of the linear layers, such as 20G or 0.8x.")
@click.option("--kv-cache-budget", help="Such as 2GiB; factorizing does not shrink a KV cache.")
@click.option("--activation-budget", help="Of one layer's live tensors, such as 200MB.")
@click.option("--batch-size", type=int, default=8, show_default=True)
@click.option("--isl", type=int, default=128, show_default=True, help="Input sequence length.")
@click.option("--osl", type=int, default=0, help="Output tokens of a request (0: prefill only).")
@click.option(
    "--phase", type=click.Choice(PHASES), help="What latency is of (default: request, given --osl)."
)
@click.option("--calibration", help="Text, one document a line, or .safetensors input tensors.")
@click.option("--evaluation", help="Held-out data for the quality figure.")
@click.option("--calibration-samples", type=int, help="Sequences for the statistics.")
@click.option("--metric", help="What a rank's error means (default: kfac or kfac-seq).")
@click.option("--factorizer", default="svd", show_default=True, help="Or als, residual, …")
@click.option("--allocator", help="What chooses ranks (default: exact, with --trials of Optuna).")
@click.option(
    "--joint/--no-joint",
    default=True,
    show_default=True,
    help="Let layers with one input (q, k, v) share a down factor where that costs less.",
)
@click.option("--jobs", type=int, help="Processes that judge plans (default: threads / 4).")
@click.option("--farm", envvar="AUTOTUNE_FARM", help="IP:PORT of a farm whose workers judge plans.")
@token_option
@click.option("--storage", default="fp32", show_default=True, help="Of factors: fp16, remap8, …")
@click.option("--targets", multiple=True, help="Regex of layers to factorize (repeatable).")
@click.option("--ignore", multiple=True, help="Regex of layers to leave dense (repeatable).")
@click.option("--sensitivity-rounds", type=int, default=1, show_default=True, help="0 to 3.")
@click.option("--trials", type=int, default=12, show_default=True, help="Optuna trials, 0 = none.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Of the closed loop.")
@click.option("--measure-seconds", type=float, help="Cap of one network measurement (20).")
@threads_option
@database_option
@extrapolation_option
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress.")
@format_option
def command(**options: Any) -> int:
    """Tune a model: measure, choose ranks under the budget, factorize, export, verify.

    Exit code 0 if the budget is met, 1 if it is missed, 3 if no plan can meet it, and 5 if the
    interval of the measurement contains the limit.
    """
    request = tune_request(options)
    request.check()
    from autotune.cli.reporting import make_reporter
    from autotune.report.summary import miss_text, summary
    from autotune.results.verdict import Verdict
    from autotune.tune.session import tune as run

    result = run(request, make_reporter(quiet=options["quiet"]))
    record = {**result.record.to_json(), "output": str(result.folder)}
    emit(options["output_format"], record, summary(result.record, result.folder))
    if result.verdict is not Verdict.MET:
        click.echo(f"autotune: {miss_text(result.record)}", err=True)
    return result.verdict.exit_code


def tune_request(options: Mapping[str, Any]) -> TuneRequest:
    """What the options ask for.

    Raises:
        UsageError: a value that cannot be used.
    """
    from autotune.compress.calibration_plan import CalibrationPlan
    from autotune.tune.request import TuneRequest

    budget = Budget(
        latency=options["latency_budget"],
        parameters=options["params_budget"],
        weight_bytes=options["memory_budget"],
        flops=options["flops_budget"],
        kv_cache_bytes=options["kv_cache_budget"],
        activation_bytes=options["activation_budget"],
    )
    workload = Workload(
        batch_size=options["batch_size"],
        sequence_length=options["isl"],
        output_length=options["osl"],
        phase=options["phase"] or ("request" if options["osl"] else "prefill"),
    )
    return TuneRequest(
        model=options["model"],
        output=options["output"] or default_output(options["model"]),
        budget=budget,
        device=options["device"],
        backend=options["backend"],
        dtype=options["dtype"],
        workload=workload,
        calibration=CalibrationPlan(
            calibration=options["calibration"],
            evaluation=options["evaluation"],
            statistics_samples=options["calibration_samples"],
            seed=options["seed"],
        ),
        metric=options["metric"],
        factorizer=options["factorizer"],
        allocator=options["allocator"],
        storage=options["storage"],
        joint=options["joint"],
        jobs=options["jobs"],
        farm=options.get("farm"),
        farm_token=_farm_token(options),
        sensitivity_rounds=options["sensitivity_rounds"],
        trials=options["trials"],
        rounds=options["rounds"],
        threads=options["threads"],
        targets=options["targets"],
        ignore=options["ignore"],
        database=options["database"],
        allow_extrapolation=options["allow_extrapolation"],
        seed=options["seed"],
        **({"measure_seconds": options["measure_seconds"]} if options["measure_seconds"] else {}),
    )


def _farm_token(options: Mapping[str, Any]) -> str | None:
    """What the farm wants to see, if there is one."""
    if not options.get("farm"):
        return None
    from autotune.farm.processes import read_token

    return read_token(options["token_file"])
