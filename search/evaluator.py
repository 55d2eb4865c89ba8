"""True losses of plans in processes of their own, for machines with cores to spare.

`Evaluators` hands plans to processes running this module; the model and the factors are read from
disk by each, so what travels is one JSON line a plan. A process that dies costs nothing: its plan
goes to another one, or back to the caller when none is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from autotune.types import Site, from_mapping

Ranks = Mapping[str, int | None]
Losses = list[list[float]]
_COMMAND = (sys.executable, "-m", "autotune.search.evaluator")


@dataclass(frozen=True, kw_only=True)
class EvaluatorSetup:
    """What a process needs to judge plans: folders and files, not objects.

    `batches` is a safetensors file of `<index>:<input name>` tensors.
    """

    model: str
    task: str
    sites: Sequence[Site]
    joint: Sequence[Site]
    factors: str
    storage: str
    batches: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EvaluatorSetup:
        """Rebuild from `to_json`."""
        lists = {key: _sites(values[key]) for key in ("sites", "joint")}
        return from_mapping(EvaluatorSetup, {**values, **lists})


def _sites(values: Sequence[Mapping[str, Any]]) -> list[Site]:
    tuples = ({**v, "members": tuple(v["members"]), "parts": tuple(v["parts"])} for v in values)
    return [from_mapping(Site, value) for value in tuples]


class Judges(Protocol):
    """Whoever finds the true losses of plans."""

    def losses(self, plans: Sequence[Ranks]) -> Iterator[tuple[int, Losses]]:
        """(index of the plan, its (sum, count) of every batch); some plans may be left out."""


class Evaluators:
    """`jobs` processes, started when first asked; use as a context manager."""

    def __init__(self, setup: EvaluatorSetup, jobs: int, threads: int) -> None:
        self.setup = setup
        self.jobs = jobs
        self.threads = threads
        self._processes: list[subprocess.Popen[str]] = []
        self._log: IO[str] | None = None

    def __enter__(self) -> Evaluators:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                # A process that died leaves what it was last told in the buffer.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close() if pipe else None
        self._processes.clear()
        if self._log is not None:
            self._log.close()

    def losses(self, plans: Sequence[Ranks]) -> Iterator[tuple[int, Losses]]:
        """(index of the plan, its (sum, count) of every batch), in the order they are ready.

        Plans that no living process answered are left out.
        """
        self._start(min(self.jobs, len(plans)))
        waiting, asked = list(range(len(plans))), set[int]()
        changed = threading.Condition()
        answers: queue.SimpleQueue[tuple[int, Losses] | None] = queue.SimpleQueue()

        def take() -> int | None:
            """The next plan; waits while one that is being judged may still come back."""
            with changed:
                changed.wait_for(lambda: waiting or not asked)
                if not waiting:
                    return None
                asked.add(waiting[0])
                return waiting.pop(0)

        def serve(process: subprocess.Popen[str]) -> None:
            while (index := take()) is not None:
                found = _ask(process, plans[index])
                with changed:
                    asked.remove(index)
                    if found is None:
                        waiting.append(index)
                    changed.notify_all()
                if found is None:
                    break
                answers.put((index, found))
            answers.put(None)

        servers = [
            threading.Thread(target=serve, args=(process,), daemon=True)
            for process in self._processes
        ]
        for server in servers:
            server.start()
        ended = 0
        while ended < len(servers):
            answer = answers.get()
            if answer is None:
                ended += 1
            else:
                yield answer

    def _start(self, wanted: int) -> None:
        self._processes = [process for process in self._processes if process.poll() is None]
        self._log = self._log or tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed on exit)
        environment = dict(os.environ) | {"OMP_NUM_THREADS": str(self.threads)}
        for _ in range(wanted - len(self._processes)):
            process = subprocess.Popen(
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                text=True, env=environment,
            )  # fmt: skip
            self._processes.append(process)
            _tell(process, {**self.setup.to_json(), "threads": self.threads})


def _tell(process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the missing answer says so
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


def _ask(process: subprocess.Popen[str], ranks: Ranks) -> Losses | None:
    """The answer, or None when the process has died or speaks of something else."""
    _tell(process, dict(ranks))
    assert process.stdout is not None
    try:
        answer: Losses = json.loads(process.stdout.readline())["losses"]
    except (ValueError, KeyError, TypeError, OSError):
        return None
    return answer


def main() -> None:
    """Judge plans, one JSON line each, until the input ends."""
    # Read before the slow imports: a setup larger than the pipe's buffer holds the caller up.
    values = json.loads(sys.stdin.readline())
    import torch
    from safetensors.torch import load_file

    from autotune.compress.factors import Factors, FactorStore, Stored
    from autotune.compress.loading import load_class
    from autotune.compress.tasks import make_task
    from autotune.search.evidence import Evidence

    torch.set_num_threads(values.pop("threads"))
    setup = EvaluatorSetup.from_json(values)
    batches: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(setup.batches).items():
        number, _, name = key.partition(":")
        batches.setdefault(int(number), {})[name] = tensor
    factors: Factors = FactorStore(Path(setup.factors))
    if setup.storage != "fp32":
        factors = Stored(factors, setup.storage)
    folder = Path(setup.model)
    evidence = Evidence(
        load_class(setup.task, folder, torch.float32), make_task(setup.task, folder), setup.sites,
        factors, [batches[number] for number in sorted(batches)], joint=setup.joint,
    )  # fmt: skip
    for line in sys.stdin:
        sys.stdout.write(json.dumps({"losses": evidence.losses(json.loads(line))}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
