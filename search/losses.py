"""True losses of plans on the search batches: each is judged once, here or by a pool of judges."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autotune.compress.factors import Factors, build_layers
from autotune.compress.inference import WEIGHTS, running_in
from autotune.compress.lowrank import replaced
from autotune.compress.tasks.base import Batch, Task
from autotune.core.forms import Plan, plan_to_json
from autotune.core.layers import Site
from autotune.core.progress import Advance, no_progress
from autotune.core.types import digest
from autotune.search.judges import JudgePool, Losses


@dataclass(frozen=True, kw_only=True)
class SearchSubject:
    """The model that plans are tried on: its sites, their factors and the batches to look at.

    `joint` are the joint sites that a plan may factorize. `batches` are never held-out data.
    `dtype` is what the network under a plan is run in; the dense reference is run in fp32.
    """

    model: nn.Module
    task: Task
    sites: Sequence[Site]
    factors: Factors
    batches: Sequence[Batch]
    joint: Sequence[Site] = ()
    dtype: str = WEIGHTS

    @property
    def candidates(self) -> tuple[Site, ...]:
        """Sites, then joint sites: everything that a plan may give a form."""
        return (*self.sites, *self.joint)

    @contextmanager
    def applied(self, plan: Plan) -> Iterator[None]:
        """The model under `plan`; dense again afterwards."""
        layers = build_layers(self.model, self.candidates, factors=self.factors, plan=plan)
        with replaced(self.model, layers), running_in(self.dtype):
            yield


class PlanLosses:
    """Losses of plans, kept in a journal so that a killed search judges none of them twice.

    The journal lies in `folder` (None keeps losses in memory only), under a name that depends on
    `key`: a hash of what the model, its factors and the batches were made from. A line of it counts
    only with its own sha256; `note` reports damaged lines, whose plans are judged again. `judges`
    is where several plans can be judged at the same time.
    """

    def __init__(
        self,
        subject: SearchSubject,
        *,
        folder: Path | None = None,
        key: str = "",
        judges: JudgePool | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.subject = subject
        self.judges = judges
        self.note = note
        self._journal = folder / f"losses-{key[:16]}.jsonl" if folder else None
        self._losses, damaged = _read_journal(self._journal)
        if damaged:
            note(f"{self._journal}: {damaged} lines are damaged; their plans are judged again")
        self._alone = threading.Lock()

    @property
    def places(self) -> int:
        """How many plans can be judged at the same time."""
        return max(1, self.judges.places) if self.judges else 1

    def true_loss(self, plan: Plan) -> float:
        """Mean loss of the compressed model over the search batches."""
        sums, counts = zip(*self.losses(plan), strict=True)
        return float(sum(sums) / max(sum(counts), 1))

    @property
    def scale(self) -> float:
        """The unit of the mean loss in the task's quality figure."""
        return self.subject.task.scale(self._references, self.subject.batches)

    def losses(self, plan: Plan) -> Losses:
        """(summed loss, number of items) of each search batch, in order; judged if unknown."""
        name = plan_key(plan)
        if name not in self._losses:
            self.judge([plan])
        return self._losses[name]

    def judge(
        self,
        plans: Sequence[Plan],
        progress: Advance = no_progress,
        *,
        least: int = 2,
    ) -> None:
        """Find the losses of all `plans`, with the pool of judges where there is one.

        Fewer than `least` plans are judged in this process, with all its threads.
        """
        missing = {name: p for p in plans if (name := plan_key(p)) not in self._losses}
        names, total = list(missing), len(missing)
        done = 0
        progress(done, total)
        if self.judges is not None and total >= least:
            for index, losses in self.judges.losses(list(missing.values())):
                self._note(names[index], losses)
                done += 1
                progress(done, total)
        for name, plan in missing.items():
            if name not in self._losses:
                self._note(name, self._judge_here(plan))
                done += 1
                progress(done, total)

    def surely_better(self, plan: Plan, other: Plan) -> bool:
        """Whether `plan` loses less, by more than the standard error of the batches' differences.

        A search that takes the least of many noisy losses would otherwise select noise.
        """
        rises, weights = self._rises(plan, other)
        return -float(weights @ rises) > _standard_error(rises, weights)

    def highest_rise(self, plan: Plan, *, errors: float = 1.64) -> float:
        """What the mean loss of a plan may be above that of no plan at most, 95 times of 100.

        Other data of the same kind rise by the mean over the batches, give or take its standard
        error.
        """
        rises, weights = self._rises(plan, {})
        rise = float(weights @ rises)
        return rise + errors * _standard_error(rises, weights)

    def _rises(self, plan: Plan, other: Plan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """By how much the mean loss of each batch is above that under `other`, and its weight."""
        pairs = np.array(self.losses(plan)), np.array(self.losses(other))
        weights = pairs[0][:, 1] / pairs[0][:, 1].sum()
        return (pairs[0][:, 0] - pairs[1][:, 0]) / np.maximum(pairs[0][:, 1], 1), weights

    @functools.cached_property
    def _references(self) -> list[Tensor | None]:
        return self.subject.task.references(self.subject.model, self.subject.batches)

    def _judge_here(self, plan: Plan) -> Losses:
        subject = self.subject
        with self._alone:  # while a plan is applied, the model is not the dense one
            references = self._references
            with subject.applied(plan):
                found = subject.task.losses(subject.model, subject.batches, references=references)
        return [list(pair) for pair in found]

    def _note(self, name: str, losses: Losses) -> None:
        self._losses[name] = losses
        if self._journal:
            # The line break in front ends a line that a kill has torn.
            with self._journal.open("a") as file:
                file.write("\n" + json.dumps(_entry(name, losses)) + "\n")


def _standard_error(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Of the weighted mean of several values; 0 of a single one."""
    spread = float(np.sqrt(weights**2 @ (values - weights @ values) ** 2))
    return spread * math.sqrt(len(values) / max(len(values) - 1, 1))


def plan_key(plan: Plan) -> str:
    """A short hash of a plan; sites that are dense and unchanged do not count."""
    changed = {name: form for name, form in plan.items() if not form.is_unchanged}
    return digest(plan_to_json(changed))[:32]


def _entry(name: str, losses: Losses) -> dict[str, Any]:
    """A line of the journal, which can tell that it is whole."""
    losses = [[float(total), int(count)] for total, count in losses]
    text = json.dumps([name, losses])
    return {"plan": name, "losses": losses, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _read_journal(path: Path | None) -> tuple[dict[str, Losses], int]:
    """What an earlier process judged, and the number of lines that are damaged or were torn."""
    found: dict[str, Losses] = {}
    damaged = 0
    lines = path.read_bytes().splitlines() if path and path.is_file() else []
    for line in filter(None, lines):
        try:
            entry = json.loads(line)
            whole = entry == _entry(entry["plan"], entry["losses"])
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if whole:
            found[entry["plan"]] = entry["losses"]
        else:
            damaged += 1
    return found, damaged
