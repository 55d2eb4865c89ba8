"""`export.json`: what an export holds and how it was checked, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotune.core.errors import UsageError, option_name
from autotune.core.files import file_sha256, files_of
from autotune.core.forms import Form
from autotune.core.types import Workload, canonical_json
from autotune.results.codec import Record
from autotune.results.versioned import read_versioned

MANIFEST = "export.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """One shape: batch and length (of the sequence, or of the past), and how far apart the two are.

    `error` is the largest difference divided by the largest value.
    """

    batch_size: int
    length: int
    error: float


@dataclass(frozen=True, kw_only=True)
class ParityRecord(Record):
    """A graph compared with its checkpoint, or an engine with its graph; errors up to `tolerance`.

    Raises:
        UsageError: no shape was compared.
    """

    tolerance: float
    cases: tuple[ParityCase, ...]

    def __post_init__(self) -> None:
        if not self.cases:
            raise UsageError("cases: no shape was compared")

    @property
    def worst(self) -> float:
        """The largest error over all shapes."""
        return max(case.error for case in self.cases)


@dataclass(frozen=True, kw_only=True)
class EngineParity(ParityRecord):
    """Parity of an engine, and its median latency in seconds."""

    latency_s: float


@dataclass(frozen=True, kw_only=True)
class EngineRecord(EngineParity):
    """An engine: what `build_engine.py` found when it built it, and how it compares.

    `seconds` is what the build took, `output_types` counts the tensors of each type, and `key` is
    everything that the engine is bound to.
    """

    tensorrt: str
    engine_bytes: int
    seconds: float
    layers: int
    output_types: Mapping[str, int]
    key: Mapping[str, Any]

    @classmethod
    def of(cls, built: Mapping[str, Any], parity: EngineParity) -> EngineRecord:
        """The facts that the building process reported, with the parity.

        Raises:
            UsageError: facts are missing, or of another type.
        """
        return cls.from_json({**built, **parity.to_json()}, "facts of the engine")


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """An export. `checkpoint` is relative to its folder, as both may move together.

    `forms` are those of the factorized layers, by name. `parity` and `engines` have an entry for
    each graph and engine; `workload`, `opset` and `kit_because` (why no engine was built) are those
    of a TensorRT export. `files` maps each file to its sha256.
    """

    derived = ("ranks",)
    format: str
    dtype: str
    checkpoint: str
    weights_sha256: str
    device: str
    forms: Mapping[str, Form]
    versions: Mapping[str, str]
    parity: Mapping[str, ParityRecord] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    engines: Mapping[str, EngineRecord] = field(default_factory=dict)
    kit_because: str | None = None
    opset: int | None = None
    workload: Workload | None = None

    @property
    def ranks(self) -> Mapping[str, int]:
        """The ranks of `forms`; derived, for readers that know no forms."""
        return {name: form.rank for name, form in self.forms.items()}


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
    """The manifest of an export; one from before there were forms has those of its ranks.

    Raises:
        UsageError: there is none, or one that is damaged or of a newer version.
    """
    values = read_manifest_json(folder)
    del values["schema_version"]
    if "forms" not in values and isinstance(ranks := values.get("ranks"), dict):
        values["forms"] = {name: f"rank={rank}" for name, rank in ranks.items()}
    return Manifest.from_json(values, str(folder / MANIFEST))


def require_own_export(folder: Path) -> None:
    """Refuse a folder that another export would replace and that holds anything but an export.

    Raises:
        UsageError: it is a link, has no manifest that can be read, or has files that its manifest
            does not list.
    """
    other = f"set {option_name('output')} to another folder"
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link, which an export would replace; {other}")
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} exists and is no export; {other}")
    files = read_manifest_json(folder).get("files")
    for file in files_of(folder):
        name = file.relative_to(folder).as_posix()
        if name != MANIFEST and (not isinstance(files, dict) or name not in files):
            raise UsageError(
                f"{file} is not of the export in that folder, and would be removed with it; move "
                f"it away, or {other}"
            )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `export.json`, with the sha256 of every file beside it."""
    found = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    files = {str(file.relative_to(folder)): file_sha256(file) for file in found}
    values = replace(manifest, files=files).to_json()
    text = canonical_json({"schema_version": SCHEMA_VERSION, **values})
    (folder / MANIFEST).write_text(text + "\n")
