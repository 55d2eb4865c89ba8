"""The executor that runs shards on the workers of a Ray cluster, one at a time per device."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.core.types import Fingerprint
from autotune.devices.specs import find_device
from autotune.farm import worker_calls as remote
from autotune.farm.address import split_address
from autotune.farm.base import Executor, FarmDevice, Shard
from autotune.farm.errors import FarmUnreachableError
from autotune.farm.hired import Hired
from autotune.farm.parcels import make_parcel, paths_in
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
RESOURCE = "device:"
_LOG = logging.getLogger(__name__)


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
        self._ray = ray
        self._running: set[Any] = set()
        self._parcels: dict[Path, tuple[str, Any]] = {}
        self._address = split_address(address)
        self._coordinator_gone = False
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise FarmUnreachableError(
                f"no farm responds at {address} ({str(error).splitlines()[0][:200]}); check the "
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
        counts: dict[str, int] = {}
        for node in filter(_has_device, self._ray.nodes()):
            for resource, count in node["Resources"].items():
                if resource.startswith(RESOURCE):
                    name = resource.removeprefix(RESOURCE)
                    counts[name] = counts.get(name, 0) + int(count)
        return tuple(
            FarmDevice(name=name, reported_name=find_device(name).title, count=count)
            for name, count in sorted(counts.items())
        )

    def fingerprint(self, device: str, backend: str, *, dtype: str, threads: int) -> Fingerprint:
        """The fingerprint that a worker with the device reports."""
        name = self.require(device).name
        ask = self._on(name, remote.fingerprint_here).remote(
            name, backend, dtype=dtype, threads=threads
        )
        return remote.read_fingerprint(self._answer(ask))

    def _on(self, device: str, function: Any, **options: Any) -> Any:
        """A remote function that occupies the device, in a process that ends with the call."""
        gpus = 1 if find_device(device).kind == "cuda" else 0
        needed: dict[str, float] = {f"{RESOURCE}{device}": 1}
        made: Any = self._ray.remote(
            num_cpus=0, num_gpus=gpus, resources=needed, max_calls=1, max_retries=0
        )(function)
        return made.options(**options) if options else made

    def _answer(self, reference: Any, longest_s: float = _ANSWER_S) -> str:
        try:
            return str(self._ray.get(reference, timeout=longest_s))
        except self._ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None  # ours, as the worker raised it
        except self._ray.exceptions.RayError as error:
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
                    self._check_coordinator()
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
                for text in self._stream(part):
                    outcome = remote.read_outcome(text)
                    yield replace(outcome, index=left[outcome.index])
                    done += 1
            except self._ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except self._ray.exceptions.RayError as error:
                why = _first_line(error)
            attempts = 1 if done else attempts + 1
            left = left[done:]
            if left and attempts >= _ATTEMPTS and not stopping.is_set():
                yield Outcome(index=left.pop(0), error=f"WorkerError: {why}")
                attempts = 0
            if left and why and not any(d.name == shard.device for d in self.devices()):
                for index in left:
                    yield Outcome(index=index, error=f"WorkerError: no worker left; {why}")
                return

    def _stream(self, shard: Shard) -> Iterator[str]:
        run = self._on(shard.device, remote.run_here, num_returns="streaming")
        sent = self._sent(paths_in(shard.tasks))
        stream = run.remote(remote.shard_text(shard), sent, fetch=self._ray.get)
        self._running.add(stream)
        try:
            for reference in stream:
                yield str(self._ray.get(reference))
        finally:
            self._running.discard(stream)

    def _sent(self, paths: Sequence[Path]) -> dict[str, tuple[str, Any]]:
        """Every path with its parcel's sha256 and a reference that a worker may fetch.

        References inside a container are not resolved on the way, so a worker that holds a parcel
        is not sent it again.
        """
        for path in paths:
            if path not in self._parcels:
                parcel = make_parcel(path)
                self._parcels[path] = (parcel.sha256, self._ray.put(parcel.contents()))
        return {str(path): self._parcels[path] for path in paths}

    def profile_sites(
        self, device: str, build: Path, *, inputs: Path, threads: int, sites: Sequence[str]
    ) -> SiteProfile:
        """Asked of a worker that has the device."""
        name = self.require(device).name
        text = remote.profile_text(build, inputs, threads=threads, sites=sites)
        ask = self._on(name, remote.profile_here)
        sent = self._sent([build, inputs])
        return remote.read_profile(
            self._answer(ask.remote(text, sent, fetch=self._ray.get), _PROFILE_S)
        )

    def judges(self, setup: EvaluatorSetup) -> JudgePool:
        """One judge on every host."""
        from autotune.farm.judging import FarmEvaluators

        return FarmEvaluators(self, setup)

    def share(self, files: dict[str, bytes]) -> Any:
        """Put files into the cluster's object store, so that they are sent only once."""
        return self._ray.put(files)

    @property
    def hosts(self) -> int:
        """The number of workers that are alive."""
        return sum(_has_device(node) for node in self._ray.nodes())

    def hire(self, role: type, *arguments: Any) -> Hired:
        """Create an object of class `role` on some host, with one core reserved for it."""
        made: Any = self._ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(role)
        return Hired(self, made.remote(*arguments))

    def wait(self, reference: Any, longest_s: float | None = None) -> Any:
        """The result of a remote call; None if the worker died or `longest_s` seconds passed.

        Raises:
            FarmUnreachableError: the coordinator stopped responding.
        """
        waited = 0.0
        while longest_s is None or waited < longest_s:
            try:
                return self._ray.get(reference, timeout=_LOOK_S)
            except self._ray.exceptions.GetTimeoutError:
                waited += _LOOK_S
                self._check_coordinator()
            except self._ray.exceptions.RayError as error:
                _LOG.warning("a worker died before it judged its plans: %s", _first_line(error))
                return None
        _LOG.warning("no worker had a free core within %.0f s", waited)
        return None

    def dismiss(self, actor: Any, living: bool) -> None:
        """Close an object, if it is `living`, and end its process."""
        if self._coordinator_gone:
            return
        if living:
            with suppress(self._ray.exceptions.RayError):
                self._ray.get(actor.close.remote(), timeout=_LOOK_S)
        self._ray.kill(actor)

    def _check_coordinator(self) -> None:
        """Fail early if the coordinator is gone: Ray would end this process a minute later."""
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
        self._coordinator_gone = True
        raise FarmUnreachableError(
            f"lost the connection to the farm at {self._address[0]}:{self._address[1]} ({why}); "
            "measurements are kept: restart `autotune farm`, then run the same command again"
        )

    def _cancel_all(self) -> None:
        if self._coordinator_gone:
            return  # it would wait for the coordinator
        for stream in list(self._running):
            self._ray.cancel(stream, force=True)

    def close(self) -> None:
        """Cancel all running tasks and leave the cluster."""
        self._cancel_all()
        if not self._coordinator_gone:
            self._ray.shutdown()


def _has_device(node: Mapping[str, Any]) -> bool:
    """Whether a node of the cluster is a worker that is alive."""
    return bool(node["Alive"]) and any(name.startswith(RESOURCE) for name in node["Resources"])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:500]
