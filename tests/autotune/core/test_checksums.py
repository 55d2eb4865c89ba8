"""Kept files and their checksums: what differs in any way is named."""

import os
import subprocess

import pytest

from autotune.core.checksums import Checksums, checksum_file


@pytest.fixture(params=["file", "folder"])
def kept(request, tmp_path):
    """A kept file, or a folder with files, and one file of it."""
    path = tmp_path / "entry"
    inner = path
    if request.param == "folder":
        (path / "below").mkdir(parents=True)
        inner = path / "below" / "model.onnx"
        (path / "empty").write_bytes(b"")
    inner.write_bytes(b"0123456789" * 100)
    Checksums().write(path, written=path)
    return path, inner


def flip(data):
    return data[:500] + bytes([data[500] ^ 1]) + data[501:]


DAMAGES = {
    "truncated": lambda data: data[:500],
    "empty": lambda _: b"",
    "a bit": flip,
    "zeros": lambda data: data[:300] + bytes(200) + data[500:],
    "longer": lambda data: data + b"x",
}


def test_what_is_whole_has_no_damage(kept):
    path, _ = kept
    assert Checksums().damage(path) == ""


@pytest.mark.parametrize("damage", DAMAGES)
def test_changed_content_is_damage(kept, damage):
    path, inner = kept
    inner.write_bytes(DAMAGES[damage](inner.read_bytes()))
    assert "sha256 differs" in Checksums().damage(path)


def test_a_file_too_many_or_too_few_is_damage(tmp_path):
    path = tmp_path / "entry"
    path.mkdir()
    (path / "a").write_text("a")
    Checksums().write(path, written=path)
    (path / "b").write_text("b")
    assert "has entry/b, which was not written with it" in Checksums().damage(path)
    (path / "b").unlink()
    (path / "a").unlink()
    assert "lacks entry/a" in Checksums().damage(path)


@pytest.mark.parametrize("text", [None, "", "null", "\xff\x00", "{}", "0" * 64 + "  entry\n"])
def test_missing_or_damaged_checksums_trust_nothing(kept, text):
    path, _ = kept
    beside = checksum_file(path)
    beside.unlink() if text is None else beside.write_text(text, encoding="latin-1")
    assert Checksums().damage(path) != ""


def test_a_file_is_read_again_only_after_it_was_written_to(kept):
    path, inner = kept
    checksums = Checksums()
    assert checksums.damage(path) == ""
    before = inner.stat()
    inner.write_bytes(flip(inner.read_bytes()))
    os.utime(inner, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checksums.damage(path) == ""  # the same size, time and inode: not read again
    os.utime(inner)
    assert checksums.damage(path) != ""


def test_the_program_sha256sum_reads_the_checksums(kept):
    path, _ = kept
    checked = subprocess.run(["sha256sum", "-c", checksum_file(path).name], cwd=path.parent)
    assert checked.returncode == 0
