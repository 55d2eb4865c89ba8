"""How long this process waited for a processor core that other work had."""

from __future__ import annotations

from pathlib import Path

_TASKS = Path("/proc/self/task")


def waited_s(tasks: Path = _TASKS) -> float:
    """Seconds that the living threads of this process have spent runnable, but not running.

    From the scheduler's own counts (Linux; Documentation/scheduler/sched-stats). 0 where the system
    does not tell.
    """
    total_ns = 0
    for path in tasks.glob("*/schedstat"):
        try:
            total_ns += int(path.read_text().split()[1])
        except (OSError, ValueError, IndexError):  # the thread has ended
            continue
    return total_ns / 1e9
