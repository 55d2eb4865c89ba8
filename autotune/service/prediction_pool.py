"""Predictions in processes of their own: they cannot hold up, or use up, the server."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from autotune.core.child_errors import ChildError, ChildTimeoutError, error_of
from autotune.core.childprocess import ChildProcess, kill_group
from autotune.core.errors import UsageError
from autotune.core.types import Address
from autotune.service.errors import BusyError
from autotune.service.prediction_records import Prediction, Question
from autotune.service.shares import Shares

COMMAND = (sys.executable, "-m", "autotune.service.prediction_worker")
MOST_TOKEN_COUNTS = 8  # a model is fitted for each, which takes a second and 18 MB
MOST_DENSE_LAYERS = 128
_PROCESSES = 2
_LIMIT_S = 120
# A process that has grown beyond this is replaced by a fresh one; one table of a device makes it
# 350 to 420 MB.
_LARGE_BYTES = 600_000_000


@dataclass(eq=False)
class _Asked:
    """A question on its way, and the process that is at work for it."""

    question: Question
    child: ChildProcess | None = None
    given_up: bool = False


class PredictionPool:
    """A few processes that predict; each caller has the use of one at a time.

    Belongs to one event loop. `close` ends the processes, also those that are at work.
    """

    def __init__(
        self, database: Address, *, threads: int | None = None, limit_s: int = _LIMIT_S
    ) -> None:
        self.limit_s = limit_s
        self._start: dict[str, Any] = {"database": str(database), "threads": threads}
        self._shares = Shares(what="predictions", total=32, each=8)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._places = asyncio.Semaphore(_PROCESSES)
        self._threads = anyio.CapacityLimiter(_PROCESSES)
        self._lock = threading.Lock()
        self._idle: list[ChildProcess] = []
        self._busy: set[ChildProcess] = set()
        self._closed = False

    async def answer(self, owner: str, question: Question) -> Prediction:
        """Predict for `owner`, after what the same owner has asked before.

        Cancelled, it ends the process that was at work for it.

        Raises:
            UsageError: too many different layers, or more than can be predicted in time.
            QuotaError: too many predictions are waiting.
            BusyError: the process that predicts has died; another one takes its place.
            AutotuneError: as `Predictions.answer`.
        """
        _check(question)
        asked = _Asked(question)
        with self._shares.hold(owner):
            turn = self._turns[owner]
            try:
                async with turn, self._places:
                    return await anyio.to_thread.run_sync(
                        self._ask, asked, limiter=self._threads, abandon_on_cancel=True
                    )
            except asyncio.CancelledError:
                self._give_up(asked)
                raise
            finally:
                if not self._shares.held[owner] - 1:
                    self._turns.pop(owner, None)

    def close(self) -> None:
        """End all processes; whoever waits for one gets a BusyError."""
        with self._lock:
            self._closed = True
            found = [*self._idle, *self._busy]
            self._idle.clear()
        for child in found:
            child.close()

    def _give_up(self, asked: _Asked) -> None:
        """End the process that works for it; the thread that waits for its answer finds it dead."""
        with self._lock:
            asked.given_up = True
            if asked.child is not None:
                kill_group(asked.child.pid)

    def _ask(self, asked: _Asked) -> Prediction:
        message: dict[str, Any] = {}
        child = self._take(asked)
        try:
            child.send({"question": asked.question.to_json(), "seconds": self.limit_s + 1})
            message = child.receive(self.limit_s)
        except ChildTimeoutError:
            raise UsageError(
                f"the prediction takes longer than {self.limit_s} s; ask for fewer layers at a time"
            ) from None
        except ChildError as error:
            raise BusyError(f"the prediction was interrupted ({error}); ask again") from error
        finally:
            self._put_back(asked, keep=0 < message.get("resident_bytes", 0) < _LARGE_BYTES)
        if "error" in message:
            raise error_of(message["error"])
        return Prediction.from_json(message["answer"])

    def _take(self, asked: _Asked) -> ChildProcess:
        """A process that waits for a question, started if there is none."""
        with self._lock:
            if self._closed:
                raise BusyError("the server is stopping; ask again later")
            if asked.given_up:
                raise BusyError("nobody waits for the prediction")
            fresh = not self._idle
            threads = self._start["threads"] or 1
            child = ChildProcess(COMMAND, threads=threads) if fresh else self._idle.pop()
            self._busy.add(child)
            asked.child = child
        if fresh:
            child.send(self._start)
        return child

    def _put_back(self, asked: _Asked, *, keep: bool) -> None:
        with self._lock:
            child, asked.child = asked.child, None  # from here on it may be at work for another
            assert child is not None
            self._busy.discard(child)
            if keep and not self._closed:
                self._idle.append(child)
                return
        child.close()


def _check(question: Question) -> None:
    """Refuse what would take too long, in seconds that are known before anything is fitted."""
    tokens = {shape.tokens for shape in question.shapes}
    if len(tokens) > MOST_TOKEN_COUNTS:
        raise UsageError(
            f"{len(tokens)} different numbers of tokens in one request; at most "
            f"{MOST_TOKEN_COUNTS} are predicted at a time, so ask several times"
        )
    dense = {(shape.tokens, shape.in_features, shape.out_features) for shape in question.shapes}
    if len(dense) > MOST_DENSE_LAYERS:
        raise UsageError(
            f"{len(dense)} different dense layers in one request; at most {MOST_DENSE_LAYERS} are "
            "predicted at a time, so ask several times"
        )
