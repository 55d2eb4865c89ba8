"""A pool of whoever judges plans: processes here, or workers of a farm.

A judge that dies costs nothing: its plan goes to another one, or back to the caller when none is
left.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol, Self

from autotune.core.forms import Plan
from autotune.core.progress import Advance

Losses = list[list[float]]
# A judge that died since it was last asked is replaced, in the same call.
_ATTEMPTS = 2


class Judge(Protocol):
    """Computes the losses of plans; one thread asks at a time, and any thread may close it."""

    def ask(self, plan: Plan) -> Losses | None:
        """The plan's (sum, count) of every batch; None when the judge died or was closed.

        An error that is no death of the judge is raised, and reaches whoever asked the pool.
        """

    def close(self) -> None:
        """Release the judge and whatever runs it; it may be called again."""


class PlanJudge(Protocol):
    """What a pass over many plans asks about them (`search.losses.PlanLosses`)."""

    def true_loss(self, plan: Plan) -> float:
        """Mean loss of the compressed model."""

    def judge(self, plans: Sequence[Plan], progress: Advance) -> None:
        """Find the losses of many plans at once."""

    def surely_better(self, plan: Plan, other: Plan) -> bool:
        """Whether a loss is lower than another by more than its noise."""


class JudgePool(ABC):
    """`places` judges, hired when first needed. Use as a context manager.

    Contract (`autotune.testing.suites.judge_pool` checks it):
    - Every plan has at most one answer. The plan of a judge that dies goes to another one; it has
      no answer only when no judge is left, and the caller then judges it.
    - Several threads may ask at once: each waits for judges that are free. There are never more
      judges than `places`, and the pool closes those that it hired.
    - A judge that dies without one answer takes its place along, so that nobody waits for such
      again and again.
    - `hire` may be called by several threads at once. What it raises reaches whoever asked.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._idle: list[Judge] = []
        self._hired: set[Judge] = set()
        self._proven: set[Judge] = set()
        self._hiring = 0
        self._closed = False
        self._changed = threading.Condition()

    @abstractmethod
    def hire(self) -> Judge:
        """Start one more judge; called when all others are busy and a place is free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End them all; whoever still asks gets no answer."""
        with self._changed:
            self._closed = True
            judges = list(self._hired)
            self._changed.notify_all()
        for judge in judges:
            judge.close()

    def losses(self, plans: Sequence[Plan]) -> Iterator[tuple[int, Losses]]:
        """(index of the plan, its (sum, count) of every batch), in the order they are ready.

        Plans that no living judge answered are left out.
        """
        work = _Work(len(plans))
        answers: queue.SimpleQueue[tuple[int, Losses] | BaseException | None] = queue.SimpleQueue()

        def serve() -> None:
            try:
                for _ in range(_ATTEMPTS):
                    judge = self._take()
                    if judge is None or self._serve(judge, plans, work=work, answers=answers):
                        break
                answers.put(None)
            except BaseException as error:  # told to whoever waits
                answers.put(error)

        left = max(min(self.places, len(plans)), 0)
        for _ in range(left):
            threading.Thread(target=serve, daemon=True).start()
        while left:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                left -= 1
            else:
                yield answer

    def _serve(
        self,
        judge: Judge,
        plans: Sequence[Plan],
        *,
        work: _Work,
        answers: queue.SimpleQueue[tuple[int, Losses] | BaseException | None],
    ) -> bool:
        """Let a judge answer until nothing is left; whether it lived to see that."""
        living = False
        try:
            for index in work:
                found = None
                try:
                    found = judge.ask(plans[index])
                finally:
                    work.done(index, again=found is None)
                if found is None:
                    return False
                self._proven.add(judge)
                answers.put((index, found))
            living = True
        finally:
            self._give_back(judge, living)
        return True

    def _take(self) -> Judge | None:
        """A free judge, or a new one; None when there is no place for any."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._has_place or self._is_over)
            if self._is_over:
                return None
            if self._idle:
                return self._idle.pop()
            self._hiring += 1
        judge = None
        try:
            judge = self.hire()
        finally:
            with self._changed:
                self._hiring -= 1
                if judge is not None:
                    self._hired.add(judge)
                self._changed.notify_all()
        if self._closed:
            judge.close()
        return judge

    @property
    def _has_place(self) -> bool:
        return len(self._hired) + self._hiring < self.places

    @property
    def _is_over(self) -> bool:
        return self._closed or (self.places <= 0 and not self._idle)

    def _give_back(self, judge: Judge, living: bool) -> None:
        with self._changed:
            if self._closed:
                return
            if living:
                self._idle.append(judge)
            else:
                self._hired.discard(judge)
                self.places -= judge not in self._proven
            self._changed.notify_all()
        if not living:
            judge.close()


class _Work:
    """Numbers below `count`, each given to one thread at a time until it is done."""

    def __init__(self, count: int) -> None:
        self._waiting, self._asked = list(range(count)), set[int]()
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        """The next one; waits while one that is being done may still come back."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._asked)
            if not self._waiting:
                raise StopIteration
            self._asked.add(self._waiting[0])
            return self._waiting.pop(0)

    def done(self, number: int, *, again: bool) -> None:
        """It is done, or somebody else has to do it `again`."""
        with self._changed:
            self._asked.remove(number)
            if again:
                self._waiting.append(number)
            self._changed.notify_all()
