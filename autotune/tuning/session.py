"""A tuning: one request, worked on in one run folder on one machine, to what is handed out.

    with Tuning.open(request, reporter) as tuning:
        tuning.require_feasible()
        rounds = tuning.close_loop(tuning.search())
        result = tuning.hand_out(tuning.confirm(rounds), rounds)

`tune` does just that. Every step is cached in the run folder, so a tuning that was killed continues
where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch

from autotune.compress.calibration import CalibrationData, load_calibration
from autotune.compress.inference import WEIGHTS, running_in
from autotune.compress.loading import load_model
from autotune.compress.quality import relative_loss
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.core.workload import Workload
from autotune.devices.detect import check_threads
from autotune.devices.memory import peak_memory_bytes
from autotune.results.record import Cost, Quality, TuneRecord
from autotune.results.result import TuneResult
from autotune.results.verdict import Verdict
from autotune.search.outer import Knobs
from autotune.tuning.builders import Builder, make_builder
from autotune.tuning.compression import Compression, compress
from autotune.tuning.dtypes import DtypeSearch
from autotune.tuning.earlier import (
    earlier_result,
    is_answered,
    is_same,
    note_answer,
    noted_rounds,
    request_key,
)
from autotune.tuning.handout import hand_out
from autotune.tuning.judging import (
    dense_heldout_loss,
    make_judges,
    quality_of,
)
from autotune.tuning.knobs import found_knobs
from autotune.tuning.loop import ClosedLoop
from autotune.tuning.machine import Machine
from autotune.tuning.machines import find_machine
from autotune.tuning.model import TracedModel, trace_model
from autotune.tuning.ownership import require_apart, require_replaceable
from autotune.tuning.paired import PairedNetworks
from autotune.tuning.planner import Planner
from autotune.tuning.references import References
from autotune.tuning.request import TuneRequest
from autotune.tuning.rounds import Round
from autotune.tuning.workspace import Workspace


def tune(
    request: TuneRequest, reporter: Reporter | None = None, *, machine: Machine | None = None
) -> TuneResult:
    """Run `request` to its result; see `autotune.api.tune` for what is raised.

    `machine` is used instead of the one that the request names, as in tests on a simulated one.
    """
    with Tuning.open(request, reporter or Reporter(), machine=machine) as tuning:
        tuning.require_feasible()
        rounds = tuning.close_loop(tuning.search())
        return tuning.hand_out(tuning.confirm(rounds), rounds)


@dataclass(kw_only=True)
class Tuning:
    """One request in one run folder; its steps, in the order in which `tune` takes them.

    `machine`, `builder` and `planner` are those of the dtype that the network is run in,
    `reference` builds the dense network in the model's own, and models are judged in `judged_in`.
    `references` are the reference points, once they are measured.
    `key` identifies the request (`earlier.request_key`), `earlier` is the result that the folder
    held before.
    """

    request: TuneRequest
    workspace: Workspace
    model: TracedModel
    machine: Machine
    builder: Builder
    reference: Builder
    compression: Compression
    data: CalibrationData
    planner: Planner
    judged_in: str
    started_s: float
    key: str = ""
    earlier: TuneRecord | None = None
    knobs: Knobs = field(default_factory=dict)
    references: Mapping[str, Round] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(
        cls, request: TuneRequest, reporter: Reporter, *, machine: Machine | None = None
    ) -> Iterator[Tuning]:
        """Load the model, measure its layers and factorize them; the folder is locked meanwhile.

        Raises:
            UsageError: a value that cannot be used (model, calibration data, folder, …).
            DeviceMissingError: the device or its backend is not there.
            MeasurementError: a measurement failed.
        """
        started_s = time.monotonic()
        torch.set_num_threads(check_threads(request.machine.threads))
        with ExitStack() as stack:
            machine = stack.enter_context(machine or find_machine(request.machine))
            machine.prepare()
            folder = stack.enter_context(RunFolder(request.output, note=reporter.note))
            require_replaceable(folder.path)
            workspace = Workspace(folder=folder, reporter=reporter)
            earlier = earlier_result(folder)
            for text in machine.disturbances():
                workspace.note(f"warning: {text}")
            with workspace.stage("load the model"):
                loaded = load_model(request.model)
            require_apart(folder.path, loaded.folder, option="model")
            model = trace_model(
                loaded,
                request.workload,
                targets=request.method.targets,
                ignore=request.method.ignore,
                joint=request.offers_joint,
                structures=machine.structures(request.structures),
                precisions=machine.precisions(
                    request.precisions, all_of_them=request.method.precision != "auto"
                ),
            )
            _note_length(workspace, asked=request.workload, given=model.workload)
            data = load_calibration(loaded, request.calibration, workload=model.workload)
            dense_heldout_loss(model, data, workspace=workspace)
            key = request_key(request, model=model, data=data, machine=machine)
            # Nothing better is needed, and the same command changes nothing.
            if earlier and earlier.verdict is Verdict.MET and is_answered(folder, earlier, key=key):
                machine.keep_timings()
            builder = make_builder(model, machine, workspace=workspace)
            if machine.verified:  # a model that cannot be exported is refused before anything long
                for phase in request.workload.passes:
                    builder.dense(phase)
            compression = compress(model, request, data=data, workspace=workspace)
            given = DtypeSearch(
                request=request,
                machine=machine,
                builder=builder,
                compression=compression,
                data=data,
                workspace=workspace,
            )
            dtype, planner = given.choose(
                machine.network_dtypes(
                    request.network_dtypes, all_of_them=request.method.precision != "auto"
                )
            )
            judges = stack.enter_context(
                make_judges(
                    request,
                    machine,
                    compression=compression,
                    data=data,
                    workspace=workspace,
                    dtype=dtype.judged_in,
                )
            )
            yield cls(
                request=request,
                workspace=workspace,
                model=model,
                machine=dtype.machine,
                builder=dtype.builder,
                reference=builder,
                compression=compression,
                data=data,
                planner=given.judged_by(judges, planner, dtype),
                judged_in=dtype.judged_in,
                started_s=started_s,
                key=key,
                earlier=earlier,
            )

    def require_feasible(self) -> None:
        """Refuse a budget that no plan meets.

        Raises:
            BudgetInfeasibleError: names the reachable minimum.
        """
        self.planner.require_feasible()

    def search(self) -> Knobs:
        """The sensitivity pass, then Optuna over the outer knobs, on the true loss.

        Raises:
            BudgetInfeasibleError: the allocator reaches no plan within the budgets.
        """
        rounds = self.request.sensitivity_turns
        if rounds:
            with self.workspace.stage("sensitivity pass") as advance:
                self.planner = self.planner.rescaled(rounds, advance)
        return found_knobs(self)

    def close_loop(self, knobs: Knobs) -> list[Round]:
        """Rounds of the closed loop, or the one predicted plan where the machine does not measure.

        Raises:
            BudgetInfeasibleError: no plan meets the budgets.
            MeasurementError: a network could not be timed.
        """
        self.knobs = knobs
        if not self.machine.verified:
            return [self._loop.predict(knobs)]
        rounds = self._earlier_rounds() or self._loop.run(knobs)
        # Rounds have measured further layers; what they learned of the network is their own.
        network = rounds[-1].network.corrected(self.planner.uncorrected)
        self.planner = replace(self.planner, network=network)
        return rounds

    def _earlier_rounds(self) -> list[Round]:
        """The rounds of the result in the folder, where that answers this very request."""
        if self.earlier is None or not self.machine.keeps_timings:
            return []
        return noted_rounds(
            self.workspace.folder,
            self.earlier,
            network=self.planner.network,
            key=self.key,
            builds=self._loop.build,
        )

    @property
    def _loop(self) -> ClosedLoop:
        return ClosedLoop(
            planner=self.planner,
            compression=self.compression,
            builder=self.builder,
            machine=self.machine,
            networks=PairedNetworks(
                reference=self.reference, machine=self.machine, workspace=self.workspace
            ),
            workspace=self.workspace,
            rounds=self.request.search.rounds,
        )

    def confirm(self, rounds: Sequence[Round]) -> Round:
        """The round to hand out, measured afresh where the machine measures.

        A reference point (references.py) that is better than the best round takes its place.

        Raises:
            MeasurementError: a network could not be timed.
        """
        if not self.machine.verified:
            return rounds[0]
        loop = self._loop
        found = loop.confirm(rounds)
        if not self.request.search.references:
            return found
        points = References(loop=loop, loss=self.search_loss)
        self.references = points.measured(ratio=found.judged.ratio)
        return points.instead_of(found, self.references.values())

    def search_loss(self, outcome: Round) -> float:
        """By how much the mean loss of a round's plan on the search data is above the dense one's.

        It holds what the dtype loses that the network is run in.
        """
        losses = self.planner.evidence.losses
        rise = losses.true_loss(outcome.allocation.plan) - losses.true_loss({})
        return rise + self.planner.dtype_loss

    def verdict(self, outcome: Round) -> Verdict:
        """Whether a round holds the latency budget; the other budgets hold by count."""
        return self._loop.verdict(outcome)

    def judge(self, outcome: Round) -> Quality:
        """Quality of the dense and the compressed model on held-out data."""
        task, plan = self.model.task, outcome.allocation.plan
        model, heldout = self.model.loaded.model, self.data.heldout

        def compute() -> float:
            with self.workspace.stage("judge quality on held-out data") as advance:
                references = task.references(model, heldout)
                advance(1, 2)
                with self.compression.applied(plan), running_in(self.judged_in):
                    return relative_loss(task, model, batches=heldout, references=references)

        key = {**self.compression.plan_key(plan), "data": self.data.sha256}
        if self.judged_in != WEIGHTS:
            key |= {"judged_in": self.judged_in}
        compressed: float = self.workspace.value("quality", key, compute=compute)
        dense = dense_heldout_loss(self.model, self.data, workspace=self.workspace)
        return quality_of(task, dense=dense, compressed=compressed, batches=heldout)

    def hand_out(self, final: Round, rounds: Sequence[Round]) -> TuneResult:
        """Judge the final round and write its checkpoint, graphs, report and, last, result.json."""
        result = hand_out(self, final, rounds=rounds)
        note_answer(self.workspace.folder, self.key, rounds=rounds)
        if not self.machine.has_measured and is_same(result.record, self.earlier):
            self.workspace.note("this folder already holds this result; nothing was measured")
        return result

    def cost(self) -> Cost:
        """Seconds since the tuning was opened, and its peak memory so far."""
        seconds = time.monotonic() - self.started_s
        return Cost(seconds=seconds, peak_memory_bytes=peak_memory_bytes())


def _note_length(workspace: Workspace, *, asked: Workload, given: Workload) -> None:
    """Say so where the inputs of the model are shorter than what was asked for."""
    if asked != given:
        workspace.note(
            f"inputs have {given.sequence_length} tokens, the most that the model takes, instead "
            f"of {asked.sequence_length}"
        )
