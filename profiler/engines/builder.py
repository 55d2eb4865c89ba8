"""Build engines in a process of their own, with a time limit, and never the same one twice."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autotune.core.checksums import Checksums
from autotune.core.child_errors import ChildError, ChildTimeoutError
from autotune.core.childprocess import ChildProcess
from autotune.core.errors import EngineError, option_name
from autotune.core.files import copy_whole, make_folder, write_text_whole
from autotune.core.paths import engine_cache
from autotune.core.types import canonical_json, digest
from autotune.devices.detect import gpu_names, no_gpu
from autotune.profiler.engines.python import missing_tensorrt, tensorrt_python, tensorrt_version

SCRIPT = Path(__file__).with_name("build_engine.py")
TASK, ENGINE = "build.json", "model.engine"
LIMIT_S = 1800.0
_BEAT_S = 1.0
_CACHE_ADVICE = "set AUTOTUNE_CACHE to a folder that can be written"
Tell = Callable[[str, float], None]


def missing_parts() -> str | None:
    """What is missing here for building engines, as a sentence, or None."""
    if not gpu_names():
        return no_gpu("TensorRT")
    return missing_tensorrt()


def content_sha256(onnx: Path) -> str:
    """The SHA-256 of an ONNX file together with its external data."""
    sha = hashlib.sha256()
    for path in (onnx, onnx.with_name(f"{onnx.name}.data")):
        if path.is_file():
            with path.open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()


def engine_key(onnx: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that an engine is bound to."""
    return {
        "device": gpu_names()[0],
        "tensorrt": tensorrt_version(),
        "onnx": content_sha256(onnx),
        "task": {k: v for k, v in task.items() if k not in ("onnx", "timing_cache")},
    }


def build_engine(
    onnx: Path,
    task: Mapping[str, Any],
    *,
    output: Path,
    limit_s: float = LIMIT_S,
    tell: Tell = lambda phase, seconds: None,
) -> dict[str, Any]:
    """Put the engine of `onnx` at `output`; it is taken from the cache if it was built before.

    `task` holds the fields of build_engine.py's build.json. `tell` is called about every second
    with the phase of the build and the seconds since its start.

    Returns:
        What the build found (version, layers, types), and `key`, what the engine is bound to.

    Raises:
        EngineError: a part is missing, TensorRT refuses, or the time is over.
        StorageError: the cache or `output` cannot be written.
    """
    lacks = missing_parts()
    if lacks:
        raise EngineError(lacks)
    key = engine_key(onnx, task)
    name = digest(key)[:24]
    engine, facts = (engine_cache() / f"{name}{end}" for end in (".engine", ".json"))
    checksums = Checksums()
    if any(checksums.damage(each) for each in (engine, facts)):  # or not built yet
        timing = engine_cache() / f"timing-{digest([key['device'], key['tensorrt']])[:16]}.cache"
        whole = {**task, "onnx": str(onnx.resolve()), "timing_cache": str(timing)}
        found = _in_process(whole, engine, limit_s=limit_s, tell=tell)
        write_text_whole(facts, canonical_json(found), advice=_CACHE_ADVICE)
        for each in (engine, facts):
            checksums.write(each, written=each)
    copy_whole(engine, output)
    return {**json.loads(facts.read_text()), "key": key}


def _in_process(
    task: Mapping[str, Any], engine: Path, *, limit_s: float, tell: Tell
) -> dict[str, Any]:
    """The facts that the building process reports.

    Raises:
        EngineError: TensorRT refuses, the process died, or the time is over.
    """
    make_folder(engine.parent, _CACHE_ADVICE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TASK
        path.write_text(json.dumps(task))
        command = [tensorrt_python(), str(SCRIPT), str(path), "--output", str(engine)]
        try:
            with ChildProcess(command) as child:
                found = _facts(child, limit_s, tell=tell)
        except ChildTimeoutError as error:
            text = f"no engine within {limit_s:.0f} s; raise {option_name('build_limit')}"
            raise EngineError(text) from error
        except ChildError as error:
            raise EngineError(f"building an engine failed: {error}") from error
    if "error" in found:
        raise EngineError(found["error"][:2000])
    return found


def _facts(child: ChildProcess, limit_s: float, *, tell: Tell) -> dict[str, Any]:
    """The last document that the process sends; `tell` gets the phase it is in every second."""
    started, phase = time.monotonic(), "start"
    while (seconds := time.monotonic() - started) < limit_s:
        tell(phase, seconds)
        try:
            message = child.receive(min(_BEAT_S, limit_s - seconds))
        except ChildTimeoutError:
            continue
        if "phase" not in message:
            return message
        phase = message["phase"]
    raise ChildTimeoutError(limit_s)


def write_kit(folder: Path, onnx: Path, *, task: Mapping[str, Any]) -> None:
    """Beside `onnx` in `folder`: the task and the script that builds the engine elsewhere."""
    write_text_whole(folder / TASK, canonical_json({**task, "onnx": onnx.name}) + "\n")
    copy_whole(SCRIPT, folder / SCRIPT.name)
