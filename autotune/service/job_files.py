"""The files and the log in a job's folder that clients may read."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from autotune.service.errors import NotFoundError
from autotune.service.settings import Settings

_LOG_PART = 256_000


def own_folder(settings: Settings, job_id: str) -> Path | None:
    """The folder of a job's output files; None if there is none, or a link leads elsewhere."""
    root = settings.run_folder(job_id)
    jobs = settings.job_folder(job_id).parent.resolve()
    return root if root.is_dir() and root.resolve() == jobs / job_id / root.name else None


def artefacts_of(settings: Settings, job_id: str) -> list[tuple[str, int]]:
    """Name and size in bytes of every output file of a job; caches and links are left out."""
    root = own_folder(settings, job_id)
    found = []
    for folder, folders, files in os.walk(root or os.devnull):  # follows no links
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            with suppress(OSError):  # removed meanwhile
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and not name.startswith("."):
                    found.append((path.relative_to(str(root)).as_posix(), status.st_size))
    return sorted(found)


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
    folder = settings.job_folder(job_id)
    path = folder / "log.txt"
    if folder.is_symlink() or path.is_symlink() or not path.is_file():
        return "", 0
    with path.open("rb") as log:
        if offset >= os.fstat(log.fileno()).st_size:
            return "", offset
        log.seek(offset)
        part = log.read(_LOG_PART)
    return part.decode(errors="replace"), offset + len(part)


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder; files that vanish meanwhile are skipped."""
    total = 0
    for place, folders, files in os.walk(folder):  # passes over folders that vanish
        for name in (*folders, *files):
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total
