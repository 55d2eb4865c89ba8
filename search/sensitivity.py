"""Sensitivity pass: rescale each site's error curve by what one perturbation of it really does.

The metric's errors are second-order guesses; around a plan, the true loss of the fixed batch tells
by how much each is off. One site at a time its rank is halved (a dense site gets its largest
candidate), the true rise is compared with the table's, the curve is rescaled, and the problem is
solved again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from autotune.core.forms import Form
from autotune.core.layers import Site, chosen_sites
from autotune.core.progress import Advance, no_progress
from autotune.search.judges import PlanJudge
from autotune.search.problem import Allocation
from autotune.search.tables import ErrorTable

Scales = Mapping[str, float]
_CLIP = 4.0
_DAMPING = 0.5


def perturbed(form: Form, candidates: Sequence[Form]) -> Form | None:
    """Another form of a site near `form`: a low-rank one with about half its rank.

    Of ascending `candidates` those in the same structure and precision come into question. A dense
    site gets the largest of them, and None stands for a site that has no other form.
    """
    alike = [other for other in candidates if other.rank and other.suffix == form.suffix]
    if form.is_dense:
        return alike[-1] if alike else None
    lower = [c for c in alike if c.rank <= form.rank // 2] or [
        c for c in alike if c.rank < form.rank
    ]
    return lower[-1] if lower else None


def scale_of(site: Site, scales: Scales) -> float:
    """A site's scale; of a joint site, the geometric mean of its members' scales."""
    found = [scales[name] for name in site.layers]
    return math.prod(found) ** (1.0 / len(found))


def rescaled(
    sites: Sequence[Site],
    allocation: Allocation,
    *,
    errors: ErrorTable,
    scales: Scales,
    judge: PlanJudge,
    progress: Advance = no_progress,
) -> Scales:
    """New scales of layers from one perturbation of each chosen site around a plan.

    `sites` are single and joint sites. A change is at most fourfold and taken by its square root,
    so that noise in a small rise does not throw a site about.
    """
    plan = allocation.plan
    chosen = [
        (site, form, other)
        for site, form in chosen_sites(sites, plan)
        if (other := perturbed(form, sorted(errors[site.name]))) is not None
    ]
    changed = [{**plan, site.name: other} for site, _, other in chosen]
    judge.judge([plan, *changed], progress)
    base = judge.true_loss(plan)
    found = dict(scales)
    for (site, form, other), changed_plan in zip(chosen, changed, strict=True):
        table = errors[site.name]
        known = table[other] - (0.0 if form.is_unchanged else table[form])
        expected = scale_of(site, scales) * known
        rise = judge.true_loss(changed_plan) - base
        if expected <= 0:
            continue
        factor = min(max(rise / expected, 1.0 / _CLIP), _CLIP)
        for name in site.layers:
            found[name] = scales[name] * factor**_DAMPING
    return found


def sensitivity_pass(
    sites: Sequence[Site],
    *,
    errors: ErrorTable,
    solve: Callable[[Scales], Allocation],
    judge: PlanJudge,
    rounds: int,
    progress: Advance = no_progress,
) -> Scales:
    """The scales whose plan has the least true loss: the plain table's, or a rescaling's.

    A rescaling's plan is taken only where it is surely better than the best before.
    """
    scales: Scales = {name: 1.0 for site in sites for name in site.layers}
    allocation = solve(scales)
    best, best_plan = scales, allocation.plan
    for _ in range(rounds):
        scales = rescaled(
            sites, allocation, errors=errors, scales=scales, judge=judge, progress=progress
        )
        allocation = solve(scales)
        if judge.surely_better(allocation.plan, best_plan):
            best, best_plan = scales, allocation.plan
    return best
