"""True losses of plans, judged by the workers of a farm; what they need travels to them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core.forms import Plan, plan_from_json, plan_to_json
from autotune.devices.detect import cpu_threads
from autotune.search.evaluator import EvaluatorSetup, JudgingProcess
from autotune.search.judges import JudgePool, Losses

if TYPE_CHECKING:
    from autotune.farm.ray_executor import Hired, RayExecutor

_FOLDERS = ("model",)
_FILES = ("factors", "batches")
_PREFIX = "autotune-judge-"


class FarmEvaluators(JudgePool):
    """As `Evaluators`, one on every host of a farm; closes the executor.

    A host without a free processor, or one that dies, leaves its plans to the others and to the
    caller, who judges all of them where no host has joined.
    """

    def __init__(self, executor: RayExecutor, setup: EvaluatorSetup) -> None:
        super().__init__(executor.hosts)
        self._executor, self._setup = executor, setup
        self._files: object = None

    def hire(self) -> FarmJudge:
        """One more host's; the files travel once."""
        if self._files is None:
            self._files = self._executor.share(pack(self._setup))
        setup = json.dumps(self._setup.to_json())
        return FarmJudge(self._executor.hire(HostJudge, setup, self._files))

    def close(self) -> None:
        """Let them go, and leave the farm."""
        super().close()
        self._executor.close()


class FarmJudge:
    """A judge on a worker's host, as the coordinator sees it."""

    def __init__(self, hired: Hired) -> None:
        self._hired = hired

    def ask(self, plan: Plan) -> Losses | None:
        """The plan's losses, or None when the worker died."""
        answer = self._hired.ask(json.dumps(plan_to_json(plan)))
        found: Losses | None = None if answer is None else json.loads(answer)
        return found

    def close(self) -> None:
        """Let it go."""
        self._hired.close()


class HostJudge:
    """On a worker: a process that judges, for as long as the coordinator keeps it."""

    def __init__(self, setup: str, files: Mapping[str, bytes]) -> None:
        sweep()
        self._folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        found = EvaluatorSetup.from_json(json.loads(setup))
        here = unpack(found, files, Path(self._folder))
        # Workers are killed without notice; the process outlives them for long enough to tidy up.
        self._process = JudgingProcess(here, cpu_threads(), owned=self._folder)

    def ask(self, text: str) -> str | None:
        """Losses of a plan as JSON; None where the process died."""
        found = self._process.ask(plan_from_json(json.loads(text)))
        return None if found is None else json.dumps(found)

    def close(self) -> None:
        """End the process; its files go."""
        self._process.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def sweep() -> None:
    """Remove what judges left whose processes were all killed at once."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(path, ignore_errors=True)


def pack(setup: EvaluatorSetup) -> dict[str, bytes]:
    """The files that a setup names, by where they belong."""
    found = {}
    for name in _FOLDERS:
        root = Path(getattr(setup, name))
        for path in sorted(root.rglob("*")):
            if path.is_file():
                found[f"{name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return found | {name: Path(getattr(setup, name)).read_bytes() for name in _FILES}


def unpack(setup: EvaluatorSetup, files: Mapping[str, bytes], folder: Path) -> EvaluatorSetup:
    """The same setup with its files below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return dataclasses.replace(
        setup, model=str(folder / "model"), factors=str(folder / "factors"),
        batches=str(folder / "batches"),
    )  # fmt: skip
