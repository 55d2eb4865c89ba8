import os
import subprocess
import sys
import textwrap

import pytest

from autotune.core.errors import RunFolderBusyError, RunFolderError, StorageError, storage_errors
from autotune.core.runfolder import RunFolder


def test_a_stage_is_built_once_per_inputs(tmp_path):
    calls = []
    with RunFolder(tmp_path) as folder:
        for inputs in ({"a": 1}, {"a": 1}, {"a": 2}):
            value = folder.json_stage("s", inputs, compute=lambda i=inputs: calls.append(1) or i)
            assert value == inputs
    assert len(calls) == 2


def test_a_failed_stage_leaves_nothing(tmp_path):
    def build(path):
        path.write_text("half")
        raise RuntimeError("stop")

    with RunFolder(tmp_path) as folder:
        with pytest.raises(RuntimeError):
            folder.stage("s", 1, suffix=".txt", build=build)
        assert [p.name for p in folder.cache.iterdir()] == ["lock"]


def test_a_killed_stage_is_built_again(tmp_path):
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from autotune.core.runfolder import RunFolder
        def build(path):
            path.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        with RunFolder(Path({str(tmp_path)!r})) as folder:
            folder.stage("s", 1, suffix=".txt", build=build)
        """
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    with RunFolder(tmp_path) as folder:
        path, reused = folder.stage(
            "s", 1, suffix=".txt", build=lambda p: p.write_text("whole") and None
        )
        assert not reused
        assert path.read_text() == "whole"
        assert not list(folder.cache.glob(".*.part"))


def test_one_process_at_a_time(tmp_path):
    with RunFolder(tmp_path):
        with pytest.raises(RunFolderBusyError, match="in use") as caught:
            RunFolder(tmp_path).__enter__()
    assert caught.value.exit_code == 75
    with RunFolder(tmp_path):
        pass


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(RunFolderError, match="set output to a writable"):
        RunFolder(tmp_path / "out").__enter__()


@pytest.mark.parametrize("message", ["I/O error: No space left on device (os error 28)"])
def test_libraries_that_hide_a_full_disk(tmp_path, message):
    with pytest.raises(StorageError, match="no space left"):
        with storage_errors(tmp_path):
            raise RuntimeError(message)


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with storage_errors(tmp_path):
            _ = 1 / 0
    with pytest.raises(OSError, match="boom"):
        with storage_errors(tmp_path):
            raise OSError(os.EX_IOERR, "boom")


@pytest.fixture(params=[".json", ".safetensors", ""])
def entry(request, tmp_path):
    """An entry of a cache, a file or a folder: how to get it, and a file of it."""
    notes, built = [], []

    def build(path):
        built.append(path)
        if request.param:
            path.write_text("content")
        else:
            path.mkdir()
            (path / "model.onnx").write_text("content")

    def get():
        with RunFolder(tmp_path, note=notes.append) as folder:
            path, reused = folder.stage("factors", 1, suffix=request.param, build=build)
        return path if request.param else path / "model.onnx", reused

    return get, notes


@pytest.mark.parametrize("content", ["", "cont", "contenT", "null", '{"x": 1}', "content\n", None])
def test_a_damaged_entry_is_named_and_made_again(entry, content):
    get, notes = entry
    path, _ = get()
    path.unlink() if content is None else path.write_text(content)
    assert get() == (path, False)
    assert path.read_text() == "content"
    assert get() == (path, True)
    if content is not None or path.name == "model.onnx":
        assert [note.endswith("it is made again") and "factors-" in note for note in notes] == [
            True
        ]


@pytest.mark.parametrize("content", [None, "", "null", "0" * 64 + "  factors\n"])
def test_an_entry_without_its_checksum_is_made_again(entry, tmp_path, content):
    get, notes = entry
    get()
    (beside,) = (tmp_path / ".cache").glob("*.sha256")
    beside.unlink() if content is None else beside.write_text(content)
    assert get()[1] is False
    assert get()[1] is True
    assert len(notes) == 1


def test_an_entry_that_is_a_link_is_removed_without_its_target(tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "mine").write_text("mine")
    with RunFolder(tmp_path / "out") as folder:
        path, _ = folder.stage("dense", 1, suffix="", build=lambda path: path.mkdir())
        path.rmdir()
        path.symlink_to(target)
        assert folder.stage("dense", 1, suffix="", build=lambda path: path.mkdir()) == (path, False)
    assert (target / "mine").read_text() == "mine"
    assert not path.is_symlink()


def test_a_value_whose_file_was_changed_is_computed_again(tmp_path):
    with RunFolder(tmp_path) as folder:
        assert folder.json_stage("anchor", 1, compute=lambda: {"latency_s": 0.5}) == {
            "latency_s": 0.5
        }
    (path,) = (tmp_path / ".cache").glob("anchor-*.json")
    path.write_text("-1.0")
    with RunFolder(tmp_path) as folder:
        assert folder.json_stage("anchor", 1, compute=lambda: {"latency_s": 0.6}) == {
            "latency_s": 0.6
        }


def test_the_lock_is_not_written_to(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock").write_text("of another program")
    with RunFolder(tmp_path):
        pass
    assert (tmp_path / ".cache" / "lock").read_text() == "of another program"


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("../victim")],
    ids=["fifo", "folder", "link"],
)
def test_what_has_taken_the_name_of_the_lock_is_no_lock(make, tmp_path):
    """It does not hang at a FIFO, and nothing that a link leads to is emptied."""
    (tmp_path / "victim").write_text("kept")
    (tmp_path / ".cache").mkdir()
    make(tmp_path / ".cache" / "lock")
    with pytest.raises(RunFolderError, match="cannot write"):
        RunFolder(tmp_path).__enter__()
    assert (tmp_path / "victim").read_text() == "kept"
