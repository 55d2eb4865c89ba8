"""PGSVD: one relative error ε for every layer, the ranks follow (eq. 7; docs/methods/pgsvd.md)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autotune.core.errors import BudgetInfeasibleError, UsageError
from autotune.core.forms import Plan
from autotune.core.layers import Site
from autotune.core.patterns import NamePattern
from autotune.search.allocators.base import Allocator, Question
from autotune.search.evidence import Evidence
from autotune.search.problem import Allocation

_RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)


def rank_of_error(sigma: Tensor, epsilon: float) -> int:
    """min{r : √(Σ_{i>r} σ_i²) ≤ ε·√(Σ σ_i²)} (eq. 7), at least 1."""
    tail = torch.cat([sigma.square().flip(0).cumsum(0).flip(0), sigma.new_zeros(1)]).sqrt()
    return max(1, int((tail > epsilon * tail[0]).sum()))


class Pgsvd(Allocator):
    """Bisect ε until the budgets hold.

    `profile`: whose spectrum gives the error, "weight" (the paper) or "metric" (idea 3, the
    activation error with that metric). `alpha`: weigh layers by their sensitivity, ε_l = ε·α_l^-½
    (idea 2: the stationary point of Σ α_l ε_l² under one price). `groups`: regular expressions of
    layer names, one ε each (the towers of a vision-language model), whose ratios are searched on a
    grid for the least loss of the error table; one text may join several by "+".

    Raises:
        UsageError: an unknown profile, or a group that is no regular expression.
    """

    name = "pgsvd"

    def __init__(
        self, profile: str = "weight", alpha: bool = False, *, groups: str | Sequence[str] = ()
    ) -> None:
        if profile not in ("weight", "metric"):
            raise UsageError(f"pgsvd profile {profile!r}: weight or metric")
        self.profile = profile
        self.alpha = alpha
        named = groups.split("+") if isinstance(groups, str) else groups
        self.groups = tuple(pattern for pattern in named if pattern)
        try:
            self._patterns = tuple(map(NamePattern, self.groups))
        except UsageError as error:
            raise UsageError(f"pgsvd group {error}") from error

    def allocate(self, question: Question) -> Allocation:
        """The best over the groups' ratios; one bisection without groups."""
        weights = self._weights(question.evidence, question.sites)
        groups = [self._group(site) for site in question.sites]
        found: list[Allocation] = []
        failure: BudgetInfeasibleError | None = None
        for ratios in itertools.product(*[_RATIOS] * len(self.groups)):
            try:
                found.append(
                    self._bisect(question, weights=weights, groups=groups, ratios=(1.0, *ratios))
                )
            except BudgetInfeasibleError as error:
                failure = error
        if not found:
            assert failure is not None
            raise failure
        return min(found, key=lambda allocation: allocation.loss)

    def _bisect(
        self,
        question: Question,
        *,
        weights: Mapping[str, float],
        groups: Sequence[int],
        ratios: Sequence[float],
    ) -> Allocation:
        def plan_of(t: float) -> Plan:
            plan = {}
            for site, group in zip(question.sites, groups, strict=True):
                epsilon = (1.0 - t) * weights[site.name] * ratios[group]
                sigma = question.evidence.spectrum(self.profile, site)
                plan[site.name] = question.floor(site, rank_of_error(sigma, min(epsilon, 1.0)))
            return plan

        return question.largest_fitting(plan_of, solver=self.name)

    def _group(self, site: Site) -> int:
        """The number of the first pattern that names the site, from 1; 0 where none does."""
        for i, pattern in enumerate(self._patterns):
            if pattern.search(site.name):
                return i + 1
        return 0

    def _weights(self, evidence: Evidence, sites: Sequence[Site]) -> dict[str, float]:
        if not self.alpha:
            return {site.name: 1.0 for site in sites}
        alphas = {site.name: max(evidence.sensitivity[site.name], 1e-12) for site in sites}
        mean = sum(alphas.values()) / len(alphas)
        return {name: (mean / value) ** 0.5 for name, value in alphas.items()}
