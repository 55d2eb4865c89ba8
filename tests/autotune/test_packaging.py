"""The wheel ships all rooms under one name, with their data."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_holds_every_module_and_data_file(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(path.relative_to(ROOT))
        for room in ("profiler", "predictor", "search", "compress", "devices", "")
        for path in (ROOT / "autotune" / room).rglob("*")
        if path.suffix
        in (".py", ".typed", ".toml", ".txt", ".html", ".md", ".css", ".js", ".svg", ".parquet")
        or path.name == "SHA256SUMS"
    }
    assert len(expected) > 50
    assert expected <= names
    tops = {name.split("/")[0] for name in names if not name.startswith("lowrank_autotune")}
    assert tops == {"autotune"}


def test_rooms_are_relative_symlinks():
    for room in ("profiler", "predictor", "search", "compress", "devices"):
        link = ROOT / "autotune" / room
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{room}"
