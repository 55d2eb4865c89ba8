"""Exports: compared with the checkpoint at shapes never traced, whole or not there, and hashed."""

import dataclasses
import importlib.util
import json
import re
import shutil
import stat
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

import autotune.compress.onnx_export as onnx_export
from autotune.compress.checkpoint import save_checkpoint
from autotune.compress.loading import load_checkpoint
from autotune.compress.lowrank import replace_modules
from autotune.compress.onnx_rewrite import check_low_rank
from autotune.compress.sites import find_sites
from autotune.core.errors import EngineError, ModelError, ParityError, UsageError
from autotune.core.types import Workload
from autotune.export.dense import merge
from autotune.export.onnx import export_onnx
from autotune.export.parity import check_parity, onnx_network
from autotune.export.tensorrt import export_tensorrt
from autotune.profiler.backends.openvino_cpu import inference_dtype
from autotune.profiler.engines import builder, python
from autotune.profiler.engines.engine_process import EngineProcess
from autotune.results.result import result_text
from autotune.tuning.verify import verify
from tests.conftest import random_layers, tiny_model
from tests.records import stored_record

pytestmark = pytest.mark.duration(110)


def checkpoint(kind, path):
    model = tiny_model(kind, layers=1)
    replace_modules(model, random_layers(model, find_sites(model).sites, 8))
    save_checkpoint(model, None, folder=path / "model")
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return checkpoint("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def exported(llama):
    return export_onnx(llama, decode=True)


@pytest.mark.slow
def test_both_graphs_agree_with_the_checkpoint_at_every_shape(llama, exported):
    assert exported["output"] == str(llama / "onnx-fp32")
    assert set(exported["files"]) == {"model.onnx", "model_decode.onnx"}
    for name, found in exported["parity"].items():
        shapes = {(case["batch_size"], case["length"]) for case in found["cases"]}
        longest = 64 if name == "model.onnx" else 63  # the model has 64 positions
        assert {(1, 1), (3, 7), (1, longest), (3, longest)} <= shapes
        assert all(case["error"] <= found["tolerance"] == 1e-4 for case in found["cases"])
    model = onnx.load(llama / "onnx-fp32" / "model.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["autotune.ranks"]) == exported["ranks"]
    assert json.loads(facts["autotune.forms"]) == exported["forms"]
    assert exported["forms"] == {name: f"rank={r}" for name, r in exported["ranks"].items()}
    assert set(exported["ranks"].values()) == {8}
    assert {"torch", "onnx"} <= set(json.loads(facts["autotune.versions"]))


@pytest.mark.slow
def test_an_export_is_replaced_and_anything_else_is_not(llama, exported, tmp_path):
    again = export_onnx(llama)
    assert set(again["files"]) == {"model.onnx"}
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="is no export"):
        export_onnx(llama, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("write", [export_onnx, export_tensorrt, merge])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_what_is_there_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch, write, kind):
    monkeypatch.setattr("autotune.compress.loading.load_checkpoint", lambda *_: pytest.fail("late"))
    checkpoint("bert", tmp_path)
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / ("model" if kind == "link" else "nowhere"))
    with pytest.raises(UsageError, match="set output to another folder"):
        write(tmp_path, target)
    assert target.is_symlink() == (kind in ("link", "dangling link"))


@pytest.mark.parametrize("command", ["export", "merge"])
@pytest.mark.parametrize("output", ["/proc/x", "file/x", "n" * 300])
def test_an_output_that_cannot_be_written(llama, cli, tmp_path, command, output):
    (tmp_path / "file").touch()
    done = cli(command, llama, "--output", output, cwd=tmp_path)
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("autotune: cannot write ")
    assert sentence.endswith("set --output to a writable folder")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "vit", "clip", "gpt2"])
def test_other_architectures_in_half_precision(kind, tmp_path):
    folder = checkpoint(kind, tmp_path)
    found = export_onnx(folder, dtype="fp16")
    graph = onnx.load(tmp_path / "onnx-fp16" / "model.onnx")
    names = set(found["ranks"])
    half = {w.name for w in graph.graph.initializer if w.data_type == onnx.TensorProto.FLOAT16}
    assert {f"{name}.weight" for name in names} <= half
    with torch.no_grad():
        layers = dict(load_checkpoint(folder).model.named_modules())
    check_low_rank(graph, {name: layers[name] for name in names})


def test_the_dtype_that_a_tuning_ran_in_goes_along(tmp_path):
    """OpenVINO is told it; other readers do not look."""
    checkpoint("bert", tmp_path)
    record = dataclasses.replace(stored_record(), runtime_dtype="bf16")
    (tmp_path / "result.json").write_text(result_text(record))
    export_onnx(tmp_path)
    assert inference_dtype(tmp_path / "onnx-fp32" / "model.onnx") == "bf16"


def test_what_cannot_be_exported_is_refused(tmp_path):
    folder = checkpoint("bert", tmp_path)
    with pytest.raises(UsageError, match="no decode step"):
        export_onnx(folder, decode=True)
    with pytest.raises(UsageError, match="fp32 or fp16"):
        export_onnx(folder, dtype="int8")
    with pytest.raises(ModelError, match="does not exist"):
        export_onnx(tmp_path / "nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.slow
def test_a_graph_that_computes_something_else_is_refused(llama, exported):
    loaded = load_checkpoint(llama)
    right = onnx_network(llama / "onnx-fp32" / "model.onnx")

    def slightly_wrong(feeds):
        return {name: value * 1.001 for name, value in right(feeds).items()}

    with pytest.raises(ParityError, match="differs from the checkpoint"):
        check_parity(loaded, "prefill", network=slightly_wrong, dtype="fp32", what="model.onnx")
    with pytest.raises(ParityError):
        check_parity(
            loaded,
            "prefill",
            network=lambda feeds: {k: v * np.nan for k, v in right(feeds).items()},
            dtype="fp32",
            what="model.onnx",
        )


def test_a_graph_that_does_not_run_is_invalid(llama, tmp_path):
    """Such as one that was written for a single sequence."""
    export_onnx(llama, tmp_path / "export")
    path = tmp_path / "export" / "model.onnx"
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    found = [check for check in verify(path.parent).checks if check.kind == "parity"]
    assert [check.holds for check in found] == [False]
    assert re.match(r"model\.onnx does not run at \[3, 1\]: .*", found[0].reason)


@pytest.fixture(scope="module")
def large(llama, tmp_path_factory):
    """An export whose weights count as too large for one file."""
    folder = tmp_path_factory.mktemp("large") / "export"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "EXTERNAL_ABOVE_BYTES", 10_000)
        return folder, export_onnx(llama, folder)


@pytest.mark.slow
def test_large_weights_lie_beside_the_graph(large, tmp_path):
    folder, found = large
    shutil.copytree(folder, tmp_path / "large")
    assert set(found["files"]) == {"model.onnx", "model.onnx.data"}
    assert verify(tmp_path / "large").valid
    data = tmp_path / "large" / "model.onnx.data"
    raw = bytearray(data.read_bytes())
    raw[len(raw) // 2] ^= 1
    data.write_bytes(raw)
    report = verify(tmp_path / "large")
    assert not report.valid
    assert "model.onnx.data has been changed since it was written" in json.dumps(report.to_json())


@pytest.mark.slow
def test_external_data_outside_the_folder_is_not_read(large, tmp_path):
    shutil.copytree(large[0], tmp_path / "evil" / "export")
    path = tmp_path / "evil" / "export" / "model.onnx"
    path.with_name("model.onnx.data").rename(tmp_path / "evil" / "secret")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"cannot open .*model\.onnx"):
        onnx_network(path)
    assert not verify(path.parent).valid


DAMAGES = {
    "truncated": lambda folder: truncate(folder / "model.safetensors"),
    "shapes": lambda folder: edit(folder, lambda layer: layer.update(rank=5, form="rank=5")),
    "no ranks": lambda folder: edit(folder, lambda layer: layer.pop("rank")),
    "no layers": lambda folder: edit_config(folder, lambda config: config.update(layers={})),
}


SAYS = {
    "truncated": "not a readable safetensors file",
    "shapes": "mismatch",
    "no ranks": "needs a whole number as 'rank'",
    "no layers": "mismatch",
}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


def edit(folder, change):
    edit_config(folder, lambda config: [change(layer) for layer in config["layers"].values()])


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_checkpoint_is_one_clear_error_and_nothing_is_written(damage, tmp_path, cli):
    folder = checkpoint("llama", tmp_path)
    DAMAGES[damage](folder / "model")
    done = cli("export", folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("autotune: ")
    assert "Traceback" not in done.stderr
    assert SAYS[damage] in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.faults
def test_a_full_disk_leaves_nothing_half_written(llama, tmp_path):
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from autotune.export.onnx import export_onnx\n"
        "from autotune.core.errors import StorageError\n"
        "try:\n"
        f"    export_onnx({str(llama)!r}, {str(tmp_path / 'out')!r})\n"
        "except StorageError as error:\n"
        "    print('STORAGE', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "STORAGE no space left" in done.stdout, done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_tensorrt(monkeypatch):
    monkeypatch.setenv(python.VARIABLE, "/nonexistent/python")


@pytest.mark.slow
@pytest.mark.parametrize(("version", "opset"), [(8, 17), (None, 18)])
def test_without_tensorrt_there_is_a_kit(no_tensorrt, llama, tmp_path, version, opset):
    workload = Workload(batch_size=2, sequence_length=16)
    found = export_tensorrt(
        llama, tmp_path / "kit", dtype="fp16", decode=True, workload=workload, tensorrt=version
    )
    assert found["engines"] == {}
    assert "TensorRT needs" in found["kit_because"]
    for run, name in (("prefill", "model.onnx"), ("decode", "model_decode.onnx")):
        task = json.loads((tmp_path / "kit" / run / "build.json").read_text())
        assert task["onnx"] == name
        model = onnx.load(tmp_path / "kit" / run / name)
        onnx.checker.check_model(model, full_check=True)
        assert [entry.version for entry in model.opset_import] == [opset]
        wanted = {value.name for value in model.graph.input}
        assert all(set(profile) == wanted for profile in task["profiles"])
        assert (
            tmp_path / "kit" / run / "build_engine.py"
        ).read_text() == builder.SCRIPT.read_text()
    whole, one = json.loads((tmp_path / "kit" / "prefill" / "build.json").read_text())["profiles"]
    assert whole["input_ids"] == [[1, 1], [2, 16], [2, 16]]
    assert one["input_ids"] == [[1, 1], [2, 1], [2, 1]]
    assert verify(tmp_path / "kit").valid


@pytest.mark.slow
def test_an_engine_may_do_with_one_profile(no_tensorrt, llama, tmp_path, cli):
    shape = ("--batch-size", "2", "--isl", "16", "--tensorrt", "8")
    done = cli(
        "export", llama, "--format", "tensorrt", "--one-profile", *shape, "-o", tmp_path / "kit"
    )
    assert done.returncode == 0, done.stderr
    (whole,) = json.loads((tmp_path / "kit" / "prefill" / "build.json").read_text())["profiles"]
    assert whole["input_ids"] == [[1, 1], [2, 16], [2, 16]]


def test_a_demanded_engine_is_an_error(no_tensorrt, llama, tmp_path, cli):
    with pytest.raises(EngineError, match="TensorRT needs"):
        export_tensorrt(llama, tmp_path / "engine", here=True)
    done = cli("export", llama, "--format", "tensorrt", "--device", "here", "-o", tmp_path / "e")
    assert done.returncode == 4
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_that_is_not_there_is_named(no_tensorrt):
    with pytest.raises(EngineError, match="/nonexistent/python does not run"):
        EngineProcess()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="it has one")
def test_a_process_without_tensorrt_says_so(tmp_path):
    with EngineProcess() as engines, pytest.raises(EngineError, match="No module named 'tensorrt'"):
        engines.load(tmp_path / "model.engine", {"x": np.zeros(3)})


REFUSED = '{"error": "RuntimeError: no such layer"}'


@pytest.mark.parametrize(
    ("script", "limit_s", "says"),
    [
        ("sleep 60", 1.0, "no engine within 1 s"),
        ("echo refused >&2; exit 3", 60.0, "ended with exit code 3: refused"),
        ('echo \'{"phase": "build"}\'; kill -9 $$', 60.0, "ended with signal 9"),
        (f"echo '{REFUSED}'; exit 1", 60.0, "^RuntimeError: no such layer$"),
    ],
)
def test_a_build_that_hangs_or_dies_costs_only_itself(tmp_path, monkeypatch, script, limit_s, says):
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv(python.VARIABLE, str(stand_in))
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "gpu_names", lambda: ["a GPU"])
    monkeypatch.setattr(builder, "missing_parts", lambda: None)
    monkeypatch.setattr(builder, "tensorrt_version", lambda: "10.0")
    (tmp_path / "model.onnx").write_bytes(b"graph")
    with pytest.raises(EngineError, match=says):
        builder.build_engine(
            tmp_path / "model.onnx",
            {"dtype": "fp16", "profiles": []},
            output=tmp_path / "e",
            limit_s=limit_s,
        )
    assert not (tmp_path / "e").exists()
    assert list((tmp_path / "cache" / "engines").iterdir()) == []


def test_an_engine_is_bound_to_all_that_it_is_made_of(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "gpu_names", lambda: ["a GPU"])
    monkeypatch.setattr(builder, "tensorrt_version", lambda: "10.0")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph")
    task = {"dtype": "fp16", "profiles": []}
    first = builder.engine_key(path, task)
    path.with_name("model.onnx.data").write_bytes(b"weights")
    second = builder.engine_key(path, task)
    monkeypatch.setattr(builder, "tensorrt_version", lambda: "10.1")
    keys = [
        first,
        second,
        builder.engine_key(path, task),
        builder.engine_key(path, {**task, "dtype": "fp32"}),
    ]
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == 4
