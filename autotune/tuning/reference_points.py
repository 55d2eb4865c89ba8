"""Reference points: plans that treat every layer alike, which a user would otherwise pick.

They are built and timed in the same run as the plans of the closed loop. What is handed out is the
best of all of them, so no plan is that one of these beats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from autotune.core.errors import AutotuneError
from autotune.core.forms import DENSE, NATIVE, PLAIN, Form, Plan
from autotune.core.layers import Site, break_even_rank
from autotune.results.verdict import Verdict
from autotune.tuning.floor import QualityFloor
from autotune.tuning.loop import ClosedLoop
from autotune.tuning.planner import Planner
from autotune.tuning.rounds import Round

# The name of the dense model in its own dtype, where that is handed out.
DENSE_MODEL = "dense"

_KEEP_PERCENT = range(95, 5, -5)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A uniform plan by the name that people know it by."""

    name: str
    plan: Plan


def uniform_rank(planner: Planner, keep: float, *, precision: str = NATIVE) -> dict[str, Form]:
    """Every layer in plain factors that hold the share `keep` of its parameters, or dense.

    Ranks are rounded down to aligned ones.
    """

    def form(site: Site) -> Form:
        most = keep * break_even_rank(site.in_features, site.out_features)
        fitting = [
            each
            for each in planner.errors[site.name]
            if each.structure == PLAIN and each.precision == precision and 0 < each.rank <= most
        ]
        return max(fitting, default=_dense_form(planner, site, precision=precision))

    return {site.name: form(site) for site in planner.model.single}


def references(planner: Planner, *, ratio: float) -> list[Reference]:
    """The dense model in every other precision, and one keep ratio for all layers.

    The latter is predicted to take at most `ratio` of the dense latency, in the precision in which
    it is predicted to lose least.
    """
    network = planner.network
    found = []
    if network.dtype != network.weight_dtype:
        found.append(Reference(name=f"dense {network.dtype}", plan={}))
    precisions = planner.model.precisions
    for precision in precisions:
        if precision != NATIVE:
            found.append(Reference(name=f"dense {precision}", plan=_dense(planner, precision)))
    ranked = [
        each
        for precision in precisions
        if (each := _at_latency(planner, ratio, precision=precision)) is not None
    ]
    if ranked:
        found.append(min(ranked, key=lambda each: planner.table_loss(each.plan)))
    return found


def _at_latency(planner: Planner, ratio: float, *, precision: str) -> Reference | None:
    """The largest keep ratio within the latency; None where none is, or the dense model is."""
    if planner.network.predict(_dense(planner, precision)).ratio <= ratio:
        return None
    for percent in _KEEP_PERCENT:
        plan = uniform_rank(planner, percent / 100, precision=precision)
        if planner.network.predict(plan).ratio <= ratio:
            name = f"uniform rank, {percent} % kept"
            return Reference(
                name=name if precision == NATIVE else f"{name}, {precision}", plan=plan
            )
    return None


def _dense(planner: Planner, precision: str) -> Plan:
    """Every layer dense in a precision, those with one input as one where that is offered."""
    form = Form(precision=precision)
    joint = [site for site in planner.model.joint if form in planner.errors[site.name]]
    covered = {name for site in joint for name in site.layers}
    alone = (site for site in planner.model.single if site.name not in covered)
    singles = {site.name: _dense_form(planner, site, precision=precision) for site in alone}
    return singles | {site.name: form for site in joint}


def _dense_form(planner: Planner, site: Site, *, precision: str) -> Form:
    """The dense layer in a precision, or as it is where that is not offered."""
    form = Form(precision=precision)
    return form if form in planner.errors[site.name] else DENSE


@dataclass(frozen=True, kw_only=True)
class References:
    """Measures reference points like rounds of `loop`, and compares them with what it found.

    `loss` is that of a round on the search data. Where the least latency is sought that keeps
    `floor`, the faster one that does is better.
    """

    loop: ClosedLoop
    loss: Callable[[Round], float]
    floor: QualityFloor | None = None
    _looked: dict[str, Round] = field(default_factory=dict)

    def measured(self, *, ratio: float) -> dict[str, Round]:
        """Reference points by name; one that cannot be built or timed is left out, and said so."""
        found = {}
        for each in references(self.loop.planner, ratio=ratio):
            try:
                # One that seems better is measured again.
                found[each.name] = self.loop.measured_plan(each.plan, name=each.name, brief=True)
            except AutotuneError as error:
                self.loop.workspace.note(f"{each.name} was not measured: {error}")
        return found

    def instead_of(self, found: Round, others: Iterable[Round]) -> Round:
        """The best of the others that is better than `found`, measured again; else `found`."""
        better = [each for each in others if self._is_better(each, found)]
        for each in sorted(better, key=self._rank):
            looked = self._looked_at_again(each)
            if self._is_better(looked, found):
                name = looked.allocation.solver
                self.loop.workspace.note(f"{name} is handed out: no plan that was found is better")
                return looked
        return found

    def or_dense(self, found: Round) -> Round:
        """The dense model where the least latency is sought and `found` is not surely faster.

        Where the dense model is beyond another budget, or is run in another dtype than its own,
        `found` stays.
        """
        loop = self.loop
        if not self.floor or loop.planner.limits_latency or loop.verdict(found) is Verdict.MET:
            return found
        network = loop.planner.network
        unchanged = loop.planner.allocation({}, name=DENSE_MODEL)
        if network.dtype != network.weight_dtype or not loop.planner.fits(unchanged):
            return found
        loop.workspace.note("no plan is surely faster than the dense model, which is handed out")
        return loop.measured_plan({}, name=DENSE_MODEL, brief=True)

    def _looked_at_again(self, one: Round) -> Round:
        """With a second look, which each has once."""
        name = one.allocation.solver
        if name not in self._looked:
            self._looked[name] = self.loop.looked_at_again(one).decided
        return self._looked[name]

    def _rank(self, one: Round) -> tuple[bool, float]:
        """What is looked at first: those that hold a latency budget, then by loss.

        Where the least latency is sought, by latency.
        """
        if self.floor and not self.loop.planner.limits_latency:
            return False, one.judged.ratio
        holds = self.loop.planner.limits_latency and self.loop.verdict(one) is Verdict.MET
        return not holds, self.loss(one)

    def _is_better(self, one: Round, found: Round) -> bool:
        """Whether it loses less and is no slower; a latency budget is held before all else."""
        planner = self.loop.planner
        if not planner.fits(one.allocation):
            return False
        if self.floor and not self.floor.keeps(one.allocation.plan):
            return False
        if self.floor and not planner.limits_latency:
            return self._is_faster_or_as_fast(one, found)
        slower = one.judged.ratio > found.judged.ratio
        if planner.limits_latency:
            holds, held = (self.loop.verdict(each) is Verdict.MET for each in (one, found))
            if holds != held:
                return holds
            slower = slower and not holds
        return not slower and self.loss(one) < self.loss(found)

    def _is_faster_or_as_fast(self, one: Round, found: Round) -> bool:
        """Whether it is faster, or loses less and no measurement tells which of them is faster."""
        low, high = found.judged.ratio_low, found.judged.ratio_high
        if one.judged.ratio < low:
            return True
        return one.judged.ratio <= high and self.loss(one) < self.loss(found)
