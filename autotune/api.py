"""The public entry point: `tune`."""

from __future__ import annotations

from pathlib import Path

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.core.paths import database_address, default_database, default_output
from autotune.core.progress import Reporter
from autotune.core.types import Budget, Workload
from autotune.results.result import TuneResult
from autotune.tune.request import TuneRequest


def tune(
    model: str | Path | None = None,
    *,
    device: str = "cpu",
    budget: Budget,
    workload: Workload | None = None,
    output: str | Path | None = None,
    backend: str | None = None,
    dtype: str | None = None,
    calibration: str | Path | None = None,
    evaluation: str | Path | None = None,
    calibration_samples: int | None = None,
    metric: str | None = None,
    factorizer: str = "svd",
    allocator: str | None = None,
    storage: str = "fp32",
    joint: bool = True,
    jobs: int | None = None,
    sensitivity_rounds: int = 1,
    trials: int = 12,
    rounds: int = 3,
    threads: int | None = None,
    targets: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
    database: str | Path | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> TuneResult:
    """Choose ranks under `budget`, factorize, export, and measure that the budget holds.

    Args:
        model: A transformers folder or hub id; None is the embedded default model.
        device: Where the budget must hold, such as "cpu". A GPU that is not here is predicted, from
            this project's database of it or from others' measurements, and nothing is verified.
        budget: Limits, such as ``Budget(latency="0.85x")``.
        workload: What the latency is of: batch size, sequence length, and with `phase` and
            `output_length` a decode step or a whole request; a prefill of (8, 128) unless given.
        output: The run folder; the same call on the same folder continues and reuses. Default:
            ``autotune-out/<model>`` in the current folder.
        backend: What executes the model; None is the device's usual one.
        dtype: Of weights and activations there; None is fp32 on a CPU, bf16 on a GPU.
        calibration: Text (one document a line) or .safetensors inputs; None is the default text.
        evaluation: Held-out data for the quality figure; None cuts it from the calibration data.
        calibration_samples: Sequences for the statistics; None lets the task choose.
        metric: What a rank's error means; None lets the task choose.
        factorizer: How factors are computed at the chosen ranks: svd, als, residual or
            output-subspace.
        allocator: What chooses the ranks; None is exact, with Optuna when there are trials.
        storage: How factors are stored: fp32 (the model's dtype), fp16, bf16 or remap8.
        joint: Let layers with one input (q, k, v) share a down factor where that costs less.
        jobs: Processes that judge plans side by side; None is one for every four threads.
        sensitivity_rounds: Turns of the sensitivity pass of the exact allocator, 0 to 3.
        trials: Optuna trials over the outer knobs; 0 takes the exact plan as it is.
        rounds: Most turns of the closed loop (solve, build, measure, correct).
        threads: Threads of the backend; None takes all cores.
        targets: Regular expressions of module names to factorize; empty takes every linear layer.
        ignore: Regular expressions of module names to leave dense.
        database: The latency database, a path or postgresql://…; None is the user's own.
        seed: Of everything random.
        reporter: Receives progress.

    Returns:
        The result; `result.verdict` tells whether the measured model meets the budget.

    Raises:
        UsageError: a value that cannot be used (model, calibration data, quantity, folder …).
        BudgetInfeasibleError: no plan meets the budget; names the reachable minimum.
        DeviceMissingError: the device or backend is not on this machine.
        MeasurementError: a measurement failed.
    """
    name = None if model is None else str(model)
    request = TuneRequest(
        model=name,
        output=Path(output) if output else default_output(name),
        budget=budget,
        device=device,
        backend=backend,
        dtype=dtype,
        workload=workload or Workload(batch_size=8, sequence_length=128),
        calibration=CalibrationPlan(
            calibration=str(calibration) if calibration else None,
            evaluation=str(evaluation) if evaluation else None,
            statistics_samples=calibration_samples,
            seed=seed,
        ),
        metric=metric,
        factorizer=factorizer,
        allocator=allocator,
        storage=storage,
        joint=joint,
        jobs=jobs,
        sensitivity_rounds=sensitivity_rounds,
        trials=trials,
        rounds=rounds,
        threads=threads,
        targets=tuple(targets),
        ignore=tuple(ignore),
        database=database_address(str(database)) if database else default_database(),
        seed=seed,
    )
    request.check()
    from autotune.tune.session import tune as run

    return run(request, reporter or Reporter())
