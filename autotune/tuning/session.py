"""A tuning: one request, worked on in one run folder on one machine, to what is handed out.

    with open_tuning(request, reporter) as tuning:
        tuning.require_feasible()
        rounds = tuning.close_loop(tuning.search())
        final = tuning.confirm(rounds)
        tuning.map_front()
        result = tuning.hand_out(final, rounds)

`tune` does just that. Every step is cached in the run folder, so a tuning that was killed continues
where it was.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autotune.compress.calibration import CalibrationData
from autotune.compress.inference import WEIGHTS, running_in
from autotune.compress.quality import Judgement, judged
from autotune.devices.memory import peak_memory_bytes
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.record import Cost, MeasuredPoint, Quality, TuneRecord
from autotune.results.result import TuneResult
from autotune.results.verdict import Verdict
from autotune.search.outer import Knobs
from autotune.tuning.builders import Builder
from autotune.tuning.compression import Compression
from autotune.tuning.earlier import (
    is_same,
    note_answer,
    noted_rounds,
)
from autotune.tuning.floor import (
    FloorLoop,
    QualityFloor,
    least_latency,
    make_floor,
    require_floor,
)
from autotune.tuning.front import front_rounds
from autotune.tuning.handout import hand_out
from autotune.tuning.judging import (
    dense_heldout_loss,
    quality_of,
)
from autotune.tuning.knobs import found_knobs
from autotune.tuning.loop import ClosedLoop
from autotune.tuning.machine import Machine
from autotune.tuning.model import TracedModel
from autotune.tuning.paired import PairedNetworks
from autotune.tuning.planner import Planner
from autotune.tuning.reference_points import DENSE_MODEL, References
from autotune.tuning.request import TuneRequest
from autotune.tuning.rounds import CHOSEN, Round
from autotune.tuning.stored_request import note_request
from autotune.tuning.workspace import Workspace


@dataclass(kw_only=True)
class Tuning:
    """One request in one run folder; its steps, in the order in which `tune` takes them.

    `machine`, `builder` and `planner` are those of the dtype that the network is run in,
    `reference` builds the dense network in the model's own, and models are judged in `judged_in`.
    `dense_latencies_s` are those of the dense model by backend, where backends were compared.
    Where the tuning `repeats` what the folder holds, nothing new is looked for.
    `references` are the reference points and `front` further plans, once they are measured.
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
    dense_latencies_s: Mapping[str, float] = field(default_factory=dict)
    key: str = ""
    earlier: TuneRecord | None = None
    knobs: Knobs = field(default_factory=dict)
    references: Mapping[str, Round] = field(default_factory=dict)
    front: Mapping[str, Round] = field(default_factory=dict)
    repeats: bool = False

    def require_feasible(self) -> None:
        """Refuse a budget that no plan meets.

        Raises:
            BudgetInfeasibleError: names the reachable minimum, or the best quality.
        """
        self.planner.require_feasible()
        if self.floor:
            asked = self.request.budget.quality or ""
            require_floor(self.floor, self.planner, asked=asked)

    def search(self) -> Knobs:
        """The sensitivity pass, then Optuna over the outer knobs, on the true loss.

        Raises:
            BudgetInfeasibleError: the allocator reaches no plan within the budgets.
        """
        rounds = self.request.sensitivity_turns
        if rounds:
            sought = self._sought()
            with self.workspace.stage("sensitivity pass") as advance:
                scales = sought.rescaled(rounds, advance).scales
                self.planner = replace(self.planner, scales=scales)
        return found_knobs(self, self._sought())

    def _sought(self) -> Planner:
        """The planner with the latency that is expected of the result in place of a floor."""
        if not (self.floor and self.request.seeks_latency):
            return self.planner
        with self.workspace.stage("find the least latency that keeps the floor"):
            planner = self.planner
            ratio = least_latency(
                planner, {}, corrections=planner.uncorrected, keeps=self.floor.keeps
            )
        return planner.within(ratio) if ratio else planner

    def close_loop(self, knobs: Knobs) -> list[Round]:
        """Rounds of the closed loop, or the one predicted plan where the machine does not measure.

        Raises:
            BudgetInfeasibleError: no plan meets the budgets.
            MeasurementError: a network could not be timed.
        """
        self.knobs = knobs
        if not self.machine.verified:
            return [self._loop.predict(knobs)]
        rounds = self._earlier_rounds()
        self.repeats = bool(rounds)
        rounds = rounds or self._loop.run(knobs)
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

    @functools.cached_property
    def floor(self) -> QualityFloor | None:
        """The quality floor as a limit on losses on the search data; None without one."""
        asked = self.request.budget.floor()
        if asked is None:
            return None
        return self._floor(lambda quality: quality.keeps(asked))

    def _floor(self, keeps: Callable[[Quality], bool]) -> QualityFloor:
        return make_floor(
            keeps,
            self.planner.evidence.losses,
            dtype_loss=self.planner.dtype_loss,
            batches=self.data.search,
        )

    @property
    def _loop(self) -> ClosedLoop:
        loop = ClosedLoop(
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
        if self.floor and self.request.seeks_latency:
            return FloorLoop.of(loop, self.floor)
        return loop

    def confirm(self, rounds: Sequence[Round]) -> Round:
        """The round to hand out, measured afresh where the machine measures.

        A reference point (reference_points.py) that is better than the best round takes its place.

        Raises:
            MeasurementError: a network could not be timed.
        """
        if not self.machine.verified:
            return rounds[0]
        loop, search = self._loop, self.request.search
        points = References(loop=loop, loss=self.search_loss, floor=self.floor)
        if not search.references:
            return points.or_dense(loop.confirm(rounds))
        if self.repeats:
            return self._compared_before(loop.confirm(rounds))
        # Where no latency has to be held, what a reference point replaces needs no second look.
        confirmed = not self.request.seeks_latency
        found = loop.confirm(rounds) if confirmed else loop.preferred(rounds)[0]
        references = points.measured(ratio=found.judged.ratio)
        final = points.instead_of(found, references.values())
        if final is found and not confirmed:
            found = loop.confirm(rounds)
            final = points.instead_of(found, references.values())
        dense = points.or_dense(final)
        if dense is not final:
            references, final = {**references, DENSE_MODEL: dense}, dense
        if final is not found:  # what was found is one of the others now
            references = {CHOSEN: found, **references}
        self.references = references
        return final

    def _compared_before(self, found: Round) -> Round:
        """What the folder's result handed out, with the points that it was compared with."""
        points = self.earlier.compared if self.earlier else ()
        rounds = {each.name: self.round_of(each) for each in points}
        handed_out = next((each.name for each in points if each.handed_out), CHOSEN)
        if handed_out == CHOSEN:
            rounds.pop(CHOSEN, None)
        self.references = rounds
        return rounds.get(handed_out, found)

    def map_front(self) -> None:
        """Build and measure plans between the fastest of use and the dense one, if asked for."""
        count = self.request.search.front
        if self.repeats and self.earlier:
            self.front = {each.name: self.round_of(each) for each in self.earlier.front}
        elif count and self.machine.verified:
            useful = self._floor(lambda quality: quality.verdict is not QualityVerdict.LOST)
            self.front = front_rounds(self._loop, self.knobs, count=count, useful=useful)

    def round_of(self, point: MeasuredPoint) -> Round:
        """A plan that was measured before, as its record has it; its builds are made if missing."""
        return Round(
            allocation=self.planner.allocation(point.plan, name=point.name),
            network=self.planner.network,
            measured=point.measured,
            builds=self._loop.build(point.plan),
        )

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

    def verdict_with(self, outcome: Round, quality: Quality) -> Verdict:
        """The verdict of what is handed out, which also has to keep the quality floor."""
        floor = self.request.budget.floor()
        if floor and not quality.keeps(floor):
            return Verdict.MISSED
        return self.verdict(outcome)

    def judge(self, outcome: Round) -> Quality:
        """Quality of the dense and the compressed model on held-out data."""
        task, plan = self.model.task, outcome.allocation.plan
        model, heldout = self.model.loaded.model, self.data.heldout

        def compute() -> dict[str, float | None]:
            with self.workspace.stage("judge quality on held-out data") as advance:
                references = task.references(model, heldout)
                advance(1, 2)
                with self.compression.applied(plan), running_in(self.judged_in):
                    found = judged(task, model, batches=heldout, references=references)
            return vars(found)

        key = {**self.compression.plan_key(plan), "data": self.data.sha256}
        if self.judged_in != WEIGHTS:
            key |= {"judged_in": self.judged_in}
        found = Judgement(**self.workspace.value("judgement", key, compute=compute))
        dense = dense_heldout_loss(self.model, self.data, workspace=self.workspace)
        quality = quality_of(task, dense=dense, compressed=found.loss, batches=heldout)
        return replace(quality, neighbour_overlap=found.neighbour_overlap)

    def hand_out(
        self, final: Round, rounds: Sequence[Round], *, answers: bool = True
    ) -> TuneResult:
        """Judge the final round and write its checkpoint, graphs, report and, last, result.json.

        Unless it `answers` the request, as what was found for another one, the same request is
        searched for when it is made again.
        """
        result = hand_out(self, final, rounds=rounds)
        note_request(self.workspace.folder, self.request)
        if answers:
            note_answer(self.workspace.folder, self.key, rounds=rounds)
        if not self.machine.has_measured and is_same(result.record, self.earlier):
            self.workspace.note("this folder already holds this result; nothing was measured")
        return result

    def cost(self) -> Cost:
        """Seconds since the tuning was opened, and its peak memory so far."""
        seconds = time.monotonic() - self.started_s
        return Cost(seconds=seconds, peak_memory_bytes=peak_memory_bytes())
