"""Judge plans on the workers of a farm; model, factors and batches are sent to them once."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.forms import Plan, plan_from_json, plan_to_json
from autotune.devices.detect import default_threads
from autotune.farm.answers import AnswerError, read_losses
from autotune.search.evaluator import EvaluatorSetup, JudgingProcess
from autotune.search.judges import JudgePool, Losses

if TYPE_CHECKING:
    from autotune.farm.hired import Hired
    from autotune.farm.ray_executor import RayExecutor

_FOLDERS = ("model",)
_FILES = ("factors", "batches")
_PREFIX = "autotune-judge-"
_LOG = logging.getLogger(__name__)


class FarmEvaluators(JudgePool):
    """A pool of judges like `Evaluators`, with one on every host of a farm.

    Plans of a host that has no free core, or that dies, are judged by the other hosts and by the
    caller, who judges all of them if no host has joined.
    """

    def __init__(self, executor: RayExecutor, setup: EvaluatorSetup) -> None:
        super().__init__(executor.hosts)
        self._executor, self._setup = executor, setup
        self._files: object = None

    def hire(self) -> FarmJudge:
        """Start a judge on one more host; the files are sent to the farm once."""
        if self._files is None:
            self._files = self._executor.share(pack(self._setup))
        setup = json.dumps(self._setup.to_json())
        return FarmJudge(self._executor.hire(HostJudge, setup, self._files))


class FarmJudge:
    """The client side of a judge that runs on a worker's host."""

    def __init__(self, hired: Hired) -> None:
        self._hired = hired

    def ask(self, plan: Plan) -> Losses | None:
        """The losses of a plan, one for each batch; None if the worker died or sent none."""
        answer = self._hired.ask(json.dumps(plan_to_json(plan)))
        if answer is None:
            return None
        try:
            return read_losses(answer)
        except AnswerError as error:
            _LOG.warning("a judge of the farm is dismissed: %s", error)
            return None

    def close(self) -> None:
        """End the judge and release its worker."""
        self._hired.close()


class HostJudge:
    """The worker side of a judge: a process that judges plans until it is closed."""

    def __init__(self, setup: str, files: Mapping[str, bytes]) -> None:
        sweep()
        self._folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        found = EvaluatorSetup.from_json(json.loads(setup))
        here = unpack(found, files, folder=Path(self._folder))
        # Workers are killed without notice; the process outlives them for long enough to tidy up.
        self._process = JudgingProcess(here, default_threads(), owned=self._folder)

    def ask(self, text: str) -> str | None:
        """The losses of a plan, as JSON text; None if the process died."""
        found = self._process.ask(plan_from_json(json.loads(text)))
        return None if found is None else json.dumps(found)

    def close(self) -> None:
        """End the process and remove its files."""
        self._process.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of judges that were killed before they could tidy up."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(path, ignore_errors=True)


def pack(setup: EvaluatorSetup) -> dict[str, bytes]:
    """The contents of the files that a setup names, by relative path."""
    found = {}
    for name in _FOLDERS:
        root = Path(getattr(setup, name))
        for path in sorted(root.rglob("*")):
            if path.is_file():
                found[f"{name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return found | {name: Path(getattr(setup, name)).read_bytes() for name in _FILES}


def unpack(setup: EvaluatorSetup, files: Mapping[str, bytes], *, folder: Path) -> EvaluatorSetup:
    """Write the files below `folder`; returns the setup with the new paths."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return dataclasses.replace(
        setup,
        model=str(folder / "model"),
        factors=str(folder / "factors"),
        batches=str(folder / "batches"),
    )
