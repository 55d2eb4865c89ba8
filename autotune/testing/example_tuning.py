"""The example model as a tuning has it: traced, compressed, with plans and a place to work in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from autotune.compress.factors import FactorStore, build_factor_store
from autotune.compress.loading import LoadedModel
from autotune.compress.metrics import make_metric
from autotune.compress.statistics import Statistics
from autotune.core.forms import Plan, low_rank
from autotune.core.progress import Advance, Reporter, no_progress
from autotune.core.runfolder import RunFolder
from autotune.core.workload import Workload
from autotune.testing.examples import example_model
from autotune.tuning.compression import Compression
from autotune.tuning.model import TracedModel, trace_model
from autotune.tuning.workspace import Workspace

EXAMPLE_WORKLOAD = Workload(batch_size=2, sequence_length=16, output_length=4, phase="request")
# One layer by itself, and two that share their down factor.
EXAMPLE_PLAN: Plan = {
    "model.layers.0.self_attn.q_proj": low_rank(8),
    "model.layers.1.mlp.gate_proj+up_proj": low_rank(16),
}


@dataclass
class RecordingReporter(Reporter):
    """Keeps the names of the stages that were begun, and the notes."""

    stages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Keep the stage's name, to be compared with what was expected."""
        self.stages.append(name)
        yield no_progress

    def note(self, text: str) -> None:
        """Keep the line, to be compared with what was expected."""
        self.notes.append(text)


def example_traced(workload: Workload = EXAMPLE_WORKLOAD) -> TracedModel:
    """The example model under `workload`; it lies in no folder."""
    loaded = LoadedModel(
        name="example",
        folder=Path("/nonexistent"),
        task="causal-lm",
        model=example_model().model,
        tokenizer=None,
        weights_sha256="0" * 64,
    )
    return trace_model(loaded, workload)


def example_compression(model: TracedModel, folder: Path) -> Compression:
    """Factors of `model` by plain SVD of the weights, kept in `folder`."""
    path = folder / "factors.safetensors"
    build_factor_store(
        model.loaded.model,
        model.single,
        path=path,
        metric=make_metric("weight"),
        statistics=Statistics(moments={}, input_group={}, rows={}, rows_per_item={}),
        joint=model.joint,
    )
    return Compression(
        model=model,
        factors=FactorStore(path),
        key=model.key,
        metric="weight",
        storage="fp32",
    )


@contextmanager
def example_workspace(folder: Path) -> Iterator[tuple[Workspace, RecordingReporter]]:
    """A run folder that is open, and what is reported of the work in it."""
    reporter = RecordingReporter()
    with RunFolder(folder) as run_folder:
        yield Workspace(folder=run_folder, reporter=reporter), reporter
