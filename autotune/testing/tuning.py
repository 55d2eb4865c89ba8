"""A tuning on a simulated machine: real measuring, planning and closed loop, without a model.

The loss of a plan is the error table's, which is drawn from a seed; there is nothing to factorize,
so steps that need weights (the search on the true loss, handing out) are left out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.compress.inference import WEIGHTS
from autotune.compress.loading import LoadedModel
from autotune.compress.sites import Sites
from autotune.compress.tasks import make_task
from autotune.core.forms import Form, Plan, low_rank
from autotune.core.layers import Site, break_even_rank
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.core.workload import Budget, Workload
from autotune.devices.alignment import coarse_grid, saving_ranks
from autotune.search.allocators import make_allocator
from autotune.search.evidence import Evidence
from autotune.search.losses import PlanLosses, SearchSubject
from autotune.testing.machine import SimulatedBuilder, SimulatedMachine
from autotune.tuning.model import TracedModel
from autotune.tuning.options import SearchOptions
from autotune.tuning.planner import Planner, count_totals
from autotune.tuning.request import TuneRequest
from autotune.tuning.rounds import Round
from autotune.tuning.session import Tuning
from autotune.tuning.workspace import Workspace

_NOWHERE = Path("/nonexistent")


@dataclass(frozen=True, kw_only=True)
class SimulatedModel(TracedModel):
    """Sites without weights; `other_parameters` are those outside the sites."""

    other_parameters: int = 0

    @property
    def parameters(self) -> int:
        """Parameters of the sites and of the rest."""
        own = sum(site.in_features * site.out_features for site in self.single)
        return own + self.other_parameters

    def kv_cache_bytes(self, dtype: str) -> int:
        """Always 0: the simulated model keeps no cache."""
        del dtype
        return 0

    @property
    def key(self) -> dict[str, Any]:
        """The sites, which are all that the model consists of."""
        return {"sites": [vars(site) for site in self.single]}


def simulated_model(sites: Sequence[Site], workload: Workload) -> SimulatedModel:
    """A model of `sites`, which must be on the tokens of the workload's prefill."""
    from torch import nn

    loaded = LoadedModel(
        name="simulated",
        folder=_NOWHERE,
        task="causal-lm",
        model=nn.Identity(),
        tokenizer=None,
        weights_sha256="0" * 64,
    )
    return SimulatedModel(
        loaded=loaded,
        task=make_task("causal-lm", _NOWHERE),
        workload=workload,
        sites=Sites(sites=tuple(sites), left_out={}, joint=()),
        joint=(),
    )


def example_sites(
    workload: Workload, *, seed: int = 0, blocks: int = 2, unit: int = 64
) -> tuple[Site, ...]:
    """Two layers per block, a square one and a wide one.

    Their widths are drawn from the seed, between 6 and 12 `unit`.
    """
    draw = random.Random(f"sites:{seed}")
    width = unit * draw.randint(6, 12)
    inner = width * draw.choice((2, 3, 4))
    return tuple(
        Site(
            name=f"blocks.{block}.{group}",
            in_features=width,
            out_features=out_features,
            tokens=workload.tokens,
            group=group,
            block=block,
        )
        for block in range(blocks)
        for group, out_features in (("attention", width), ("mlp", inner))
    )


def example_errors(
    sites: Sequence[Site], rank_multiple: int, *, seed: int = 0, forms_per_site: int = 0
) -> dict[str, dict[Form, float]]:
    """Loss increases that fall with the rank, by a power and on a scale drawn for every site.

    With `forms_per_site` above 0 only so many forms are offered at every site.
    """
    draw = random.Random(f"errors:{seed}")
    table = {}
    for site in sites:
        scale, power = draw.lognormvariate(0.0, 0.7), draw.uniform(1.0, 2.5)
        limit = break_even_rank(site.in_features, site.out_features)
        ranks = saving_ranks(
            rank_multiple, in_features=site.in_features, out_features=site.out_features
        )
        if forms_per_site:
            ranks = coarse_grid(ranks, forms_per_site)
        table[site.name] = {low_rank(r): scale * (1.0 - r / (limit + 1)) ** power for r in ranks}
    return table


@dataclass(frozen=True, kw_only=True)
class SimulatedOutcome:
    """What a simulated tuning ended with, and the truth about it.

    `true_ratio` is the ratio to dense without noise, `loss` the table's loss of the plan.
    """

    tuning: Tuning
    rounds: Sequence[Round]
    final: Round
    true_ratio: float

    @property
    def loss(self) -> float:
        """The loss of the plan that is handed out."""
        return self.tuning.planner.table_loss(self.final.allocation.plan)

    @property
    def verdict(self) -> str:
        """The verdict that would be handed out: met, missed or undecided."""
        return str(self.tuning.verdict(self.final))


@contextmanager
def simulated_tuning(
    machine: SimulatedMachine,
    folder: Path,
    *,
    budget: Budget,
    sites: Sequence[Site],
    errors: Mapping[str, Mapping[Form, float]],
    workload: Workload,
    rounds: int = 3,
) -> Iterator[Tuning]:
    """A tuning on `machine`, ready for `require_feasible` and `close_loop`.

    Its run folder is `folder`; layers are measured and the dense network is timed on opening.
    """
    request = TuneRequest(
        output=folder,
        budget=budget,
        workload=workload,
        search=SearchOptions(trials=0, rounds=rounds, sensitivity_rounds=0, references=False),
    )
    model = simulated_model(sites, workload)
    with machine, RunFolder(folder) as run_folder:
        workspace = Workspace(folder=run_folder, reporter=Reporter())
        builder = SimulatedBuilder(model, machine, workspace=workspace)
        network = machine.network(builder)
        planner = Planner(
            model=model,
            errors=errors,
            network=network,
            totals=count_totals(model, network),
            budget=budget.limits(),
            allocator=make_allocator("exact"),
            evidence=_no_evidence(model),
            storage="fp32",
            margin=request.search.margin,
        )
        unused: Any = None
        yield Tuning(
            request=request,
            workspace=workspace,
            model=model,
            machine=machine,
            builder=builder,
            reference=builder,
            compression=unused,
            data=unused,
            planner=planner,
            judged_in=WEIGHTS,
            started_s=time.monotonic(),
        )


def run_simulated(tuning: Tuning) -> SimulatedOutcome:
    """Take the tuning from its budget to the round that would be handed out.

    Raises:
        BudgetInfeasibleError: no plan meets the budget, as predicted.
    """
    tuning.require_feasible()
    rounds = tuning.close_loop({})
    final = tuning.confirm(rounds)
    return SimulatedOutcome(
        tuning=tuning,
        rounds=rounds,
        final=final,
        true_ratio=true_ratio(tuning, final.allocation.plan),
    )


def true_ratio(tuning: Tuning, plan: Plan) -> float:
    """Ratio of a plan to the dense network on the simulated hardware, without noise."""
    machine = tuning.machine
    assert isinstance(machine, SimulatedMachine)
    total = {"plan": 0.0, "dense": 0.0}
    for phase, count in tuning.request.workload.passes.items():
        sites = tuning.model.choices_in(phase)
        for name, chosen in (("plan", plan), ("dense", {})):
            seconds = machine.simulated.network_latency_s(
                sites, chosen, phase=phase, dtype=machine.dtype
            )
            total[name] += count * seconds
    return total["plan"] / total["dense"]


def _no_evidence(model: TracedModel) -> Evidence:
    """The exact allocator asks for none."""
    factors: Any = None
    subject = SearchSubject(
        model=model.loaded.model, task=model.task, sites=model.single, factors=factors, batches=()
    )
    return Evidence(PlanLosses(subject))
