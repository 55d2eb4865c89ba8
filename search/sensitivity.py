"""Sensitivity pass: rescale each site's error curve by what one perturbation of it really does.

The metric's errors are second-order guesses; around a plan, the true loss of the fixed batch tells
by how much each is off. One site at a time its rank is halved (a dense site gets its largest
candidate), the true rise is compared with the table's, the curve is rescaled, and the problem is
solved again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from autotune.search.problem import Allocation
from autotune.types import Site, chosen_units

Scales = Mapping[str, float]
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
    scales: Scales, true_loss: Callable[[Mapping[str, int | None]], float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scales:  # fmt: skip
    """New scales of layers from one perturbation of each chosen unit around `plan`.

    A change is at most fourfold and taken by its square root, so that noise in a small rise does
    not throw a site about.
    """
    base = true_loss(plan.ranks)
    found = dict(scales)
    chosen = chosen_units(units, plan.ranks)
    for done, (unit, rank) in enumerate(chosen):
        progress(done, len(chosen))
        table = errors[unit.name]
        other = perturbed(rank, sorted(table))
        if other is None:
            continue
        known = table[other] - (0.0 if rank is None else table[rank])
        expected = scale_of(unit, scales) * known
        rise = true_loss({**plan.ranks, unit.name: other}) - base
        if expected <= 0:
            continue
        factor = min(max(rise / expected, 1.0 / _CLIP), _CLIP)
        for name in unit.layers:
            found[name] = scales[name] * factor**_DAMPING
    progress(len(chosen), len(chosen))
    return found


def sensitivity_pass(
    units: Sequence[Site], errors: Mapping[str, Mapping[int, float]],
    solve: Callable[[Scales], Allocation],
    true_loss: Callable[[Mapping[str, int | None]], float], *, rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scales:  # fmt: skip
    """The scales whose plan has the least true loss: the plain table's, or a rescaling's."""
    scales: Scales = {name: 1.0 for unit in units for name in unit.layers}
    plan = solve(scales)
    best, best_loss = scales, true_loss(plan.ranks)
    for _ in range(rounds):
        scales = rescaled(units, plan, errors, scales, true_loss, progress)
        plan = solve(scales)
        loss = true_loss(plan.ranks)
        if loss < best_loss:
            best, best_loss = scales, loss
    return best
