"""`Client.fetch`: brings a job's files, and leaves everything that is there as it was."""

import pytest

from autotune.core.errors import UsageError
from autotune.service.client import Client

FILES = {"model/config.json": b"{}", "model/model.safetensors": b"factors", "result.json": b"{ }"}


class Served(Client):
    """A client of one job with `FILES`; `got` are those that were downloaded."""

    def __init__(self):
        super().__init__()
        self.got = []

    def artefacts(self, job_id):
        return [{"name": name, "bytes": len(data)} for name, data in FILES.items()]

    def _get(self, job_id, path, *, name):
        self.got.append(name)
        path.write_bytes(FILES[name])


@pytest.fixture
def served():
    with Served() as client:
        yield client


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_files_are_brought_and_brought_again(served, tmp_path):
    for _ in range(2):
        found = served.fetch("1", tmp_path)
        assert content(tmp_path) == FILES
        assert {path.relative_to(tmp_path.resolve()).as_posix() for path in found} == set(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["longer", "of the same size"])
def test_another_file_of_the_same_name_is_kept(served, tmp_path, name, change):
    mine = b"mine, and longer" if change == "longer" else b"!" * len(FILES[name])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(mine)
    with pytest.raises(UsageError, match="is not that of the job; move it away, or set output"):
        served.fetch("1", tmp_path)
    assert (tmp_path / name).read_bytes() == mine
    if change == "longer":
        assert served.got == []
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(("tmp", "."))]


def test_a_folder_where_a_file_would_be_is_kept(served, tmp_path):
    (tmp_path / "result.json").mkdir()
    with pytest.raises(UsageError, match="is not that of the job"):
        served.fetch("1", tmp_path)
    assert served.got == []
