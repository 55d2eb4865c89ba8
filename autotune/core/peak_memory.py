"""How much memory processes have held at most: this one, and the children it talked to.

The figure of a process is that of its present program. `getrusage` counts what a child held before
it started its program too, which is all of this process.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

_FIELD = "VmHWM:"  # of proc(5), in kB
_largest_child_bytes = 0


def peak_bytes() -> int:
    """Bytes that this process has held in memory at most."""
    return _peak_bytes("self") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def largest_child_bytes() -> int:
    """Bytes that the largest child has held at most, of those that were noted; else 0."""
    return _largest_child_bytes


def note_child(pid: int) -> None:
    """Take note of what a child that runs has held so far; one that has ended holds nothing."""
    global _largest_child_bytes
    _largest_child_bytes = max(_largest_child_bytes, _peak_bytes(str(pid)))


def _peak_bytes(process: str) -> int:
    """0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc", process, "status").read_text()
        return int(text.split(_FIELD)[1].split()[0]) * 1024
    return 0
