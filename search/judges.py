"""A pool of whoever judges plans: processes here, or workers of a farm.

A judge that dies costs nothing: its plan goes to another one, or back to the caller when none is
left.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

Ranks = Mapping[str, int | None]
Losses = list[list[float]]
# A judge that died since it was last asked is replaced; a second one that fails tells of a cause.
_ATTEMPTS = 2


class Judge(Protocol):
    """One of them, asked by one thread at a time."""

    def ask(self, ranks: Ranks) -> Losses | None:
        """The plan's (sum, count) of every batch; None when the judge is not there any more."""

    def close(self) -> None:
        """End it."""


class JudgePool(ABC):
    """`places` judges, hired when first needed. Use as a context manager.

    Several threads may ask at once: each waits for judges that are free.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._idle: list[Judge] = []
        self._hired = 0
        self._changed = threading.Condition()

    @abstractmethod
    def hire(self) -> Judge:
        """One more judge."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End those that are free; nobody may be asking."""
        while self._idle:
            self._idle.pop().close()

    def losses(self, plans: Sequence[Ranks]) -> Iterator[tuple[int, Losses]]:
        """(index of the plan, its (sum, count) of every batch), in the order they are ready.

        Plans that no living judge answered are left out.
        """
        work = _Work(len(plans))
        answers: queue.SimpleQueue[tuple[int, Losses] | BaseException | None] = queue.SimpleQueue()

        def serve() -> None:
            try:
                for _ in range(_ATTEMPTS):
                    if self._serve(plans, work, answers):
                        break
                answers.put(None)
            except BaseException as error:  # told to whoever waits
                answers.put(error)

        left = min(self.places, len(plans))
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
        self, plans: Sequence[Ranks], work: _Work,
        answers: queue.SimpleQueue[tuple[int, Losses] | BaseException | None],
    ) -> bool:  # fmt: skip
        """Let one judge answer until nothing is left; whether it lived to see that."""
        judge = self._take()
        living = False
        try:
            for index in work:
                found = judge.ask(plans[index])
                work.done(index, again=found is None)
                if found is None:
                    return False
                answers.put((index, found))
            living = True
        finally:
            self._give_back(judge, living)
        return True

    def _take(self) -> Judge:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._hired < self.places)
            if self._idle:
                return self._idle.pop()
            self._hired += 1
        try:
            return self.hire()
        except BaseException:
            self._left()
            raise

    def _give_back(self, judge: Judge, living: bool) -> None:
        if not living:
            judge.close()
            self._left()
            return
        with self._changed:
            self._idle.append(judge)
            self._changed.notify()

    def _left(self) -> None:
        with self._changed:
            self._hired -= 1
            self._changed.notify()


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
