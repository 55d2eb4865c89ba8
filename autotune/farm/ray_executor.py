"""The executor that runs shards on the workers of a Ray cluster, one at a time per device."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.core.types import Fingerprint
from autotune.devices.specs import find_device
from autotune.farm import worker_calls as remote
from autotune.farm.address import await_listener, split_address
from autotune.farm.answers import (
    AnswerError,
    cut,
    read_abilities,
    read_fingerprint,
    read_outcome,
    read_profile,
    worker_error,
)
from autotune.farm.base import Abilities, Executor, FarmDevice, Shard
from autotune.farm.errors import FarmUnreachableError, WorkerLostError
from autotune.farm.hired import Hired
from autotune.farm.offers import RESOURCE, is_worker, offered_devices
from autotune.farm.parcels import make_parcel, paths_in
from autotune.farm.shard_stream import Limits, received
from autotune.profiler.measure.nodes import SiteProfile
from autotune.profiler.measure.tasks import Outcome
from autotune.search.evaluator import EvaluatorSetup
from autotune.search.judges import JudgePool

_TASKS_PER_SHARD = 8
_ATTEMPTS = 2
_ANSWER_S = 120.0
_PROFILE_S = 600.0
_LOOK_S = 5.0
_LOOKS = 3
_GATHER_S = 15.0


class RayExecutor(Executor):
    """Runs shards on the farm at `address`; a process can use one farm at a time.

    Raises:
        FarmUnreachableError: nothing responds at the address, or it does not accept the token.
    """

    def __init__(self, address: str, token: str) -> None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        import ray  # only now: it reads these two when it is imported
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

        # … and caches the token, which may be that of a farm that this process used before.
        AuthenticationTokenLoader.instance().reset_cache()
        self.ray = ray
        self._running: set[Any] = set()
        self._noted: set[str] = set()
        self._parcels: dict[Path, tuple[str, Any]] = {}
        self._address = split_address(address)
        self.coordinator_gone = False
        await_listener(address)
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise FarmUnreachableError(
                f"no farm responds at {address} ({_first_line(error)}); check the "
                "address and the token, and that `autotune farm` is running there"
            ) from error
        self._gather()

    def _gather(self) -> None:
        """Wait briefly for the first worker: a farm that was just started has none yet."""
        deadline = time.monotonic() + _GATHER_S
        while not self.devices() and time.monotonic() < deadline:
            time.sleep(0.5)

    def devices(self) -> tuple[FarmDevice, ...]:
        """The devices of the workers that are alive."""
        return offered_devices(self.ray.nodes(), self._noted)

    def fingerprint(self, device: str, backend: str, *, dtype: str, threads: int) -> Fingerprint:
        """The fingerprint that a worker with the device reports."""
        name = self.require(device).name
        ask = self._on(name, remote.fingerprint_here).remote(
            name, backend, dtype=dtype, threads=threads
        )
        return read_fingerprint(self._answer(ask), device=name)

    def abilities(
        self, device: str, backend: str, *, dtype: str, forms: Sequence[str]
    ) -> Abilities:
        """What a worker with the device reports."""
        name = self.require(device).name
        ask = self._on(name, remote.abilities_here).remote(
            name, backend, dtype=dtype, forms=list(forms)
        )
        return read_abilities(self._answer(ask), dtype=dtype, forms=forms)

    def _on(self, device: str, function: Any, **options: Any) -> Any:
        """A remote function that occupies the device, in a process that ends with the call."""
        gpus = 1 if find_device(device).kind == "cuda" else 0
        needed: dict[str, float] = {f"{RESOURCE}{device}": 1}
        made: Any = self.ray.remote(
            num_cpus=0, num_gpus=gpus, resources=needed, max_calls=1, max_retries=0
        )(function)
        return made.options(**options) if options else made

    def _answer(self, reference: Any, *, longest_s: float = _ANSWER_S) -> object:
        try:
            return self.ray.get(reference, timeout=longest_s)
        except self.ray.exceptions.RayTaskError as error:
            raise worker_error(error.cause) from None
        except self.ray.exceptions.RayError as error:
            self._cancel(reference)  # one that hangs would keep the device
            raise FarmUnreachableError(f"a worker did not respond: {_first_line(error)}") from error

    def run(self, shard: Shard) -> Iterator[Outcome]:
        """Run a shard in parts, as many at a time as there are devices."""
        device = self.require(shard.device)
        return self._run(shard, device.count)

    def _run(self, shard: Shard, count: int) -> Iterator[Outcome]:
        parts: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
        for start in range(0, len(shard.tasks), _TASKS_PER_SHARD):
            parts.put(range(start, min(start + _TASKS_PER_SHARD, len(shard.tasks))))
        found: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
        stopping = threading.Event()

        def serve() -> None:
            try:
                while not stopping.is_set():
                    for outcome in self._part(shard, parts.get_nowait(), stopping=stopping):
                        found.put(outcome)
            except queue.Empty:
                found.put(None)
            except BaseException as error:  # re-raised by the caller
                found.put(error)

        threads = [threading.Thread(target=serve, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            left = count
            while left:
                try:
                    each = found.get(timeout=_LOOK_S)
                except queue.Empty:
                    self.check_coordinator()
                    continue
                if isinstance(each, BaseException):
                    raise each
                if each is None:
                    left -= 1
                else:
                    yield each
        finally:
            stopping.set()
            self._cancel_all()

    def _part(
        self, shard: Shard, indices: Sequence[int], *, stopping: threading.Event
    ) -> Iterator[Outcome]:
        """Outcomes of some tasks; a task at which the worker died twice fails."""
        left, attempts = list(indices), 0
        while left and not stopping.is_set():
            part = replace(shard, tasks=tuple(shard.tasks[i] for i in left))
            done, why = 0, ""
            try:
                with closing(self._stream(part)) as texts:
                    for text, task in zip(texts, part.tasks, strict=True):
                        outcome = read_outcome(text, task, index=done, device=shard.device)
                        yield replace(outcome, index=left[done])
                        done += 1
            except self.ray.exceptions.RayTaskError as error:
                raise worker_error(error.cause) from None
            except (self.ray.exceptions.RayError, WorkerLostError, AnswerError) as error:
                why = _first_line(error)
            except ValueError:  # of zip
                why = "the worker sent more or fewer answers than there are tasks"
            attempts = 1 if done else attempts + 1
            left = left[done:]
            if left and attempts >= _ATTEMPTS and not stopping.is_set():
                yield Outcome(index=left.pop(0), error=f"WorkerError: {why}")
                attempts = 0
            if left and why and not self._offers(shard.device):
                for index in left:
                    yield Outcome(index=index, error=f"WorkerError: no worker left; {why}")
                return

    def _stream(self, shard: Shard) -> Generator[object]:
        run = self._on(shard.device, remote.run_here, num_returns="streaming")
        sent = self._sent(paths_in(shard.tasks))
        stream = run.remote(remote.shard_text(shard), sent, fetch=self.ray.get)
        self._running.add(stream)
        limits = Limits.of(shard, find_device(shard.device).kind)
        whole = False
        try:
            yield from received(
                self.ray, stream, limits=limits, is_offered=lambda: self._offers(shard.device)
            )
            whole = True
        finally:
            self._running.discard(stream)
            if not whole:
                self._cancel(stream)

    def _offers(self, device: str) -> bool:
        return any(each.name == device for each in self.devices())

    def _sent(self, paths: Sequence[Path]) -> dict[str, tuple[str, Any]]:
        """Every path with its parcel's sha256 and a reference that a worker may fetch.

        References inside a container are not resolved on the way, so a worker that holds a parcel
        is not sent it again.
        """
        for path in paths:
            if path not in self._parcels:
                parcel = make_parcel(path)
                self._parcels[path] = (parcel.sha256, self.ray.put(parcel.contents()))
        return {str(path): self._parcels[path] for path in paths}

    def profile_sites(
        self,
        device: str,
        build: Path,
        *,
        inputs: Path,
        backend: str,
        threads: int,
        sites: Sequence[str],
    ) -> SiteProfile | None:
        """Asked of a worker that has the device."""
        name = self.require(device).name
        text = remote.profile_text(build, inputs, backend=backend, threads=threads, sites=sites)
        ask = self._on(name, remote.profile_here)
        sent = self._sent([build, inputs])
        asked = ask.remote(text, sent, fetch=self.ray.get)
        return read_profile(self._answer(asked, longest_s=_PROFILE_S), sites)

    def judges(self, setup: EvaluatorSetup) -> JudgePool:
        """One judge on every host."""
        from autotune.farm.judging import FarmEvaluators

        return FarmEvaluators(self, setup)

    def share(self, files: dict[str, bytes]) -> Any:
        """Put files into the cluster's object store, so that they are sent only once."""
        return self.ray.put(files)

    @property
    def hosts(self) -> int:
        """The number of workers that are alive."""
        return sum(is_worker(node) for node in self.ray.nodes())

    def hire(self, role: type, *arguments: Any) -> Hired:
        """Create an object of class `role` on some host, with one core reserved for it."""
        made: Any = self.ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(role)
        return Hired(self, made.remote(*arguments))

    def check_coordinator(self) -> None:
        """Fail early if the coordinator is gone: Ray would end this process a minute later.

        Raises:
            FarmUnreachableError: no connection to its address after several attempts.
        """
        for attempt in range(_LOOKS):
            try:
                socket.create_connection(self._address, timeout=_LOOK_S).close()
                # A new coordinator at the same address does not know the tasks of this process.
                # Asking it for its nodes ends this process, which is better than waiting forever.
                self.devices()
                return
            except OSError as error:
                why = error
                time.sleep(attempt)
        self.coordinator_gone = True
        raise FarmUnreachableError(
            f"lost the connection to the farm at {self._address[0]}:{self._address[1]} ({why}); "
            "measurements are kept: restart `autotune farm`, then run the same command again"
        )

    def _cancel(self, reference: Any) -> None:
        """End a call and its process, unless that would wait for a coordinator that is gone."""
        if not self.coordinator_gone:
            self.ray.cancel(reference, force=True)

    def _cancel_all(self) -> None:
        for stream in list(self._running):
            self._cancel(stream)

    def close(self) -> None:
        """Cancel all running tasks and leave the cluster."""
        self._cancel_all()
        if not self.coordinator_gone:
            self.ray.shutdown()


def _first_line(error: BaseException) -> str:
    return cut((str(error).splitlines() or [type(error).__name__])[0])
