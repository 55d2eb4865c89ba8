"""True losses of plans in processes of their own, for machines with cores to spare.

`Evaluators` hands plans to processes running this module; the model and the factors are read from
disk by each, so what travels is one JSON line a plan: site names and
the spellings of their forms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.child_errors import ChildError, ChildTimeoutError
from autotune.core.childprocess import ChildProcess
from autotune.core.forms import Plan, plan_from_json, plan_to_json
from autotune.core.layers import Site
from autotune.core.types import from_mapping
from autotune.search.judges import JudgePool, Losses

_COMMAND = (sys.executable, "-m", "autotune.search.evaluator")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluatorSetup:
    """What a process needs to judge plans: folders and files, not objects.

    `batches` is a safetensors file of `<index>:<input name>` tensors, `dtype` the one that networks
    are run in.
    """

    model: str
    task: str
    sites: Sequence[Site]
    joint: Sequence[Site]
    factors: str
    storage: str
    batches: str
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """The set-up as plain JSON, for the judging process."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EvaluatorSetup:
        """The set-up that `to_json` wrote."""
        lists = {key: _sites(values[key]) for key in ("sites", "joint")}
        return from_mapping(EvaluatorSetup, {**values, **lists})


def _sites(values: Sequence[Mapping[str, Any]]) -> list[Site]:
    tuples = ({**v, "members": tuple(v["members"]), "parts": tuple(v["parts"])} for v in values)
    return [from_mapping(Site, value) for value in tuples]


class JudgingProcess:
    """A process of this module, which judges one plan at a time.

    `owned` is a folder that the process removes when it ends, also after its caller was killed.
    """

    def __init__(self, setup: EvaluatorSetup, threads: int, *, owned: str | None = None) -> None:
        self._child = ChildProcess(_COMMAND, threads=threads)
        self._send({"setup": setup.to_json(), "threads": threads, "owned": owned})

    def ask(self, plan: Plan) -> Losses | None:
        """The plan's (sum, count) of every batch; None when the process died or sends no losses."""
        self._send(plan_to_json(plan))
        try:
            losses: Losses | None = self._child.receive().get("losses")
        except ChildError as error:
            _LOG.warning("a process that judges plans was lost: %s", error)
            return None
        return losses

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(ChildTimeoutError):  # the missing answer shows it
            self._child.send(message)

    def close(self) -> None:
        """End the child process that judges plans."""
        self._child.close()


class Evaluators(JudgePool):
    """`jobs` processes on this machine, of `threads` threads each."""

    def __init__(self, setup: EvaluatorSetup, jobs: int, *, threads: int) -> None:
        super().__init__(jobs)
        self._setup, self._threads = setup, threads

    def hire(self) -> JudgingProcess:
        """Start one more judging process on this machine."""
        return JudgingProcess(self._setup, self._threads)


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
        model=load_class(setup.task, folder, dtype=torch.float32),
        task=make_task(setup.task, folder),
        sites=setup.sites,
        joint=setup.joint,
        factors=factors,
        batches=[batches[number] for number in sorted(batches)],
        dtype=setup.dtype,
    )
    losses = PlanLosses(subject)
    for line in sys.stdin:
        answer = {"losses": losses.losses(plan_from_json(json.loads(line)))}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
