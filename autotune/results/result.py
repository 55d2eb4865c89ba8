"""What a tuning returns, and the `result.json` that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autotune.compress.companions import INDEX, is_weights
from autotune.core.errors import UsageError
from autotune.core.files import copy_whole, remove
from autotune.core.forms import Plan
from autotune.core.types import canonical_json
from autotune.results.measured import Measured
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.record import TuneRecord
from autotune.results.upgrade import SCHEMA_VERSION, oldest_version, upgrade
from autotune.results.verdict import Verdict
from autotune.results.versioned import read_versioned

RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """A tuned model in its run folder; `record` is what `result.json` holds."""

    folder: Path
    record: TuneRecord = field(repr=False)

    @property
    def plan(self) -> Plan:
        """The form of every site. Layers that share a down factor are one joint site.

        A joint site is named after its members, such as `…self_attn.q_proj+k_proj+v_proj`.
        """
        return self.record.plan

    @property
    def ranks(self) -> Mapping[str, int | None]:
        """The rank of every form in `plan`, None where it is dense; derived from the plan.

        Structure and precision are in the plan only.
        """
        return {name: form.rank_or_none for name, form in self.plan.items()}

    @property
    def measured(self) -> Measured | None:
        """The final measurement; None where the device is not present."""
        return self.record.measured

    @property
    def verdict(self) -> Verdict:
        """Whether the budget is met: by the final measurement, else by the prediction."""
        return self.record.verdict

    @property
    def quality_verdict(self) -> QualityVerdict:
        """Whether the quality on held-out data is kept, reduced or lost."""
        return self.record.quality_verdict

    @property
    def within_budget(self) -> bool | None:
        """True, False, or None where the interval of the measurement contains the limit."""
        return self.record.within_budget

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the transformers checkpoint to `folder`.

        Raises:
            UsageError: the folder holds something else than such a checkpoint.
        """
        source, target = self.folder / "model", Path(folder)
        if target.is_dir() and any(target.iterdir()) and not (target / "autotune.json").is_file():
            raise UsageError(
                f"{target} is not empty and holds no checkpoint of a tuning; give another folder"
            )
        copied = copy_whole(source, target)
        for file in target.iterdir():  # shards of an earlier checkpoint would be ambiguous
            old = is_weights(file.name) or file.name == INDEX
            if old and not (source / file.name).exists():
                remove(file)
        return copied

    def export_onnx(self, path: str | Path, *, decode: bool = False) -> Path:
        """Copy the ONNX graph of the prefill, or of one decode step, to `path`.

        Weights of a graph that is too large for one file lie beside it, in `<path>.data`.

        Raises:
            UsageError: the backend does not run ONNX, the workload has no decode phase, or the
                graph is damaged.
        """
        from autotune.compress.onnx_copy import copy_graph

        source = self.folder / ("model_decode.onnx" if decode else "model.onnx")
        if decode and not source.is_file():
            raise UsageError(
                f"{self.folder} has no graph of a decode step; tune with phase decode or request"
            )
        if not source.is_file():
            raise UsageError(
                f"backend {self.record.backend} does not produce an ONNX model; tune with "
                "onnxruntime-cpu"
            )
        return copy_graph(source, Path(path))

    def report(self, path: str | Path) -> Path:
        """Copy the HTML report to `path`."""
        return copy_whole(self.folder / "report.html", Path(path))


def result_text(record: TuneRecord) -> str:
    """`result.json` of the current schema version: canonical JSON on one line."""
    return canonical_json({"schema_version": SCHEMA_VERSION, **record.to_json()}) + "\n"


def read_result(folder: Path) -> TuneRecord:
    """The record of a finished tuning, of this or an older schema version.

    Raises:
        UsageError: the folder has no result, or one that is damaged or of a newer version.
    """
    path = folder / RESULT
    version, values = read_versioned(
        path,
        oldest=oldest_version(),
        newest=SCHEMA_VERSION,
        what="a finished tuning",
        remedy="run the tuning again",
    )
    return TuneRecord.from_json(upgrade(values, version, where=str(path)), str(path))
