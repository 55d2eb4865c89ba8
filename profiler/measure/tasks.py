"""What one measurement compares, as records that travel to the measuring process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autotune.core.forms import Form
from autotune.core.layers import LayerShape
from autotune.core.types import from_mapping
from autotune.devices.health import ClockReading
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy

# What the error of a task began with whose process died, before `Outcome.died` was a field.
_DIED = "ProcessError"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One alternative: a layer of some shape, or a whole model with its inputs.

    `streams` of a network run at the same time, each on its share of the threads.
    """

    layer: LayerShape | None = None
    network: str | None = None
    inputs: str | None = None
    streams: int = 1


@dataclass(frozen=True, kw_only=True)
class TimingTask:
    """Alternatives timed against each other; the first is the reference."""

    subjects: tuple[Subject, ...]
    policy: TimingPolicy

    def to_json(self) -> dict[str, Any]:
        """The task as plain JSON, for the measuring process."""
        subjects = []
        for each in self.subjects:
            entry = {**vars(each), "layer": each.layer and each.layer.to_json()}
            if each.streams == 1:  # unknown to older peers
                del entry["streams"]
            subjects.append(entry)
        policy = dataclasses.asdict(self.policy)
        if not self.policy.energy_seconds:  # unknown to older peers
            del policy["energy_seconds"]
        return {"subjects": subjects, "policy": policy}

    @staticmethod
    def from_json(values: dict[str, Any]) -> TimingTask:
        """The task that `to_json` wrote."""
        subjects = []
        for entry in values["subjects"]:
            layer = entry["layer"]
            shape = None if layer is None else LayerShape.from_json(layer)
            known = {key: value for key, value in entry.items() if key != "loader"}  # older peers
            subjects.append(from_mapping(Subject, {**known, "layer": shape}))
        return TimingTask(
            subjects=tuple(subjects), policy=from_mapping(TimingPolicy, values["policy"])
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one task: a timing and the clocks around it, or the error that prevented it.

    `died`: the measuring process ended while it was at the task. That says nothing of the task
    itself, so it may be tried again.
    """

    index: int
    timing: PairedTiming | None = None
    clocks: tuple[ClockReading, ...] = ()
    error: str | None = None
    died: bool = False

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain JSON, for the process that asked."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Outcome:
        """Rebuild from `to_json`, or from the message of a measuring process.

        A message of an older version has no `died`; there the error's first word carries it.
        """
        timing = values.get("timing")
        if timing is None:
            error = values["error"]
            died = values.get("died", error.startswith(f"{_DIED}:"))
            return Outcome(index=values["index"], error=error, died=died)
        lists = {key: _tuples(value) for key, value in timing.items()}
        clocks = tuple(from_mapping(ClockReading, each) for each in values.get("clocks", ()))
        return Outcome(
            index=values["index"], timing=from_mapping(PairedTiming, lists), clocks=clocks
        )


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at every depth."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


class TaskRunner(Protocol):
    """Times tasks somewhere: exactly one outcome a task, with its index, as each is known.

    A task that fails is an outcome with its error. Closing the iterator ends what runs; the runner
    may be used again. One thread at a time (`autotune.testing.suites.task_runner` checks it).
    """

    def run(
        self, tasks: Sequence[TimingTask], progress: Callable[[float], None] = lambda fraction: None
    ) -> Iterator[Outcome]:
        """Outcomes as they come; `progress` takes the used share of the present task's time."""


def layer_task(dense: LayerShape, forms: Iterable[Form], *, policy: TimingPolicy) -> TimingTask:
    """The dense layer against the same layer in each of `forms`."""
    shapes = [dense, *(dense.with_form(form) for form in forms)]
    return TimingTask(subjects=tuple(Subject(layer=s) for s in shapes), policy=policy)
