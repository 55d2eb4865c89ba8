"""What a run hands out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.core.errors import UsageError
from autotune.core.files import copy_whole
from autotune.core.types import SCHEMA_VERSION, canonical_json
from autotune.results.measured import Measured


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """A tuned model in its run folder.

    `ranks`: site → rank (None = left dense); layers that share a down factor stand under one name,
    `…self_attn.q_proj+k_proj+v_proj`. `measured` is None where the device is not
    here; `within_budget` is judged on the final measurement, or then on the prediction.
    `record` is what result.json holds.
    """

    folder: Path
    ranks: Mapping[str, int | None]
    measured: Measured | None
    within_budget: bool
    record: Mapping[str, Any] = field(repr=False)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the transformers checkpoint to `folder`."""
        return copy_whole(self.folder / "model", Path(folder))

    def export_onnx(self, path: str | Path, *, decode: bool = False) -> Path:
        """Copy the ONNX graph of whole sequences, or of one decode step, to `path`.

        Raises:
            UsageError: the run's backend does not produce ONNX, or its budget was not of decoding.
        """
        source = self.folder / ("model_decode.onnx" if decode else "model.onnx")
        if decode and not source.is_file():
            raise UsageError(
                f"{self.folder} holds no decode graph; tune with phase decode or request"
            )
        if not source.is_file():
            raise UsageError(
                f"backend {self.record['backend']} made no ONNX model; tune with onnxruntime-cpu"
            )
        return copy_whole(source, Path(path))

    def report(self, path: str | Path) -> Path:
        """Copy the HTML report to `path`."""
        return copy_whole(self.folder / "report.html", Path(path))


def result_text(record: Mapping[str, Any]) -> str:
    """result.json: one canonical line."""
    return canonical_json({"schema_version": SCHEMA_VERSION, **record}) + "\n"


def read_result(folder: Path) -> dict[str, Any]:
    """The record of a finished run.

    Raises:
        UsageError: no result there, or one written by a newer version.
    """
    hint = "run the tuning again with this version"
    return read_versioned(folder / "result.json", SCHEMA_VERSION, "a finished run", hint)


def read_versioned(path: Path, version: int, what: str, hint: str) -> dict[str, Any]:
    """A JSON document that carries its schema's version.

    Raises:
        UsageError: it is not there (the folder is not `what`), no JSON, or of another version.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"{path.parent} holds no {path.name}; give the --output folder of {what}"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}") from error
    if record.get("schema_version") != version:
        raise UsageError(
            f"{path} has schema version {record.get('schema_version')!r}, this program knows "
            f"{version}: {hint}"
        )
    return record
