"""Which models and files a job may name, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from autotune.compress.locate import EMBEDDED_MODEL
from autotune.core.errors import UsageError
from autotune.service.settings import Settings
from autotune.service.uploads import UPLOAD, uploaded_folder

_FILES = ("calibration", "evaluation")


def resolve(settings: Settings, kind: str, *, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with every name of a model or file as a path that a job may read.

    Raises:
        UsageError: a name that is not allowed. A name that does not exist gives the same message.
    """
    found = dict(spec)
    if kind in ("tune", "profile"):
        found["model"] = _model(settings, spec.get("model"))
    if kind == "tune":
        plan = dict(spec.get("calibration") or {})
        for name in _FILES:
            if plan.get(name) is not None:
                plan[name] = str(_below_a_root(settings, str(plan[name]), what=name))
        found["calibration"] = plan
    return found


def _model(settings: Settings, name: str | None) -> str | None:
    if name is None or name == EMBEDDED_MODEL or name in settings.hub_ids:
        return name
    if name.startswith(UPLOAD):
        return str(uploaded_folder(settings, name.removeprefix(UPLOAD)))
    folder = _below_a_root(settings, name, what="model")
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_symlink() and not _inside(path.resolve(), folder):
            raise UsageError(
                f"model {name!r} contains {path.name!r}, a link out of its folder; replace the "
                "link by the file"
            )
    return str(folder)


def _below_a_root(settings: Settings, name: str, *, what: str) -> Path:
    for root in settings.model_roots:
        real = root.resolve()
        with suppress(OSError, ValueError):  # a name that no file can have
            path = (real / name).resolve()
            if path != real and _inside(path, real) and path.exists():
                return path
    raise UsageError(
        f"{what} {name!r} is not on the list of files this service may read; {_advice(settings)}"
    )


def _advice(settings: Settings) -> str:
    ids = ", ".join(sorted(settings.hub_ids))
    return (
        "use a name below its model folders"
        + (f", one of {ids}" if ids else "")
        + f", an upload ({UPLOAD}NAME), or omit it for {EMBEDDED_MODEL}"
    )


def _inside(path: Path, root: Path) -> bool:
    return path == root or root in path.parents
