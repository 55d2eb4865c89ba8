"""The dtype that a network is run in: which of those that a machine offers a tuning goes on with.

A dtype is of the whole network, so it is chosen before the forms of its layers
(docs/methods/dtypes.md). Budgets and ratios refer to the dense network in the model's own dtype,
whatever dtype a plan is run in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.compress.calibration import CalibrationData
from autotune.compress.inference import WEIGHTS
from autotune.core.errors import AutotuneError, BudgetInfeasibleError, ModelError
from autotune.predictor.network.model import NetworkModel
from autotune.results.measured import Measured
from autotune.results.quality_verdict import QualityVerdict
from autotune.search.allocators import make_allocator
from autotune.search.evidence import Evidence
from autotune.search.exact import solve_exact
from autotune.search.judges import JudgePool
from autotune.tuning.builders import Builder, make_builder
from autotune.tuning.compression import Compression
from autotune.tuning.floor import least_latency, make_floor
from autotune.tuning.judging import make_evidence, quality_of
from autotune.tuning.machine import Machine
from autotune.tuning.paired import PairedNetworks
from autotune.tuning.planner import Planner, count_totals
from autotune.tuning.request import TuneRequest
from autotune.tuning.workspace import Workspace

# A dtype is as good as the model's own if so many times its loss were nothing to warn of.
_LOSSLESS = 20.0


@dataclass(frozen=True, kw_only=True)
class NetworkDtype:
    """The dense network in one dtype, compared with the same network in the model's own.

    `dense` is how the two were timed in turn; None of the model's own dtype. `loss` is by how much
    its mean loss on the search data is above; `lossless`: that is next to nothing.
    """

    machine: Machine
    builder: Builder
    own: str
    dense: Measured | None = None
    loss: float = 0.0
    lossless: bool = True

    @property
    def name(self) -> str:
        """Such as `bf16`."""
        return self.machine.dtype

    @property
    def judged_in(self) -> str:
        """What `running_in` takes; models are loaded in fp32 to be judged."""
        return self.name if self.dense else WEIGHTS

    @property
    def ratio(self) -> float:
        """Latency of the dense network / that in the model's own dtype."""
        return self.dense.ratio if self.dense else 1.0

    def network(self, *, all_pairs: bool = False) -> NetworkModel:
        """The latency model of the network in this dtype, relative to the model's own.

        `all_pairs` is that of the machine's.
        """
        network = self.machine.network(self.builder, all_pairs=all_pairs)
        if self.dense is None:
            return network
        pairs = zip(network.phases, self.dense.passes, strict=True)
        phases = (
            replace(
                phase,
                weight_dtype=self.own,
                anchor=replace(
                    phase.anchor,
                    ratio=timed.ratio,
                    ratio_error=(timed.ratio_high - timed.ratio_low) / 2,
                ),
            )
            for phase, timed in pairs
        )
        return replace(network, phases=tuple(phases))


@dataclass(frozen=True, kw_only=True)
class DtypeSearch:
    """What the dtypes of a network are compared with: the model, its data and the request."""

    request: TuneRequest
    machine: Machine
    builder: Builder
    compression: Compression
    data: CalibrationData
    workspace: Workspace

    def choose(self, wanted: Sequence[str]) -> tuple[NetworkDtype, Planner]:
        """The dtype among `wanted` whose best plan is expected to lose least, and its planner.

        Under a quality floor alone that whose best plan is the fastest. Where no plan meets the
        budgets, the fastest dtype.
        """
        found = undominated(self._in_dtypes(wanted))
        planned = [(each, self._planner(each)) for each in found]
        if len(planned) == 1:
            return planned[0]
        best = min(planned, key=lambda one: (self._expected(one[1]), one[0].ratio))
        self.workspace.note(f"the network is run in {best[0].name}")
        return best

    def _in_dtypes(self, wanted: Sequence[str]) -> list[NetworkDtype]:
        """All that work; one that does not is left out where another was asked for as well."""
        found, errors = [], []
        for name in wanted:
            try:
                found.append(self._in_dtype(name))
            except AutotuneError as error:
                errors.append(error)
                self.workspace.note(f"the network is not run in {name}: {error}")
        if not found:
            raise errors[0]
        return found

    def judged_by(
        self, judges: JudgePool | None, planner: Planner, *, dtype: NetworkDtype
    ) -> Planner:
        """The planner with losses that a pool of judges finds."""
        return replace(planner, evidence=self._evidence(dtype.judged_in, judges))

    def _evidence(self, judged_in: str, judges: JudgePool | None = None) -> Evidence:
        return make_evidence(
            self.compression,
            self.data,
            workspace=self.workspace,
            judges=judges,
            seed=self.request.seed,
            dtype=judged_in,
        )

    def _in_dtype(self, name: str) -> NetworkDtype:
        """The dense network in one dtype, built, timed and judged."""
        own = self.machine.dtype
        if name == own:
            return NetworkDtype(machine=self.machine, builder=self.builder, own=own)
        machine = self.machine.in_dtype(name)
        builder = make_builder(self.builder.model, machine, workspace=self.workspace)
        networks = PairedNetworks(reference=self.builder, machine=machine, workspace=self.workspace)
        phases = self.builder.model.workload.passes
        dense = networks.measured(
            {phase: builder.dense(phase) for phase in phases},
            label=f"measure the dense network in {name}",
        )
        loss, lossless = self._loss(name)
        return NetworkDtype(
            machine=machine, builder=builder, own=own, dense=dense, loss=loss, lossless=lossless
        )

    def _loss(self, name: str) -> tuple[float, bool]:
        """By how much the loss of the dense network in a dtype is above, and if that is nothing."""
        own, other = (self._evidence(dtype).losses for dtype in (WEIGHTS, name))
        with self.workspace.stage(f"judge the dense model in {name}"):
            dense, found = own.true_loss({}), other.true_loss({})
        if not math.isfinite(found):
            raise ModelError(f"the dense model's loss on the search data is not finite in {name}")
        loss = max(found - dense, 0.0)
        quality = quality_of(
            self.compression.model.task,
            dense=dense / own.scale,
            compressed=(dense + _LOSSLESS * loss) / own.scale,
            batches=self.data.search,
        )
        return loss, quality.verdict is QualityVerdict.KEPT

    def _expected(self, planner: Planner) -> float:
        """What the best plan is expected to lose, or to take where the least latency is sought."""
        wanted = self.request.budget.floor()
        if wanted is None or not self.request.seeks_latency:
            return _expected_loss(planner)
        floor = make_floor(
            lambda quality: quality.keeps(wanted),
            planner.evidence.losses,
            dtype_loss=planner.dtype_loss,
            batches=self.data.search,
        )
        ratio = least_latency(
            planner,
            {},
            corrections=planner.uncorrected,
            keeps=lambda plan: planner.table_loss(plan) <= floor.limit,
        )
        return math.inf if ratio is None else ratio

    def _planner(self, chosen: NetworkDtype) -> Planner:
        request, model = self.request, self.builder.model
        # Where bytes are limited, a pair may be worth its time.
        network = chosen.network(all_pairs=request.budget.weight_bytes is not None)
        errors = self.compression.error_table(
            chosen.machine.rank_multiple,
            workspace=self.workspace,
            offers_pairs=network.prices_pairs,
        )
        return Planner(
            model=model,
            errors=errors,
            network=network,
            totals=count_totals(model, network),
            budget=request.budget.limits(),
            allocator=make_allocator(request.chosen_allocator),
            evidence=self._evidence(chosen.judged_in),
            storage=request.method.storage,
            margin=request.search.margin,
            dtype_loss=chosen.loss,
        )


def undominated(dtypes: Sequence[NetworkDtype]) -> list[NetworkDtype]:
    """Those that no other one beats: faster by the whole of the intervals, and without loss.

    What is left out would have to be compressed to be as fast, and has its layers measured for
    nothing.
    """

    def beats(one: NetworkDtype, other: NetworkDtype) -> bool:
        return one.lossless and _high(one) < _low(other)

    return [each for each in dtypes if not any(beats(other, each) for other in dtypes)]


def _low(dtype: NetworkDtype) -> float:
    return dtype.dense.ratio_low if dtype.dense else 1.0


def _high(dtype: NetworkDtype) -> float:
    return dtype.dense.ratio_high if dtype.dense else 1.0


def _expected_loss(planner: Planner) -> float:
    try:
        problem = planner.problem({}, margin=planner.margin)
        return solve_exact(problem).loss + planner.dtype_loss
    except BudgetInfeasibleError:
        return math.inf
