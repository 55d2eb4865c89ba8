"""Build engines in a process of their own, with a time limit, and never the same one twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autotune.core.errors import EngineError
from autotune.core.files import copy_whole, write_whole
from autotune.core.paths import engine_cache
from autotune.core.types import canonical_json, digest
from autotune.devices.detect import gpu_names
from autotune.profiler.engines.python import missing_tensorrt, tensorrt_python, tensorrt_version

SCRIPT = Path(__file__).with_name("build_engine.py")
TASK, ENGINE = "build.json", "model.engine"
LIMIT_S = 1800.0
_BEAT_S = 1.0
Tell = Callable[[str, float], None]


def missing_parts() -> str | None:
    """What building an engine lacks here, or None."""
    if not gpu_names():
        return "TensorRT needs an NVIDIA GPU, and nvidia-smi names none here"
    return missing_tensorrt()


def content_sha256(onnx: Path) -> str:
    """Of the ONNX file together with its external data."""
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
    onnx: Path, task: Mapping[str, Any], output: Path, limit_s: float = LIMIT_S,
    tell: Tell = lambda phase, seconds: None,
) -> dict[str, Any]:  # fmt: skip
    """Put the engine of `onnx` at `output`; it is taken from the cache if it was built before.

    `task` as build_engine.py's build.json; `tell` hears the phase and the seconds so far.

    Returns:
        What the build found (version, layers, types), and `key`, what the engine is bound to.

    Raises:
        EngineError: a part is missing, TensorRT refuses, or the time is over.
    """
    lacks = missing_parts()
    if lacks:
        raise EngineError(lacks)
    key = engine_key(onnx, task)
    name = digest(key)[:24]
    engine, facts = (engine_cache() / f"{name}{end}" for end in (".engine", ".json"))
    if not facts.is_file():
        timing = engine_cache() / f"timing-{digest([key['device'], key['tensorrt']])[:16]}.cache"
        whole = {**task, "onnx": str(onnx.resolve()), "timing_cache": str(timing)}
        found = _in_process(whole, engine, limit_s, tell)
        write_whole(facts, lambda path: _write(path, found))
    copy_whole(engine, output)
    return {**json.loads(facts.read_text()), "key": key}


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    path.write_text(canonical_json(facts))


def _in_process(
    task: Mapping[str, Any], engine: Path, limit_s: float, tell: Tell
) -> dict[str, Any]:
    engine.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        path = Path(folder) / TASK
        path.write_text(json.dumps(task))
        process = subprocess.Popen(
            [tensorrt_python(), str(SCRIPT), str(path), "--output", str(engine)],
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        try:
            said = _listen(process, limit_s, tell)
        finally:
            process.kill()
            code = process.wait()
        if said is None:
            raise EngineError(f"no engine within {limit_s:.0f} s; raise --build-limit")
        if "engine_bytes" not in said:
            log.seek(0)
            lines = log.read().strip().splitlines()[-1:] or [f"exit code {code}"]
            raise EngineError(lines[0][:2000])
        return said


def _listen(process: subprocess.Popen[bytes], limit_s: float, tell: Tell) -> dict[str, Any] | None:
    """The last document that the process prints; None when the time is over."""
    assert process.stdout is not None
    started, phase = time.monotonic(), "start"
    last: dict[str, Any] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (seconds := time.monotonic() - started) < limit_s:
            tell(phase, seconds)
            if not selector.select(_BEAT_S):
                continue
            line = process.stdout.readline()
            if not line:
                return last
            with contextlib.suppress(ValueError):  # a library's own words
                last = json.loads(line)
                phase = last.get("phase", phase)
    return None


def write_kit(folder: Path, onnx: Path, task: Mapping[str, Any]) -> None:
    """Beside `onnx` in `folder`: the task and the script that builds the engine elsewhere."""
    (folder / TASK).write_text(canonical_json({**task, "onnx": onnx.name}) + "\n")
    shutil.copyfile(SCRIPT, folder / SCRIPT.name)
