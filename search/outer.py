"""Optuna over a few outer knobs, the exact solver inside every trial.

A trial scales the error table by group and depth, solves exactly and asks for the true loss of
that plan; every trial is feasible and aligned by construction. Ranks themselves are no Optuna
parameters: over 32 of them no sampler came near the exact plan (ecosystem.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna

from autotune.search.problem import Allocation
from autotune.types import Site

Knobs = Mapping[str, float]
_SPAN = math.log(4.0)


def knob_names(sites: Sequence[Site]) -> list[str]:
    """One multiplier per group but the first, and slope and bend of the errors over depth."""
    groups = sorted({site.group for site in sites})
    names = [f"group:{group}" for group in groups[1:]]
    if len({site.block for site in sites if site.block is not None}) > 2:
        names += ["depth:slope", "depth:bend"]
    return names


def error_multiplier(site: Site, knobs: Knobs, blocks: int) -> float:
    """exp(group + slope·d + bend·(2d² − 1)) with d from −1 (first block) to 1 (last)."""
    exponent = knobs.get(f"group:{site.group}", 0.0)
    if site.block is not None and blocks > 1:
        depth = 2.0 * site.block / (blocks - 1) - 1.0
        exponent += knobs.get("depth:slope", 0.0) * depth
        exponent += knobs.get("depth:bend", 0.0) * (2 * depth**2 - 1)
    return math.exp(exponent)


def search_knobs(
    sites: Sequence[Site],
    solve: Callable[[Knobs], Allocation],
    true_loss: Callable[[Allocation], float],
    surely_better: Callable[[Allocation, Allocation], bool],
    *,
    trials: int,
    storage: Path,
    name: str,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Knobs:
    """The knobs with the least true loss; the unscaled table is the first trial.

    Others are taken only where their plan is `surely_better` than the unscaled table's.

    Finished trials live in the SQLite file `storage` under `name`, so a study that was stopped
    goes on where it was. With nothing to vary the neutral knobs are returned.
    """
    names = knob_names(sites)
    neutral = dict.fromkeys(names, 0.0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{storage}", study_name=name, load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=8),
    )  # fmt: skip

    def finished() -> int:
        return sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)

    if not finished():
        study.enqueue_trial(neutral)

    def objective(trial: optuna.Trial) -> float:
        knobs = {knob: trial.suggest_float(knob, -_SPAN, _SPAN) for knob in names}
        return true_loss(solve(knobs))

    wanted = trials if names else 1
    while (done := finished()) < wanted:
        progress(done, wanted)
        study.optimize(objective, n_trials=1)
    progress(wanted, wanted)
    best = study.best_params or neutral
    if best == neutral or not surely_better(solve(best), solve(neutral)):
        return neutral
    return best
