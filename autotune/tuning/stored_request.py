"""Requests as they are stored in files, which `autotune tune --request` and jobs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from autotune.core.errors import UsageError
from autotune.core.options import EFFORTS
from autotune.core.options_json import at, from_json, to_json
from autotune.core.paths import default_database
from autotune.core.runfolder import CACHE, RunFolder
from autotune.core.types import Workload
from autotune.tuning.request import TuneRequest, effort_defaults

_TYPE, _VERSION = "tune-request", 1
_NOTED = "request.json"


def request_json(request: TuneRequest) -> dict[str, Any]:
    """A request as it is stored in a file; the user's own database and secrets are not in it."""
    found = typed(to_json(request))
    if request.machine.database == default_database():
        del found["machine"]["database"]
    return found


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The nested JSON of a request as `read_request` reads it, with its type and version."""
    return {"type": _TYPE, "version": _VERSION, **values}


def read_request(path: Path) -> dict[str, Any]:
    """The nested JSON of a stored request.

    Raises:
        UsageError: the file cannot be read, or holds something else or a newer version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"request {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"request {path} must hold one JSON object")
    if found.pop("type", _TYPE) != _TYPE or found.pop("version", _VERSION) != _VERSION:
        raise UsageError(
            f"request {path} is not of type {_TYPE!r}, version {_VERSION}; write one with "
            "`autotune tune … --print-request`"
        )
    return found


def without_effort(values: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a request without the values that its own effort filled in.

    A stored request states every value; with them taken out another effort can be asked for.
    """
    length = at(values, "workload.sequence_length", default=Workload.sequence_length)
    effort = at(values, "effort", default="normal")
    if effort not in EFFORTS or not isinstance(length, int) or length < 1:
        return values  # refused when the request is made of it
    filled = effort_defaults(effort, length)
    paths = {path for path, value in filled.items() if at(values, path, default=...) == value}
    return {
        key: {k: v for k, v in part.items() if f"{key}.{k}" not in paths}
        if isinstance(part, dict)
        else part
        for key, part in values.items()
    }


def note_request(folder: RunFolder, request: TuneRequest) -> None:
    """Keep the request beside what was found for it."""
    values = request_json(request)
    database = str(values["machine"].get("database", ""))
    if "://" in database:  # a password is nothing to keep in a folder of results
        values["machine"]["database"] = _without_password(database)
    folder.write_text(folder.cache / _NOTED, json.dumps(values))


def _without_password(address: str) -> str:
    """A URL whose user has no password, which the environment or a password file then gives."""
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}{at}{host}").geturl()


def noted_request(folder: Path) -> TuneRequest:
    """The request that led to the result in a run folder.

    Raises:
        UsageError: there is none, as an older version made the result.
    """
    path = folder / CACHE / _NOTED
    if not path.is_file():
        raise UsageError(f"{path} is missing, so its plans cannot be made again; tune again")
    return from_json(TuneRequest, read_request(path))
