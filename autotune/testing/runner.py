"""Times tasks on simulated hardware, through the same code as on real devices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from autotune.core.forms import Plan
from autotune.core.layers import Site
from autotune.core.types import Fingerprint
from autotune.profiler.measure.points import fingerprint_of
from autotune.profiler.measure.tasks import Outcome, TimingTask
from autotune.profiler.measure.worker import run_task
from autotune.testing.backend import SimulatedBackend, SimulatedFaultError, Timeline
from autotune.testing.disturbance import CALM, Disturbance
from autotune.testing.hardware import Hardware

_START_S = 1.0
_LIMIT_S = 60.0


class SimulatedRunner:
    """A `TaskRunner` on one simulated machine.

    Rounds, windows, convergence and the handling of disturbed windows are those of
    `profiler/measure/timing.py`; only the clock and what a call costs are simulated. Tasks and
    outcomes travel as JSON, as they do to and from a measuring process. The clock goes on from one
    `run` to the next, and every task passes a second of it before it is timed, as a process that
    starts does. One thread at a time may use a runner.
    """

    def __init__(
        self, hardware: Hardware, disturbance: Disturbance = CALM, *, seed: int = 0
    ) -> None:
        self.hardware = hardware
        self.timeline = Timeline(hardware, disturbance, seed=seed)
        self.backend = SimulatedBackend(hardware, self.timeline)
        self.threads = hardware.settings.cores if hardware.settings.kind == "cpu" else 1

    @property
    def now_s(self) -> float:
        """The time on the simulated clock, in seconds."""
        return self.timeline.clock.now_s

    @property
    def tasks_begun(self) -> int:
        """How many tasks were timed or tried so far; the number of the next one."""
        return self.timeline.task + 1

    def fingerprint(self, dtype: str) -> Fingerprint:
        """Under which measurements of this machine are kept."""
        return fingerprint_of(
            self.hardware.settings.present, self.backend, dtype=dtype, threads=self.threads
        )

    def network_latency_s(
        self,
        sites: Sequence[Site],
        plan: Plan,
        *,
        phase: str = "prefill",
        dtype: str | None = None,
    ) -> float:
        """The true seconds of a network, without noise; see `Hardware.network_latency_s`."""
        return self.hardware.network_latency_s(sites, plan, phase=phase, dtype=dtype)

    def run(
        self,
        tasks: Sequence[TimingTask],
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> Iterator[Outcome]:
        """One outcome per task, in order; `progress` gets the used part of a task's time cap."""
        for index, task in enumerate(tasks):
            sent = TimingTask.from_json(json.loads(json.dumps(task.to_json())))
            outcome = self._outcome(index, sent, progress=progress)
            yield Outcome.from_json(json.loads(json.dumps(outcome.to_json())))

    def _outcome(
        self, index: int, task: TimingTask, *, progress: Callable[[float], None]
    ) -> Outcome:
        self.timeline.begin_task(task.policy.max_seconds)
        self.timeline.clock.advance(_START_S)
        try:
            timing, clocks = run_task(
                self.backend,
                task,
                threads=self.threads,
                progress=progress,
                clock=self.timeline.clock,
                watching=self.timeline.watch,
            )
            self.timeline.end_task()
        except SimulatedFaultError as fault:
            return self._failed(index, task, fault=fault)
        except Exception as error:  # any failure of a backend is a result, as in the worker
            return Outcome(index=index, error=f"{type(error).__name__}: {error}")
        return Outcome(index=index, timing=timing, clocks=clocks)

    def _failed(self, index: int, task: TimingTask, *, fault: SimulatedFaultError) -> Outcome:
        if fault.kind == "death":
            ended = "the measuring process ended with signal 9"
            return Outcome(index=index, error=ended, died=True)
        if fault.kind == "hang":
            limit_s = _LIMIT_S + len(task.subjects) * task.policy.max_seconds
            self.timeline.clock.advance(limit_s)
            return Outcome(index=index, error=f"TimeoutError: no result within {limit_s:.0f} s")
        return Outcome(index=index, error=str(fault))
