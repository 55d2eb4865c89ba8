"""Outlines of models, kept between runs: found once by a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autotune.compress import locate
from autotune.core import operation
from autotune.core.child_errors import ChildError, error_of
from autotune.core.childprocess import ChildProcess
from autotune.core.errors import ModelError, StorageError
from autotune.core.files import write_text_whole
from autotune.core.outline import ModelOutline
from autotune.core.paths import outlines_cache
from autotune.core.types import Workload, digest

_COMMAND = (sys.executable, "-m", "autotune.tuning.outlining")
_OUTLINING = Path(__file__).with_name("outlining.py")
_LIMIT_S = 600.0
# What decides the outline besides the model and the question.
_LIBRARIES = ("torch", "transformers", "lowrank-autotune")


@contextmanager
def begin_outline(
    folder: Path, workload: Workload, *, dtype: str, tensor_parallel: int = 1
) -> Iterator[Future[ModelOutline]]:
    """The outline of the model in `folder`, while the caller does other things.

    Its result raises what `outline_model` raises (outlining.py), and ModelError where its process
    failed.
    """
    question = {
        "folder": str(folder.resolve()),
        "workload": dataclasses.asdict(workload),
        "dtype": dtype,
        "tensor_parallel": tensor_parallel,
    }
    path = outlines_cache() / f"{_name(folder, question)}.json"
    found = _read(path)
    if found is not None:
        kept: Future[ModelOutline] = Future()
        kept.set_result(found)
        yield kept
        return
    with ChildProcess(_COMMAND, threads=1) as child, ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(_ask, child, question, path=path)
        except BaseException:
            child.close()
            raise


def _ask(child: ChildProcess, question: dict[str, Any], *, path: Path) -> ModelOutline:
    try:
        child.send(question, last=True)
        answer = child.receive(_LIMIT_S)
    except ChildError as error:
        raise ModelError(
            f"what the model in {question['folder']} computes could not be found out: {error}"
        ) from error
    if "error" in answer:
        raise error_of(answer["error"])
    with contextlib.suppress(StorageError):
        write_text_whole(path, json.dumps(answer["outline"]))
    return ModelOutline.from_json(answer["outline"])


def _name(folder: Path, question: dict[str, Any]) -> str:
    """By content: of a model, its configuration and its list of modules count."""
    files = {
        path.name: path.read_text(encoding="utf-8", errors="replace")
        for path in (folder / "config.json", folder / "modules.json")
        if path.is_file()
    }
    libraries = {name: version(name) for name in _LIBRARIES}
    asked = {**question, "folder": ""}
    made_by = {"libraries": libraries, "source": _source()}
    return digest({"files": files, "asked": asked, "made_by": made_by})[:32]


def _source() -> str:
    """The sha256 of the modules that outlines are made by."""
    total = hashlib.sha256()
    folders = (Path(locate.__file__).parent, Path(operation.__file__).parent)
    for path in [*sorted(path for each in folders for path in each.rglob("*.py")), _OUTLINING]:
        total.update(path.read_bytes())
    return total.hexdigest()


def _read(path: Path) -> ModelOutline | None:
    """What is kept there; None where nothing is, or something else (it is made again)."""
    try:
        return ModelOutline.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
