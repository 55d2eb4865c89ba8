"""The search over the outer knobs of a tuning, by the true loss of the plans that they give."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from autotune.core.types import digest
from autotune.search.outer import Knobs, search_knobs
from autotune.search.problem import Allocation

if TYPE_CHECKING:
    from autotune.tuning.planner import Planner
    from autotune.tuning.session import Tuning


def found_knobs(tuning: Tuning, planner: Planner) -> Knobs:
    """The best knobs of a tuning's trials for `planner`; none where its allocator has none.

    Raises:
        BudgetInfeasibleError: the allocator reaches no plan within the budgets.
    """
    request, workspace = tuning.request, tuning.workspace
    search, losses = request.search, planner.evidence.losses
    if search.trials == 0 or request.chosen_allocator != "exact+optuna":
        return {}
    # Only where it was asked for: trials that run at the same time are not the same twice.
    asked = search.jobs or request.machine.farm
    workers = losses.places if asked else 1

    def true_loss(allocation: Allocation) -> float:
        losses.judge([allocation.plan], least=2 if workers == 1 else 1)
        return losses.true_loss(allocation.plan)

    def surely_better(allocation: Allocation, other: Allocation) -> bool:
        return losses.surely_better(allocation.plan, other.plan)

    problem = planner.problem({}, margin=search.margin)
    study = digest([planner.evidence.key, asdict(problem), request.seed])[:16]
    with workspace.stage("search the outer knobs") as advance:
        return search_knobs(
            tuning.model.single,
            planner.solve,
            true_loss=true_loss,
            surely_better=surely_better,
            trials=search.trials,
            storage=workspace.cache / "optuna.sqlite",
            name=study,
            seed=request.seed,
            workers=workers,
            progress=advance,
            note=workspace.note,
        )
