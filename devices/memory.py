"""How much memory this process may use, and how much it has used at most."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from autotune.core.peak_memory import largest_child_bytes, peak_bytes

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_LIMITS = {"": "memory.max", "memory": "memory.limit_in_bytes"}  # of version 2 and of version 1


def memory_bytes() -> int:
    """Bytes of memory that this process and its children may use together.

    They are those of the machine, or fewer where a control group limits them.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_group_limits()])


def _group_limits() -> Iterator[int]:
    """The limits of this process's control group and of those above it."""
    with suppress(OSError):
        for line in _OWN.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            for name in set(controllers.split(",")) & set(_LIMITS):
                # In a container, the group that is named may be mounted as the root.
                path = Path(group.lstrip("/"))
                for folder in (path, *path.parents):
                    with suppress(OSError, ValueError):  # "max" is no number
                        yield int((_CGROUPS / name / folder / _LIMITS[name]).read_text())


def peak_memory_bytes() -> int:
    """Bytes of this process at most, plus those of its largest child: they may run side by side."""
    return peak_bytes() + largest_child_bytes()
