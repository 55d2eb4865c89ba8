"""The files and the log in a job's folder that clients may read."""

from __future__ import annotations

from pathlib import Path

from autotune.service.errors import NotFoundError
from autotune.service.settings import Settings

_LOG_PART = 256_000


def artefacts_of(settings: Settings, job_id: str) -> list[tuple[str, int]]:
    """Name and size in bytes of every output file of a job; caches are left out."""
    root = settings.run_folder(job_id)
    if not root.is_dir():
        return []
    files = [path for path in sorted(root.rglob("*")) if _is_shown(root, path)]
    return [(path.relative_to(root).as_posix(), path.stat().st_size) for path in files]


def _is_shown(root: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.is_file() and not path.is_symlink() and not hidden


def artefact_path(settings: Settings, job_id: str, *, name: str) -> Path:
    """The path of an output file of a job.

    Raises:
        NotFoundError: the job has no output file of that name.
    """
    if name not in dict(artefacts_of(settings, job_id)):
        raise NotFoundError(f"job {job_id} has no output file {name[:200]!r}")
    return settings.run_folder(job_id) / name


def read_log(settings: Settings, job_id: str, *, offset: int) -> tuple[str, int]:
    """A part of the job's log from byte `offset` on, and the offset at which it ends."""
    path = settings.job_folder(job_id) / "log.txt"
    if not path.is_file():
        return "", 0
    with path.open("rb") as log:
        log.seek(offset)
        part = log.read(_LOG_PART)
    return part.decode(errors="replace"), offset + len(part)


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder; files that vanish meanwhile are skipped."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total
