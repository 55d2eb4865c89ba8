"""Whether the content of an uploaded file is what its name promises, found out in a process apart.

To parse a large JSON document takes seconds and many times its size in memory, during which no
other thread of the process runs. So a child does it, with limits of time and memory.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from pathlib import Path
from typing import Any

from autotune.core.child_errors import ChildError
from autotune.core.childprocess import ChildProcess, end_with_parent
from autotune.core.errors import UsageError

HEADER_BYTES = 10_000_000  # some 80,000 tensors
_DATA_BYTES = 400_000_000
_CPU_S = 60
_BINARY = (".model", ".spm")  # SentencePiece's vocabularies
_LIMIT_S = 600.0  # on a machine that is busy with measurements
_COMMAND = (sys.executable, "-m", "autotune.service.upload_check")


def check_upload(path: Path, name: str) -> None:
    """Check the file at `path`, which was uploaded as `name`. Takes a moment: not on an event loop.

    Raises:
        UsageError: the content is not what the name promises.
    """
    try:
        with ChildProcess(_COMMAND, threads=1) as child:
            child.send({"path": str(path), "name": name}, last=True)
            problem = child.receive(_LIMIT_S)["problem"]
    except ChildError as error:
        problem = f"it could not be checked: {error}"
    if problem:
        raise UsageError(f"{name} is damaged or not of that format: {problem}")


def main() -> None:
    """Check one file, named on stdin."""
    end_with_parent()
    message = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_DATA, (_DATA_BYTES, _DATA_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    problem = _problem(Path(message["path"]), message["name"])
    sys.stdout.write(json.dumps({"problem": problem}) + "\n")


def _problem(path: Path, name: str) -> str:
    """What is wrong with the content; empty if nothing is."""
    try:
        if name.endswith(".safetensors"):
            return _header_problem(path)
        if name.endswith(_BINARY):
            return ""
        text = path.read_text(encoding="utf-8")
        if name.endswith(".json"):
            json.loads(text, object_pairs_hook=_no_object)
    except MemoryError:
        return "it has too many values"
    except RecursionError:
        return "it is nested too deeply"
    except (ValueError, OSError) as error:
        return str(error)[:200]
    return ""


def _header_problem(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        start = file.read(8)
    if len(start) == 8 and struct.unpack("<Q", start)[0] > HEADER_BYTES:
        return f"its header may have at most {HEADER_BYTES} bytes"
    try:
        with safe_open(path, framework="numpy") as tensors:
            tensors.keys()
    except SafetensorError as error:
        return str(error)[:200]
    return ""


# What an object holds is of no interest, and would take many times the memory of the text.
def _no_object(_: list[tuple[str, Any]]) -> None:
    return None


if __name__ == "__main__":
    main()
