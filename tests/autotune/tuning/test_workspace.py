"""What a tuning works in: cached files and values by their inputs, and a reporter."""

from contextlib import contextmanager

import pytest

from autotune.core.progress import Reporter
from autotune.core.runfolder import RunFolder
from autotune.tuning.workspace import Workspace


class Recording(Reporter):
    def __init__(self):
        self.seen = []

    @contextmanager
    def stage(self, name):
        self.seen.append(name)
        yield lambda done, total: self.seen.append((done, total))

    def note(self, text):
        self.seen.append(text)


def write(text):
    return lambda path: path.write_text(text)


def fail(*_):
    raise AssertionError("built again")


def test_a_file_is_built_once_for_its_inputs(workspace):
    path = workspace.file("inputs", {"a": 1}, suffix=".txt", build=write("one"))
    assert path.read_text() == "one"
    assert path.parent == workspace.cache
    assert workspace.file("inputs", {"a": 1}, suffix=".txt", build=fail) == path
    other = workspace.file("inputs", {"a": 2}, suffix=".txt", build=write("two"))
    assert (path.read_text(), other.read_text()) == ("one", "two")


def test_a_value_is_computed_once_for_its_inputs(workspace):
    first = workspace.value("timing", ["a"], compute=lambda: {"ratio": 0.1 + 0.2})
    assert first == {"ratio": 0.1 + 0.2}
    assert workspace.value("timing", ["a"], compute=fail) == first
    assert workspace.value("timing", ["b"], compute=lambda: 5) == 5
    assert workspace.value("other", ["a"], compute=lambda: 6) == 6


def test_what_is_cached_outlives_the_tuning(tmp_path):
    for compute in (lambda: 7, fail):
        with RunFolder(tmp_path / "out") as folder:
            workspace = Workspace(folder=folder, reporter=Reporter())
            assert workspace.value("timing", "a", compute=compute) == 7


def test_a_build_that_fails_is_not_kept(workspace):
    def half(path):
        path.mkdir()
        (path / "model.onnx").write_text("half")
        raise OSError("interrupted")

    with pytest.raises(OSError, match="interrupted"):
        workspace.file("dense", "a", suffix="", build=half)
    assert [path.name for path in workspace.cache.iterdir()] == ["lock"]
    assert workspace.file("dense", "a", suffix="", build=write("whole")).read_text() == "whole"


def test_progress_reaches_the_reporter(tmp_path):
    reporter = Recording()
    with RunFolder(tmp_path / "out") as folder:
        workspace = Workspace(folder=folder, reporter=reporter)
        with workspace.stage("factorize") as advance:
            advance(1, 2)
        workspace.note("one line")
    assert reporter.seen == ["factorize", (1, 2), "one line"]
