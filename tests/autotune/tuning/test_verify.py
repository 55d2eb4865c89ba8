"""What `verify` compares the graphs of a tuning with."""

from dataclasses import replace

import pytest

from autotune.core.errors import ParityError
from autotune.core.files import copy_whole
from autotune.core.forms import low_rank
from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.tuning import verify
from autotune.tuning.builders import CheckpointBuilder
from autotune.tuning.graph_builders import TypedOnnxBuilder
from autotune.tuning.workspace import Workspace
from tests.autotune.tuning.conftest import Q
from tests.autotune.tuning.test_builders import machine_of
from tests.records import stored_record

PLAN = {Q: low_rank(8)}


@pytest.fixture(scope="module")
def half(model, compression, tmp_path_factory):
    """The graph of a tuning in fp16, beside its checkpoint."""
    machine, out = machine_of("onnxruntime-cuda", "fp16"), tmp_path_factory.mktemp("half")
    with RunFolder(tmp_path_factory.mktemp("run")) as folder:
        workspace = Workspace(folder=folder, reporter=Reporter())
        builders = [
            kind(model, machine, workspace=workspace)
            for kind in (TypedOnnxBuilder, CheckpointBuilder)
        ]
        graph, checkpoint = (
            builder.compressed("prefill", compression, plan=PLAN) for builder in builders
        )
        copy_whole(checkpoint, out / "model")
        return copy_whole(graph, out / "model.onnx")


@pytest.mark.slow
def test_a_graph_in_half_precision_is_compared_in_half_precision(half):
    record = replace(stored_record(), dtype="fp16")
    found = verify._parity(half, record, reporter=Reporter())
    assert not found.reason
    assert 0 < found.facts.worst <= 2e-2


def test_in_another_precision_it_is_no_right_graph(half):
    with pytest.raises(ParityError):
        verify._parity(half, replace(stored_record(), dtype="fp32"), reporter=Reporter())
