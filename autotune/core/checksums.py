"""A sha256 beside each file or folder that is kept to be read again much later.

`NAME.sha256` holds a line for `NAME`, or for each file in it, as the program `sha256sum` writes
them; `sha256sum -c *.sha256` checks them all.
"""

from __future__ import annotations

import re
from pathlib import Path

from autotune.core.files import file_sha256, files_of, write_text_whole

SUFFIX = ".sha256"
_LINE = re.compile(r"[0-9a-f]{64}  .+")
_Stamp = tuple[int, int, int]


class Checksums:
    """Checksums of kept files; a file is read once for as long as nobody writes to it."""

    def __init__(self) -> None:
        self._seen: dict[Path, dict[str, _Stamp]] = {}

    def write(self, path: Path, *, written: Path) -> None:
        """Write the checksums of what will be at `path`, and is still at `written`."""
        files = {_name(file, path, written=written): file for file in files_of(written)}
        lines = [f"{file_sha256(file)}  {name}\n" for name, file in files.items()]
        write_text_whole(checksum_file(path), "".join(lines))
        self._seen[path] = {name: _stamp(file) for name, file in files.items()}

    def damage(self, path: Path) -> str:
        """What is wrong with a kept file or folder, as the end of a sentence; empty if nothing."""
        try:
            stamps = {_name(file, path, written=path): _stamp(file) for file in files_of(path)}
            if self._seen.get(path) == stamps:
                return ""
            problem = _difference(path, list(stamps))
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if not problem:
            self._seen[path] = stamps
        return problem


def checksum_file(path: Path) -> Path:
    """Where the checksums of `path` are."""
    return path.with_name(path.name + SUFFIX)


def _difference(path: Path, found: list[str]) -> str:
    beside = checksum_file(path)
    if not beside.is_file():
        return "has no checksum"
    lines = beside.read_text(errors="replace").splitlines()
    if not lines or not all(_LINE.fullmatch(line) for line in lines):
        return "has a damaged checksum"
    expected = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    for name in sorted({*expected, *found}):
        if name not in found:
            return f"lacks {name}" if name != path.name else "is missing"
        if name not in expected:
            return f"has {name}, which was not written with it"
        if file_sha256(path.parent / name) != expected[name]:
            return "is not what was written (sha256 differs)"
    return ""


def _name(file: Path, path: Path, *, written: Path) -> str:
    """A file's name relative to the folder that `path` is in."""
    return (Path(path.name) / file.relative_to(written)).as_posix()


def _stamp(file: Path) -> _Stamp:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
