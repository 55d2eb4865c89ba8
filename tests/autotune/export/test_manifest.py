"""`export.json`: records that keep the keys of the file, and files of older versions."""

import json

import pytest

from autotune.cli.export import _lines
from autotune.core.errors import UsageError
from autotune.core.forms import low_rank
from autotune.core.types import Workload
from autotune.export.manifest import (
    EngineParity,
    EngineRecord,
    Manifest,
    ParityCase,
    ParityRecord,
    open_manifest,
    read_manifest_json,
    require_own_export,
    write_manifest,
)

CASES = [
    {"batch_size": 1, "length": 7, "error": 1e-6},
    {"batch_size": 3, "length": 7, "error": 2e-6},
]
BUILT = {
    "tensorrt": "10.3.0",
    "engine_bytes": 1000,
    "seconds": 3.5,
    "layers": 12,
    "output_types": {"fp16": 9},
    "key": {"device": "a GPU", "task": {"dtype": "fp16", "profiles": []}},
}


@pytest.fixture
def manifest():
    cases = tuple(ParityCase(**case) for case in CASES)
    checked = EngineParity(tolerance=2e-2, cases=cases, latency_s=1e-3)
    return Manifest(
        format="tensorrt",
        dtype="fp16",
        checkpoint="..",
        weights_sha256="0" * 64,
        device="cpu",
        forms={"a": low_rank(8), "b": low_rank(4, "pivoted")},
        versions={"onnx": "1"},
        parity={"prefill/model.onnx": ParityRecord(tolerance=1e-4, cases=cases)},
        engines={"prefill": EngineRecord.of(BUILT, checked)},
        opset=18,
        workload=Workload(batch_size=3, sequence_length=7),
    )


def test_the_file_has_its_keys_and_is_read_back(manifest, tmp_path):
    (tmp_path / "model.onnx").touch()
    write_manifest(tmp_path, manifest)
    found = open_manifest(tmp_path)
    assert set(found.files) == {"model.onnx"}
    assert found.to_json() == {**manifest.to_json(), "files": found.to_json()["files"]}
    written = read_manifest_json(tmp_path)
    assert written["schema_version"] == 1
    assert written["parity"] == {"prefill/model.onnx": {"tolerance": 1e-4, "cases": CASES}}
    engine = {**BUILT, "tolerance": 2e-2, "cases": CASES, "latency_s": 1e-3}
    assert written["engines"] == {"prefill": engine}
    assert written["forms"] == {"a": "rank=8", "b": "rank=4:pivoted"}
    assert written["ranks"] == {"a": 8, "b": 4}


def test_the_command_prints_what_the_records_hold(manifest):
    graph, engine = _lines(manifest)
    assert graph.startswith("prefill/model.onnx: differs from the checkpoint by at most 2.0e-06")
    assert graph.endswith("(tolerance 1e-04) at 2 shapes")
    assert "TensorRT 10.3.0, 1 ms, differs from the graph by at most 2.0e-06" in engine
    assert engine.endswith("tensors {'fp16': 9}")


def changed(folder, **values):
    path = folder / "export.json"
    found = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def test_an_export_from_before_there_were_forms_has_those_of_its_ranks(manifest, tmp_path):
    write_manifest(tmp_path, manifest)
    changed(tmp_path, forms=None, engines=None, workload=None, opset=None)
    assert open_manifest(tmp_path).forms == {"a": low_rank(8), "b": low_rank(4)}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"parity": {"model.onnx": {"cases": []}}}, r"parity.model.onnx.tolerance: the key is mis"),
        (
            {"parity": {"model.onnx": {"tolerance": 1.0, "cases": []}}},
            "parity.model.onnx: cases: no shape was compared",
        ),
        ({"engines": {"prefill": {**BUILT, "surprise": 1}}}, "engines.prefill.surprise: unknown"),
        ({"ranks": {"a": 9, "b": 4}}, "ranks: .* contradicts the other values"),
    ],
)
def test_a_damaged_manifest_is_refused_with_its_place(manifest, tmp_path, values, says):
    write_manifest(tmp_path, manifest)
    changed(tmp_path, **values)
    with pytest.raises(UsageError, match=says):
        open_manifest(tmp_path)


def test_facts_of_an_engine_that_are_missing_are_named():
    cases = tuple(ParityCase(**case) for case in CASES)
    checked = EngineParity(tolerance=2e-2, cases=cases, latency_s=1e-3)
    with pytest.raises(UsageError, match="facts of the engine: tensorrt: the key is missing"):
        EngineRecord.of({k: v for k, v in BUILT.items() if k != "tensorrt"}, checked)


def test_an_export_is_replaced_only_where_all_files_are_its_own(manifest, tmp_path):
    export = tmp_path / "export"
    (export / "prefill").mkdir(parents=True)
    (export / "prefill" / "model.onnx").touch()
    write_manifest(export, manifest)
    require_own_export(export)
    (tmp_path / "link").symlink_to(export)
    with pytest.raises(UsageError, match="is a symbolic link"):
        require_own_export(tmp_path / "link")
    (export / "prefill" / "model.engine").write_text("built in place")
    with pytest.raises(UsageError, match=r"model\.engine is not of the export .* set output"):
        require_own_export(export)
    assert (export / "prefill" / "model.engine").read_text() == "built in place"


@pytest.mark.parametrize("text", ["", "null", '{"mine": 1}', '{"schema_version": 1}'])
def test_a_folder_whose_manifest_is_of_others_or_damaged_is_kept(tmp_path, text):
    (tmp_path / "export.json").write_text(text)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError):
        require_own_export(tmp_path)
