"""Files appear whole or not at all, and a refused write is one clear sentence."""

import errno

import pytest

from autotune.core.errors import StorageError, refused_write
from autotune.core.files import copy_whole, make_folder, write_text_whole, write_whole

REFUSED = ["/proc/x.txt", "/proc/new/x.txt", "{tmp}/file/x.txt", "{tmp}/" + "n" * 300]


@pytest.fixture
def place(tmp_path):
    """A path below `tmp_path`, where `file` is a file, from a pattern."""
    (tmp_path / "file").write_text("kept")
    return lambda pattern: type(tmp_path)(pattern.format(tmp=tmp_path))


@pytest.mark.parametrize("pattern", REFUSED)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_built(place, pattern):
    with pytest.raises(StorageError, match=r"cannot write .*; give another --file$"):
        write_whole(
            place(pattern), lambda _: pytest.fail("was built"), advice="give another --file"
        )


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("kept")
    with pytest.raises(StorageError, match="is a folder"):
        write_text_whole(tmp_path / "folder", "text")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "precious"]


def test_missing_folders_are_made_and_a_failure_leaves_what_was_there(tmp_path):
    path = write_text_whole(tmp_path / "a" / "b" / "file", "first")

    def build(temporary):
        temporary.write_text("half")
        raise FileNotFoundError(errno.ENOENT, "an input is missing", "input.txt")

    with pytest.raises(FileNotFoundError, match=r"input\.txt"):
        write_whole(path, build)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_folder_replaces_a_folder_and_copies_into_one(tmp_path):
    for name, text in (("one", "1"), ("two", "2")):
        make_folder(tmp_path / name)
        (tmp_path / name / name).write_text(text)
    copy_whole(tmp_path / "one", tmp_path / "two")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["one", "two"]
    write_whole(tmp_path / "two", lambda path: path.mkdir())
    assert list((tmp_path / "two").iterdir()) == []


def test_a_full_disk_is_a_full_disk_whatever_was_advised(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device")
    assert "free some space" in str(refused_write(tmp_path, error, advice="give another --file"))
