"""Files appear whole or not at all, and a refused write is one clear sentence."""

import errno
import os
import stat

import pytest

from autotune.core.errors import StorageError, refused_write
from autotune.core.files import copy_whole, make_folder, remove, write_text_whole, write_whole

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


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path):
    def build(folder):
        folder.mkdir()
        (folder / "weights").touch(mode=0o600)  # as safetensors does
        (folder / "config").touch(mode=0o666)

    def secret(path):
        path.touch(mode=0o600)

    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            folder = write_whole(tmp_path / f"{mask}", build)
            token = write_whole(tmp_path / f"token-{mask}", secret, private=True)
        finally:
            os.umask(before)
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {mode}
        assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_new_file_replaces_nothing_that_came_meanwhile(tmp_path):
    path = tmp_path / "file"

    def build(temporary):
        temporary.write_text("ours")
        path.write_text("theirs")

    with pytest.raises(StorageError, match="exists by now"):
        write_whole(path, build, new=True)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["theirs"]


def test_a_link_is_written_through_and_removed_without_its_target(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_text_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder-link").symlink_to("folder")
    remove(tmp_path / "folder-link")
    assert (tmp_path / "folder").is_dir()


def test_what_others_call_a_part_is_left(tmp_path):
    (tmp_path / ".file.part").write_text("theirs")
    write_text_whole(tmp_path / "file", "ours")
    assert (tmp_path / ".file.part").read_text() == "theirs"
