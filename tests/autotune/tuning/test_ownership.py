"""A tuning replaces what bears its stamp, and refuses at once whatever else it would replace."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.compress.calibration_plan import CalibrationPlan
from autotune.compress.onnx_checkpoint import GRAPHS
from autotune.core.errors import RunFolderError
from autotune.core.files import file_sha256
from autotune.core.runfolder import RunFolder
from autotune.core.types import Budget
from autotune.tuning.options import MachineOptions
from autotune.tuning.ownership import (
    GRAPH_FILES,
    REPLACED,
    check_output,
    claim,
    is_unchanged,
    require_replaceable,
)
from autotune.tuning.request import TuneRequest


def model(path):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"dense")
    return path


def handed_out(folder, *, graphs=("model.onnx",), listed=True, stamped=True):
    """A folder as a tuning leaves it."""
    checkpoint = model(folder / "model")
    if stamped:
        (checkpoint / "autotune.json").write_text('{"key": "compressed-1"}')
    (checkpoint / "README.md").write_text("card")
    for name in (*graphs, "report.html"):
        (folder / name).write_text(name)
    names = [*graphs, *(f"model/{file.name}" for file in checkpoint.iterdir())]
    files = {name: file_sha256(folder / name) for name in names} if listed else {}
    result = {"schema_version": 4, "sites": [], "files": files}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def request_on(tmp_path):
    """A request whose model is a folder; everything else by keyword."""

    def make(**more):
        values = {"model": str(tmp_path / "dense"), "output": tmp_path / "out", **more}
        return TuneRequest(budget=Budget(parameters="0.9x"), **values)

    model(tmp_path / "dense")
    return make


def refused(request, *says):
    before = snapshot(request.output.parent)
    with pytest.raises(RunFolderError) as error:
        check_output(request)
    for text in says:
        assert text in str(error.value)
    assert "output" in str(error.value)
    assert snapshot(request.output.parent) == before


def test_every_graph_is_among_what_is_replaced():
    assert set(GRAPHS.values()) <= set(GRAPH_FILES) <= set(REPLACED)


def test_a_new_an_empty_and_an_earlier_folder_are_taken(request_on, tmp_path):
    request = request_on()
    check_output(request)
    (tmp_path / "out" / "notes.txt").write_text("the user's, and not in the way")
    check_output(request)
    handed_out(tmp_path / "out")
    check_output(request)


@pytest.mark.parametrize("where", ["out/model", "out/model/inner", "out", "."])
def test_a_model_that_is_is_in_or_holds_what_is_replaced(request_on, tmp_path, where):
    place = tmp_path / where
    (place / "config.json").parent.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text("{}")
    refused(request_on(model=str(place)), "is, holds or lies in")


def test_a_model_behind_links_and_dots(request_on, tmp_path):
    dense = model(tmp_path / "out" / "model")
    (tmp_path / "link").symlink_to(dense)
    (tmp_path / "farm").mkdir()
    for file in dense.iterdir():
        (tmp_path / "farm" / file.name).symlink_to(file)
    (tmp_path / "alias").symlink_to(tmp_path / "out")
    for path in ("link", "farm", "out/../out/model", "alias/model"):
        refused(request_on(model=str(tmp_path / path)), "is, holds or lies in")
    refused(request_on(model=str(dense), output=tmp_path / "alias"), "is, holds or lies in")
    refused(
        request_on(model=os.path.relpath(dense), output=Path(os.path.relpath(tmp_path / "out"))),
        "is, holds or lies in",
    )


@pytest.mark.parametrize("name", ["calibration", "evaluation"])
@pytest.mark.parametrize("place", ["out/model/text.txt", "out/report.html", "out/.cache/text.txt"])
def test_data_in_what_is_replaced(request_on, tmp_path, name, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text("text")
    plan = replace(CalibrationPlan(), **{name: path})
    refused(request_on(calibration=plan), f"calibration.{name}")


@pytest.mark.parametrize("place", ["out", "out/result.json", "out/model/latency.sqlite"])
def test_a_database_in_what_is_replaced(request_on, tmp_path, place):
    refused(request_on(machine=MachineOptions(database=tmp_path / place)), "machine.database")


@pytest.mark.parametrize("name", ["model/notes.txt", "model.onnx", "report.html", "result.json"])
def test_files_of_others_are_named(request_on, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 1}')
    refused(request_on(), str(path.parent if "/" in name else path))


@pytest.mark.parametrize("name", ["model/notes.txt", "model/onnx/model.onnx"])
def test_files_that_others_put_into_a_checkpoint_are_named(request_on, tmp_path, name):
    for listed in (True, False):
        out = handed_out(tmp_path / f"out-{listed}", listed=listed)
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
        refused(request_on(output=out), str(out / name))


def test_graphs_of_others_beside_a_result_without_them(request_on, tmp_path):
    out = handed_out(tmp_path / "out", graphs=())
    check_output(request_on())
    (out / "model.onnx").write_text("mine")
    refused(request_on(), str(out / "model.onnx"))


def test_another_model_in_the_place_of_ours(request_on, tmp_path):
    out = handed_out(tmp_path / "out")
    (out / "model" / "autotune.json").unlink()
    refused(request_on(), str(out / "model"))


@pytest.mark.parametrize("name", ["model", "result.json", "model.onnx"])
@pytest.mark.parametrize("dangling", [True, False])
def test_links_are_not_replaced(request_on, tmp_path, name, dangling):
    target = tmp_path / "elsewhere"
    if not dangling:
        handed_out(target)
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(target / name)
    refused(request_on(), str(out / name), "symbolic link")


@pytest.mark.parametrize("text", ["", "null", '{"x": 1}', "[1, 2", '{"schema_version": 99}'])
@pytest.mark.parametrize("name", ["result.json", "model/autotune.json", ".cache/handed-out.json"])
def test_damaged_documents_of_ours_are_still_ours(request_on, tmp_path, name, text):
    out = handed_out(tmp_path / "out")
    names = json.loads((out / "result.json").read_text())["files"]
    with RunFolder(out) as folder:
        claim(folder, [*names, "report.html", "result.json"])
    (out / name).write_text(text)
    check_output(request_on())


def test_a_run_that_was_killed_while_it_handed_out_goes_on(request_on, tmp_path):
    out = handed_out(tmp_path / "out")
    names = json.loads((out / "result.json").read_text())["files"]
    with RunFolder(out) as folder:
        claim(folder, names)
    for name in ("result.json", "report.html"):
        (out / name).unlink()
    check_output(request_on())
    # An earlier version kept no list.
    (out / ".cache" / "handed-out.json").unlink()
    check_output(request_on())


def test_leftovers_are_removed_and_files_of_like_names_are_not(tmp_path):
    out = handed_out(tmp_path / "out")
    (out / ".cache").mkdir()
    mine = [out / ".model.part", out / ".cache" / ".download.part", out / ".cache" / "lock"]
    ours = [
        out / ".model.autotune.part",
        out / ".cache" / ".factors-0123456789abcdef.safetensors.part",
    ]
    for path in (*mine, *ours):
        path.write_text("text")
    with RunFolder(out):
        assert all(path.read_text() == "text" for path in mine)
        assert not any(path.exists() for path in ours)


def test_a_checkpoint_is_unchanged_only_file_by_file(tmp_path):
    out = handed_out(tmp_path / "out")
    assert is_unchanged(out, "compressed-1")
    assert not is_unchanged(out, "compressed-2")
    (out / "model" / "README.md").write_text("another card")
    assert is_unchanged(out, "compressed-1")
    (out / "model" / "config.json").write_text("{ }")
    assert not is_unchanged(out, "compressed-1")


@pytest.mark.parametrize("change", ["lost", "added", "no result"])
def test_a_checkpoint_with_other_files_is_not_unchanged(tmp_path, change):
    out = handed_out(tmp_path / "out")
    if change == "lost":
        (out / "model" / "config.json").unlink()
    elif change == "added":
        (out / "model" / "more.json").write_text("{}")
    else:
        (out / "result.json").unlink()
    assert not is_unchanged(out, "compressed-1")


def test_a_folder_is_refused_as_a_file_and_a_file_as_a_folder(tmp_path):
    out = handed_out(tmp_path / "out")
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    with pytest.raises(RunFolderError, match=r"report\.html is not of an earlier tuning"):
        require_replaceable(out)
