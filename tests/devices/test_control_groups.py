"""Quotas in made-up trees of control groups, as hosts, containers and both versions have them."""

import pytest

from autotune.core.errors import UsageError
from autotune.devices import detect
from autotune.devices.control_groups import cpu_quota, parse_quota


class Tree:
    """A process's folder and the hierarchies that it sees, below a temporary folder."""

    def __init__(self, path):
        self.path = path
        self.proc = path / "proc"
        self.proc.mkdir()
        self.mounts, self.groups = ["22 1 0:20 / /proc rw - proc proc rw"], []

    def mount(self, name, *, version, root="/", controllers=""):
        point = self.path / name
        point.mkdir()
        kind = "cgroup2" if version == 2 else "cgroup"
        shown = str(point).replace(" ", "\\040")
        self.mounts.append(f"31 23 0:28 {root} {shown} rw shared:9 - {kind} x rw,{controllers}")
        return point

    def v2(self, folder, quota):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(f"{quota}\n")

    def v1(self, folder, quota, period=100_000):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")

    def quota(self, *groups):
        (self.proc / "mountinfo").write_text("\n".join(self.mounts) + "\n")
        (self.proc / "cgroup").write_text("\n".join(groups) + "\n")
        return cpu_quota(self.proc)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_version_2_the_process_has_a_group_of_its_own(tree):
    root = tree.mount("unified", version=2)
    tree.v2(root / "system.slice" / "autotune.service", "150000 100000")
    assert tree.quota("0::/system.slice/autotune.service") == 1.5
    assert tree.quota("0::/system.slice/other.service") is None
    assert tree.quota("0::/") is None


def test_version_2_a_group_above_grants_less(tree):
    root = tree.mount("unified", version=2)
    tree.v2(root / "a", "200000 100000")
    tree.v2(root / "a" / "b", "max 100000")
    tree.v2(root / "a" / "b" / "c", "400000 100000")
    assert tree.quota("0::/a/b/c") == 2.0


def test_version_2_in_a_container(tree):
    """Its own group is the root of what it sees."""
    tree.v2(tree.mount("unified", version=2), "50000 100000")
    assert tree.quota("0::/") == 0.5
    assert tree.quota("0::/../elsewhere") == 0.5


def test_version_1(tree):
    root = tree.mount("cpu,cpuacct", version=1, controllers="cpu,cpuacct")
    tree.v1(root, -1)
    tree.v1(root / "autotune-case", 100_000)
    assert tree.quota("4:memory:/x", "1:cpu,cpuacct:/autotune-case", "0::/") == 1.0
    assert tree.quota("1:cpu,cpuacct:/") is None


def test_version_1_in_a_container_that_sees_the_hosts_path(tree):
    """Docker mounts its own group at the root, and the kernel names it as the host does."""
    root = tree.mount("cpu", version=1, root="/docker/0123", controllers="cpu")
    tree.v1(root, 250_000)
    tree.v1(root / "inner", 200_000, period=50_000)
    assert tree.quota("1:cpu:/docker/0123") == 2.5
    assert tree.quota("1:cpu:/docker/0123/inner") == 2.5
    assert tree.quota("1:cpu:/elsewhere") == 2.5


def test_both_versions_at_once(tree):
    tree.v2(tree.mount("unified", version=2) / "a", "300000 100000")
    tree.v1(tree.mount("cpu", version=1, controllers="cpu") / "b", 200_000)
    tree.mount("memory", version=1, controllers="memory")
    assert tree.quota("4:memory:/c", "1:cpu:/b", "0::/a") == 2.0


def test_a_folder_with_a_space(tree):
    tree.v2(tree.mount("control groups", version=2), "150000 100000")
    assert tree.quota("0::/") == 1.5


@pytest.mark.parametrize("text", ["", "x", "1:cpu", ":::", "0::", "\x00", "0::/a\n0::/b"])
def test_what_is_no_list_of_groups(tree, text):
    tree.mount("unified", version=2)
    tree.mounts += ["", "x", " - cgroup2", "1 2 3 - cgroup2 x"]
    assert tree.quota(text) is None


def test_no_control_groups(tmp_path):
    assert cpu_quota(tmp_path) is None


def test_a_quota_is_in_cores():
    assert parse_quota("150000 100000") == 1.5
    for text in ("max 100000", "-1 100000", "", "100000", "x y", "100000 0", "100000 -1", "1 2 3"):
        assert parse_quota(text) is None


@pytest.mark.parametrize(
    ("quota", "threads"), [(None, 8), (0.5, 1), (1.0, 1), (2.9, 2), (8.0, 8), (64.0, 8)]
)
def test_the_default_threads_are_what_is_granted(monkeypatch, quota, threads):
    monkeypatch.setattr(detect, "cpu_quota", lambda: quota)
    monkeypatch.delenv("AUTOTUNE_THREADS", raising=False)
    monkeypatch.setattr(detect, "cpu_threads", lambda: 8)
    assert detect.default_threads() == threads
    assert detect.check_threads(None) == threads
    assert detect.check_threads(8) == 8, "asked for, so it is done"
    monkeypatch.setenv("AUTOTUNE_THREADS", "3")
    assert detect.default_threads() == detect.check_threads(None) == 3
    assert detect.check_threads(8) == 8


@pytest.mark.parametrize("text", ["0", "-1", "9", "two", "1.5", "\u0663"])
def test_threads_of_the_environment_are_checked(monkeypatch, text):
    monkeypatch.setenv("AUTOTUNE_THREADS", text)
    monkeypatch.setattr(detect, "cpu_threads", lambda: 8)
    with pytest.raises(UsageError, match="AUTOTUNE_THREADS must be 1 to 8, the cores"):
        detect.default_threads()
