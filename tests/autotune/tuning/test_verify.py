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
    found = verify._parity(half.parent, half.name, record=record, runtime="", reporter=Reporter())
    assert not found.reason
    assert 0 < found.facts.worst <= 2e-2


def test_in_another_precision_it_is_no_right_graph(half):
    with pytest.raises(ParityError):
        verify._parity(
            half.parent,
            half.name,
            record=replace(stored_record(), dtype="fp32"),
            runtime="",
            reporter=Reporter(),
        )


def test_another_processor_is_a_warning(monkeypatch):
    monkeypatch.setattr(verify, "cpu_features", lambda: ("avx2", "avx512_vnni"))
    record = replace(stored_record(), cpu_features=("amx_bf16", "avx2"))
    lacking, more = verify.processor_warnings(record)
    assert "lacks amx_bf16:" in lacking
    assert "has also avx512_vnni:" in more


@pytest.mark.parametrize("features", [(), ("avx2",)])
def test_the_same_or_an_unknown_processor_is_none(monkeypatch, features):
    monkeypatch.setattr(verify, "cpu_features", lambda: ("avx2",))
    assert not list(verify.processor_warnings(replace(stored_record(), cpu_features=features)))
