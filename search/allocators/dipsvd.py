"""DipSVD's global allocation: one keep_ratio a block (DipSVD, §3.2; docs/methods/dipsvd.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from autotune.core.errors import UsageError
from autotune.core.forms import Plan
from autotune.core.plugin_options import Bounds
from autotune.search.allocators.base import Allocator, Question, blocks_of
from autotune.search.evidence import Evidence
from autotune.search.problem import Allocation

_CLIP = (0.3, 0.98)
Keeps: TypeAlias = NDArray[np.float64]


def exact_mean(weights: Keeps, mean: float, *, clip: tuple[float, float] = _CLIP) -> Keeps:
    """Keeps proportional to `weights`, clipped, whose mean is exactly `mean`.

    Clipping one moves the others: what is not clipped is scaled again until nothing changes. A mean
    outside the clip widens it to that mean.
    """
    low, high = min(clip[0], mean), max(clip[1], mean)
    keeps = weights * mean / weights.mean()
    free = np.ones(len(keeps), dtype=bool)
    for _ in range(len(keeps) + 1):
        clipped = np.clip(keeps, low, high)
        missing = mean * len(keeps) - clipped.sum()
        free = (clipped > low) if missing < 0 else (clipped < high)
        if abs(missing) < 1e-12 or not free.any():
            return np.asarray(clipped)
        keeps = clipped.copy()
        keeps[free] *= 1.0 + missing / keeps[free].sum()
    return np.asarray(np.clip(keeps, low, high))


def block_plan(question: Question, keeps: Mapping[int | None, float]) -> Plan:
    """Every site at its block's keep_ratio, floored; sites outside blocks at the mean."""
    mean = sum(keeps.values()) / len(keeps)
    return {
        site.name: question.at_keep_ratio(site, keeps.get(site.block, mean))
        for site in question.sites
    }


class DipsvdHeuristic(Allocator):
    """keep_l ∝ S_l^β R_l^{1−β}: Fisher sensitivity and effective rank of the block's output.

    `sign`: "code" takes the published code's (1/S, and the negated z-score of R, exponentiated to
    stay positive), which agrees better with the authors' own Bayesian allocation; "paper" takes S
    and R.
    """

    name = "dipsvd-heuristic"

    def __init__(
        self,
        beta: Annotated[float, Bounds(ge=0, le=1)] = 0.27,
        sign: Literal["code", "paper"] = "code",
    ) -> None:
        self.beta = beta
        self.sign = sign

    def weights(self, evidence: Evidence, blocks: list[int]) -> Keeps:
        """The paper's Q of every block, from sensitivity and effective rank."""
        by_block = blocks_of(evidence.subject.sites)
        s = np.array([sum(evidence.sensitivity[x.name] for x in by_block[b]) for b in blocks])
        r = np.array([float(evidence.block_ranks[b]) for b in blocks])
        if self.sign == "code":
            spread = r.std() or 1.0
            s, r = 1.0 / np.maximum(s, 1e-300), np.exp(-(r - r.mean()) / spread)
        quality: Keeps = (s / s.mean()) ** self.beta * (r / r.mean()) ** (1.0 - self.beta)
        return quality

    def allocate(self, question: Question) -> Allocation:
        """Bisect the mean keep_ratio to the largest that fits."""
        blocks = _blocks(question, self.name)
        weights = self.weights(question.evidence, blocks)
        return question.largest_fitting(_plan(question, blocks, weights=weights), solver=self.name)


class DipsvdBayes(Allocator):
    """Optuna over the per-block keep_l under their exact sum; objective the true loss.

    A trial draws weights, the mean keep_ratio is bisected to the budgets, so that every trial is
    feasible. All matrices of a block share its keep_l (the published code leaves most random).
    """

    name = "dipsvd-bayes"

    def __init__(self, trials: Annotated[int, Bounds(ge=1, le=10_000)] = 180) -> None:
        self.trials = trials

    def allocate(self, question: Question) -> Allocation:
        """The best of `trials` plans; equal keeps are the first."""
        import optuna

        blocks = _blocks(question, self.name)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=question.evidence.seed))
        study.enqueue_trial({f"block{b}": 1.0 for b in blocks})
        plans: dict[int, Allocation] = {}

        def objective(trial: Any) -> float:
            weights = np.array([trial.suggest_float(f"block{b}", 0.5, 1.5) for b in blocks])
            plans[trial.number] = question.largest_fitting(
                _plan(question, blocks, weights=weights), solver=self.name
            )
            question.progress(trial.number, self.trials)
            return question.evidence.losses.true_loss(plans[trial.number].plan)

        study.optimize(objective, n_trials=self.trials)
        return plans[study.best_trial.number]


def _blocks(question: Question, name: str) -> list[int]:
    blocks = [b for b in blocks_of(question.sites) if b is not None]
    if not blocks:
        raise UsageError(f"{name} needs transformer blocks, and this model has none")
    return blocks


def _plan(question: Question, blocks: list[int], *, weights: Keeps) -> Callable[[float], Plan]:
    def plan_of(t: float) -> Plan:
        keeps = exact_mean(weights, max(t, 1e-6))
        return block_plan(question, dict(zip(blocks, keeps.tolist(), strict=True)))

    return plan_of
