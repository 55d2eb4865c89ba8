"""Builds and inputs sent to a worker: each file or folder is sent once and cached there.

A parcel is anything that a measurement opens: an ONNX file with its external data, a checkpoint
folder, or a file of inputs. It is identified by the sha256 of its contents, so a worker that has it
does not receive it again, for this or any other tuning.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.core.files import write_whole
from autotune.core.private import private_folder
from autotune.profiler.measure.tasks import Subject, TimingTask

_KEPT_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A file or folder on the sending host: the files that belong to it, and their sha256."""

    path: Path
    members: tuple[Path, ...]
    sha256: str

    def contents(self) -> dict[str, bytes]:
        """The contents of the files, by name relative to the parcel's folder."""
        return {_name(self.path, member): member.read_bytes() for member in self.members}


def make_parcel(path: Path) -> Parcel:
    """The parcel of `path`: a folder with all its files, or a file with its external data."""
    if path.is_dir():
        members = tuple(sorted(each for each in path.rglob("*") if each.is_file()))
    else:
        data = path.with_name(f"{path.name}.data")
        members = (path, data) if data.is_file() else (path,)
    total = hashlib.sha256()
    for member in members:
        total.update(_name(path, member).encode() + b"\0")
        with member.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return Parcel(path=path, members=members, sha256=total.hexdigest())


def _name(path: Path, member: Path) -> str:
    return f"{path.name}/{member.relative_to(path)}" if path.is_dir() else member.name


def paths_in(tasks: Iterable[TimingTask]) -> list[Path]:
    """The files and folders that `tasks` open, without duplicates."""
    found = [
        Path(text)
        for task in tasks
        for subject in task.subjects
        for text in (subject.network, subject.inputs)
        if text is not None
    ]
    return list(dict.fromkeys(found))


def parcel_folder() -> Path:
    """The folder of a worker's parcels, which only its user may enter.

    Raises:
        StorageError: another user has taken its name.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return private_folder((Path(base) if base else user_folder()) / "autotune-farm")


def user_folder(root: Path | None = None) -> Path:
    """This user's private folder in `root`, which is the temp folder unless given.

    Raises:
        StorageError: another user has taken its name.
    """
    return private_folder((root or Path(tempfile.gettempdir())) / f"autotune-{os.getuid()}")


def is_here(sha256: str) -> bool:
    """Whether this worker has the parcel already."""
    return (parcel_folder() / sha256).is_dir()


def unpack(sha256: str, files: Mapping[str, bytes]) -> None:
    """Store a parcel on this worker, and remove parcels that were not used for a day."""
    folder = parcel_folder()
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > _KEPT_S:
            shutil.rmtree(old, ignore_errors=True)

    def build(path: Path) -> None:
        for name, content in files.items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    write_whole(folder / sha256, build)


def path_here(sha256: str, name: str) -> Path:
    """The path of the file or folder `name` of a parcel on this worker."""
    folder = parcel_folder() / sha256
    os.utime(folder)
    return folder / name


def moved(tasks: Sequence[TimingTask], places: Mapping[str, str]) -> tuple[TimingTask, ...]:
    """The tasks with every path replaced by the one on this worker."""

    def move(subject: Subject) -> Subject:
        return replace(
            subject,
            network=places.get(subject.network or "", subject.network),
            inputs=places.get(subject.inputs or "", subject.inputs),
        )

    return tuple(replace(task, subjects=tuple(map(move, task.subjects))) for task in tasks)
