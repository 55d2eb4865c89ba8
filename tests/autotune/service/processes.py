"""Processes below another one, as the kernel lists them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def _table() -> dict[int, tuple[int, str]]:
    """pid → (parent, command line), without zombies."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if fields[0] != "Z":
                found[int(folder.name)] = (int(fields[1]), command)
    return found


def descendants(pid: int) -> dict[int, str]:
    """Children, their children and so on: pid → command line."""
    table, found, level = _table(), dict[int, str](), {pid}
    while level:
        level = {each for each, (parent, _) in table.items() if parent in level}
        found |= {each: table[each][1] for each in level}
    return found


def mentioning(text: str) -> dict[int, str]:
    """Living processes with `text` in their command line, but for this one."""
    return {p: c for p, (_, c) in _table().items() if text in c and p != os.getpid()}


def kill(pid: int) -> None:
    """kill -9, if it is there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def gone(text: str, seconds: float) -> bool:
    """Whether nothing mentions `text` within the time."""
    deadline = time.monotonic() + seconds
    while mentioning(text):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
