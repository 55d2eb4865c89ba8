"""JSON documents that carry the version of their schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autotune.core.errors import UsageError


def read_versioned(
    path: Path, *, oldest: int, newest: int, what: str, remedy: str
) -> tuple[int, dict[str, Any]]:
    """Version and content of a JSON document.

    Args:
        path: The document.
        oldest: The oldest version that can be read.
        newest: The version that this program writes.
        what: What a folder with such a document is, such as "a finished tuning".
        remedy: What to do about a version that is too old.

    Returns:
        The version, and the object without its `schema_version`.

    Raises:
        UsageError: the file is missing, damaged, or of a version that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path.parent} has no {path.name}; give the output folder of {what}"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is damaged: not UTF-8 text; {remedy}") from error
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: invalid JSON ({error}); {remedy}") from error
    if not isinstance(values, dict) or "schema_version" not in values:
        raise UsageError(f"{path} is damaged: it has no schema_version; {remedy}")
    version = values.pop("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise UsageError(f"{path} is damaged: schema_version {version!r} is not a whole number")
    if version > newest:
        raise UsageError(
            f"{path} has schema version {version}, newer than the {newest} that this program "
            "reads; upgrade lowrank-autotune"
        )
    if version < oldest:
        raise UsageError(
            f"{path} has schema version {version}, older than the {oldest} that this program "
            f"still reads; {remedy}"
        )
    return version, values
