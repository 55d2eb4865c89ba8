"""The share of the processors that Linux control groups grant to this process, versions 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PROC = Path("/proc/self")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class _Mount:
    """A mounted hierarchy: where it is, which group is at its root, and its controllers."""

    point: Path
    root: PurePosixPath
    version: int
    options: frozenset[str]


def cpu_quota(proc: Path = _PROC) -> float | None:
    """Cores that this process may use on average; None without a limit.

    The smallest quota of its own group and of every group above it, as far as they can be seen:
    each of them is enforced. `proc` is the process's folder, with `cgroup` and `mountinfo`.
    """
    found = [quota for folder in _folders(proc) if (quota := _quota(folder)) is not None]
    return min(found, default=None)


def _folders(proc: Path) -> Iterator[Path]:
    """The folder of this process's group, and those above it, in every hierarchy with a quota."""
    mounts = list(_mounts(proc / "mountinfo"))
    for line in _lines(proc / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        version = 1 if controllers else 2
        if version == 1 and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            if mount.version == version and (version == 2 or "cpu" in mount.options):
                yield from _upwards(mount, PurePosixPath(path))


def _upwards(mount: _Mount, path: PurePosixPath) -> Iterator[Path]:
    below = PurePosixPath()
    with suppress(ValueError):  # a group outside of what is mounted: only the root can be seen
        below = path.relative_to(mount.root)
    if ".." not in below.parts:
        for each in (below, *below.parents):
            yield mount.point / each
    else:
        yield mount.point


def _mounts(path: Path) -> Iterator[_Mount]:
    """The control-group hierarchies in a `mountinfo` file (proc(5))."""
    for line in _lines(path):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        yield _Mount(
            point=Path(_unescaped(fields[4])),
            root=PurePosixPath(_unescaped(fields[3])),
            version=2 if kind[0] == "cgroup2" else 1,
            options=frozenset(kind[2].split(",")),
        )


def _quota(folder: Path) -> float | None:
    if (quota := parse_quota(_text(folder / "cpu.max"))) is not None:
        return quota
    limit = _text(folder / "cpu.cfs_quota_us")
    return parse_quota(f"{limit} {_text(folder / 'cpu.cfs_period_us')}")


def parse_quota(text: str) -> float | None:
    """Cores from a quota and its period ("150000 100000" is 1.5); None for no limit or nonsense.

    Version 2 writes both into `cpu.max`, with "max" for no limit; version 1 has -1 for it.
    """
    parts = text.split()
    with suppress(ValueError):
        if len(parts) == 2 and int(parts[0]) > 0 and int(parts[1]) > 0:
            return int(parts[0]) / int(parts[1])
    return None


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
