import os
import subprocess
import sys
import textwrap

import pytest

from autotune.core.errors import RunFolderError, StorageError, storage_errors
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
        with pytest.raises(RunFolderError, match="in use"):
            RunFolder(tmp_path).__enter__()
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
