"""The memory that this process may use is the least of the machine's and its control groups'."""

import pytest

from autotune.devices import memory
from autotune.devices.memory import memory_bytes


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "4096"}, 4096),
        ("0::/a\n", {"a/memory.max": "max", "memory.max": "8192"}, 8192),
        ("0::/host/name\n", {"memory.max": "5000"}, 5000),  # a container's own root
        ("5:cpu:/x\n4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "6000"}, 6000),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ("", {}, None),
    ],
)
def test_the_limit_of_a_control_group_counts(tmp_path, monkeypatch, groups, files, expected):
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN", tmp_path / "own")
    (tmp_path / "own").write_text(groups)
    whole = memory_bytes()
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert memory_bytes() == (expected or whole)
    assert whole > 1 << 28
