"""True losses of plans in processes of their own, for machines with cores to spare.

`Evaluators` hands plans to processes running this module; the model and the factors are read from
disk by each, so what travels is one JSON line a plan: site names and
the spellings of their forms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from autotune.core.forms import Plan, plan_from_json, plan_to_json
from autotune.core.layers import Site
from autotune.core.types import from_mapping
from autotune.search.judges import JudgePool, Losses

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


class JudgingProcess:
    """A process of this module, asked one plan at a time. `log` takes what it says besides.

    `owned` is a folder that it removes when it ends, also after its caller was killed.
    """

    def __init__(
        self, setup: EvaluatorSetup, threads: int, log: IO[str], owned: str | None = None
    ) -> None:
        environment = dict(os.environ) | {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=environment,
        )  # fmt: skip
        self._tell({"setup": setup.to_json(), "threads": threads, "owned": owned})

    def ask(self, plan: Plan) -> Losses | None:
        """The answer, or None when the process has died or speaks of something else."""
        self._tell(plan_to_json(plan))
        assert self.process.stdout is not None
        try:
            answer: Losses = json.loads(self.process.stdout.readline())["losses"]
        except (ValueError, KeyError, TypeError, OSError):
            return None
        return answer

    def _tell(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer says so
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            # A process that died leaves what it was last told in the buffer.
            with contextlib.suppress(BrokenPipeError):
                pipe.close() if pipe else None


class Evaluators(JudgePool):
    """`jobs` processes on this machine, of `threads` threads each."""

    def __init__(self, setup: EvaluatorSetup, jobs: int, threads: int) -> None:
        super().__init__(jobs)
        self._setup, self._threads = setup, threads
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)

    def hire(self) -> JudgingProcess:
        """One more process."""
        return JudgingProcess(self._setup, self._threads, self._log)

    def close(self) -> None:
        """End all processes."""
        super().close()
        self._log.close()


def main() -> None:
    """Judge plans, one JSON line each, until the input ends."""
    # Read before the slow imports: a setup larger than the pipe's buffer holds the caller up.
    values = json.loads(sys.stdin.readline())
    try:
        _judge(values["setup"], values["threads"])
    finally:
        if values["owned"]:
            shutil.rmtree(values["owned"], ignore_errors=True)


def _judge(values: Mapping[str, Any], threads: int) -> None:
    import torch
    from safetensors.torch import load_file

    from autotune.compress.factors import Factors, FactorStore, Stored
    from autotune.compress.loading import load_class
    from autotune.compress.tasks import make_task
    from autotune.search.losses import PlanLosses, SearchSubject

    torch.set_num_threads(threads)
    setup = EvaluatorSetup.from_json(values)
    batches: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(setup.batches).items():
        number, _, name = key.partition(":")
        batches.setdefault(int(number), {})[name] = tensor
    factors: Factors = FactorStore(Path(setup.factors))
    if setup.storage != "fp32":
        factors = Stored(factors, setup.storage)
    folder = Path(setup.model)
    subject = SearchSubject(
        model=load_class(setup.task, folder, torch.float32),
        task=make_task(setup.task, folder),
        sites=setup.sites,
        joint=setup.joint,
        factors=factors,
        batches=[batches[number] for number in sorted(batches)],
    )
    losses = PlanLosses(subject)
    for line in sys.stdin:
        answer = {"losses": losses.losses(plan_from_json(json.loads(line)))}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
