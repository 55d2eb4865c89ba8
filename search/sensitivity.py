"""Sensitivity pass: rescale each site's error curve by what one perturbation of it really does.

The metric's errors are second-order guesses; around a plan, the true loss of the fixed batch tells
by how much each is off. One site at a time its rank is halved (a dense site gets its largest
candidate), the true rise is compared with the table's, the curve is rescaled, and the problem is
solved again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from autotune.core.types import Site, chosen_units
from autotune.search.problem import Allocation

Scales = Mapping[str, float]
Ranks = Mapping[str, int | None]


class Judge(Protocol):
    """What the pass asks of the model (`search.evidence.Evidence`)."""

    def true_loss(self, ranks: Ranks) -> float:
        """Mean loss of the compressed model."""

    def judge(self, plans: Sequence[Ranks], progress: Callable[[int, int], None]) -> None:
        """Find the losses of many plans at once."""

    def surely_better(self, ranks: Ranks, other: Ranks) -> bool:
        """Whether a loss is lower than another by more than its noise."""


_CLIP = 4.0
_DAMPING = 0.5


def perturbed(rank: int | None, candidates: Sequence[int]) -> int | None:
    """About half of `rank` among ascending `candidates`; a dense site's largest; None if none."""
    if not candidates:
        return None
    if rank is None:
        return candidates[-1]
    lower = [c for c in candidates if c <= rank // 2] or [c for c in candidates if c < rank]
    return lower[-1] if lower else None


def scale_of(unit: Site, scales: Scales) -> float:
    """A layer's scale, or the geometric mean of a joint site's members'."""
    found = [scales[name] for name in unit.layers]
    return math.prod(found) ** (1.0 / len(found))


def rescaled(
    units: Sequence[Site], plan: Allocation, errors: Mapping[str, Mapping[int, float]],
    scales: Scales, evidence: Judge,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scales:  # fmt: skip
    """New scales of layers from one perturbation of each chosen unit around `plan`.

    A change is at most fourfold and taken by its square root, so that noise in a small rise does
    not throw a site about.
    """
    chosen = [
        (unit, rank, other)
        for unit, rank in chosen_units(units, plan.ranks)
        if (other := perturbed(rank, sorted(errors[unit.name]))) is not None
    ]
    changed = [{**plan.ranks, unit.name: other} for unit, _, other in chosen]
    evidence.judge([plan.ranks, *changed], progress)
    base = evidence.true_loss(plan.ranks)
    found = dict(scales)
    for (unit, rank, other), ranks in zip(chosen, changed, strict=True):
        table = errors[unit.name]
        known = table[other] - (0.0 if rank is None else table[rank])
        expected = scale_of(unit, scales) * known
        rise = evidence.true_loss(ranks) - base
        if expected <= 0:
            continue
        factor = min(max(rise / expected, 1.0 / _CLIP), _CLIP)
        for name in unit.layers:
            found[name] = scales[name] * factor**_DAMPING
    return found


def sensitivity_pass(
    units: Sequence[Site], errors: Mapping[str, Mapping[int, float]],
    solve: Callable[[Scales], Allocation], evidence: Judge, *, rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scales:  # fmt: skip
    """The scales whose plan has the least true loss: the plain table's, or a rescaling's.

    A rescaling's plan is taken only where it is surely better than the best before.
    """
    scales: Scales = {name: 1.0 for unit in units for name in unit.layers}
    plan = solve(scales)
    best, best_plan = scales, plan
    for _ in range(rounds):
        scales = rescaled(units, plan, errors, scales, evidence, progress)
        plan = solve(scales)
        if evidence.surely_better(plan.ranks, best_plan.ranks):
            best, best_plan = scales, plan
    return best
