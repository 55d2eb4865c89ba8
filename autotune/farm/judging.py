"""True losses of plans, judged by the workers of a farm; what they need travels to them."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from autotune.devices.detect import cpu_threads
from autotune.search.evaluator import Evaluators, EvaluatorSetup, Losses, Ranks

if TYPE_CHECKING:
    from autotune.farm.ray_executor import RayExecutor

_FOLDERS = ("model",)
_FILES = ("factors", "batches")


class FarmEvaluators:
    """As `Evaluators`, on the workers of a farm. Use as a context manager; it closes the executor.

    Plans that no worker answered are left out, as there.
    """

    def __init__(self, executor: RayExecutor, setup: EvaluatorSetup) -> None:
        self._executor, self._setup = executor, setup
        self._files: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.close()

    def losses(self, plans: Sequence[Ranks]) -> Iterator[tuple[int, Losses]]:
        """(index of the plan, its (sum, count) of every batch), in the order they are ready."""
        if self._files is None:
            self._files = self._executor.share(pack(self._setup))
        setup = json.dumps(self._setup.to_json())
        texts = [json.dumps(dict(plan)) for plan in plans]
        for text in self._executor.spread(judge_here, texts, setup, self._files):
            index, losses = json.loads(text)
            yield index, losses


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


def judge_here(
    plans: Sequence[tuple[int, str]], setup: str, files: dict[str, bytes]
) -> Iterator[str]:
    """On a worker: judge some plans in a process of its own; one text a plan."""
    found = EvaluatorSetup.from_json(json.loads(setup))
    with tempfile.TemporaryDirectory() as folder:
        here = unpack(found, files, Path(folder))
        with Evaluators(here, 1, cpu_threads()) as evaluators:
            for number, losses in evaluators.losses([json.loads(text) for _, text in plans]):
                yield json.dumps([plans[number][0], losses])
