"""`export.json`: what an export holds and how it was checked, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.core.forms import Form
from autotune.core.types import Workload
from autotune.results.codec import Record
from autotune.results.versioned import read_versioned

MANIFEST = "export.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """An export. `checkpoint` is relative to its folder, as both may move together.

    `ranks` and `forms` are those of the factorized layers, by name (exports from before there were
    forms have none). `parity` and `engines` have an entry for each graph and engine; `workload`,
    `opset` and `kit_because` (why no engine was built) are those of a TensorRT export.
    """

    format: str
    dtype: str
    checkpoint: str
    weights_sha256: str
    device: str
    ranks: Mapping[str, int]
    versions: Mapping[str, str]
    parity: Mapping[str, Any]
    files: Mapping[str, str]
    forms: Mapping[str, Form] = field(default_factory=dict)
    engines: Mapping[str, Any] = field(default_factory=dict)
    kit_because: str | None = None
    opset: int | None = None
    workload: Workload | None = None


def read_manifest_json(folder: Path) -> dict[str, Any]:
    """The manifest of an export as JSON, with its schema version.

    Raises:
        UsageError: there is none, or one that is damaged or of a newer version.
    """
    version, values = read_versioned(
        folder / MANIFEST,
        oldest=SCHEMA_VERSION,
        newest=SCHEMA_VERSION,
        what="an export",
        remedy="export again",
    )
    return {"schema_version": version, **values}


def open_manifest(folder: Path) -> Manifest:
    """The manifest of an export.

    Raises:
        UsageError: there is none, or one that is damaged or of a newer version.
    """
    values = read_manifest_json(folder)
    del values["schema_version"]
    return Manifest.from_json(values, str(folder / MANIFEST))
