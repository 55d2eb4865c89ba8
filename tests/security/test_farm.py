"""Other users of a host, strangers on its network and broken workers harm no farm."""

import os
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.core.errors import StorageError, UsageError
from autotune.farm import processes, ray_executor, shard_stream
from autotune.farm.address import await_listener, check_own
from autotune.farm.errors import FarmUnreachableError
from autotune.farm.parcels import parcel_folder, user_folder
from autotune.farm.shard_stream import Limits
from tests.autotune.farm.conftest import QUICK, cluster, farm, task  # noqa: F401 (fixtures)
from tests.autotune.farm.test_executors import measuring, shard
from tests.autotune.service.processes import descendants
from tests.postgres import free_port


@pytest.mark.parametrize("port", [8265, 10001, 10002, 18330, 19999, 52365])
def test_a_port_that_ray_takes_itself_is_refused(port, cli, tmp_path):
    with pytest.raises(UsageError, match="one that Ray uses itself"):
        check_own(f"127.0.0.1:{port}")
    if port == 18330:
        done = cli("farm", "--address", f"127.0.0.1:{port}", "--token-file", tmp_path / "token")
        assert done.returncode == 2
        assert "choose another one" in done.stderr
        assert "Traceback" not in done.stderr
        assert not done.stdout


def test_an_address_where_nobody_can_listen_is_refused():
    with pytest.raises(UsageError, match=r"cannot listen on 10\.255\.1\.2:6380"):
        check_own("10.255.1.2:6380")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UsageError, match="in use"):
            check_own(f"127.0.0.1:{taken.getsockname()[1]}")
    check_own(f"127.0.0.1:{free_port()}")


def test_nothing_at_the_address_of_a_farm_is_one_sentence_soon():
    with pytest.raises(FarmUnreachableError, match=r"no farm responds at .* within 0 s"):
        await_listener(f"127.0.0.1:{free_port()}", 0.1)


@pytest.mark.farm
def test_a_worker_gives_up_where_no_coordinator_answers(monkeypatch, cli, tmp_path):
    """Neither a dead address nor a server of another kind keeps it for ever."""
    monkeypatch.setattr(processes, "_ANSWERS_WITHIN_S", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FarmUnreachableError, match=r"no farm that accepts .* within 5 s"):
            processes.start_worker(address, "0" * 64)
    environment = {**os.environ, "AUTOTUNE_FARM_TOKEN": "0" * 64}
    address = f"127.0.0.1:{free_port()}"
    done = cli("worker", "--join", address, "--json", env=environment, timeout=240)
    assert done.returncode == FarmUnreachableError.exit_code
    assert f"no farm responds at {address} within 30 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_the_folder_of_a_user_is_private_or_refused(tmp_path):
    found = user_folder(tmp_path)
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    found.chmod(0o777)
    assert stat.S_IMODE(user_folder(tmp_path).stat().st_mode) == 0o700
    found.rmdir()
    (tmp_path / "elsewhere").mkdir()
    found.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="must be a folder of this user"):
        user_folder(tmp_path)
    found.unlink()
    found.write_text("")
    with pytest.raises(StorageError, match="must be a folder of this user"):
        user_folder(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder to another user")
def test_a_folder_that_another_user_made_first_is_refused(tmp_path, monkeypatch):
    (tmp_path / f"autotune-{os.getuid()}").mkdir()
    os.chown(tmp_path / f"autotune-{os.getuid()}", 1234, 1234)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with pytest.raises(StorageError, match="another user's"):
        parcel_folder()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(processes, "_MOST_BYTES", 1000)
    with pytest.raises(StorageError, match="another user's"):
        processes.ray_folder()


def test_the_path_of_rays_folder_stays_short(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 60)))
    assert processes.ray_folder() == Path(f"/tmp/autotune-{os.getuid()}/ray")


@pytest.mark.farm
class TestFarm:
    """A coordinator and a worker of this user."""

    def test_its_folder_is_for_its_user_only_and_no_monitor_listens(self, farm, cluster):  # noqa: F811
        below = [c for process in farm.processes for c in descendants(process.pid).values()]
        sockets = {
            Path(word.partition("=")[2])
            for command in below
            for word in command.split()
            if word.startswith("--store_socket_name=")
        }
        assert sockets
        for path in sockets:
            private = next(each for each in path.parents if each.name == f"autotune-{os.getuid()}")
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            assert private.stat().st_uid == os.getuid()
        assert not [
            command for command in below if "monitor.py" in command and "log" not in command
        ]

    def test_a_worker_that_hangs_costs_the_task_it_was_at(self, farm, cluster, monkeypatch):  # noqa: F811
        limits = Limits(start_s=300.0, silent_s=25.0, whole_s=600.0)
        monkeypatch.setattr(shard_stream.Limits, "of", staticmethod(lambda shard, kind: limits))
        assert ray_executor.Limits is shard_stream.Limits
        # Long enough that something runs while outcomes are read, however busy the host is.
        policy = replace(QUICK, max_seconds=1.0, target_relative_ci=1e-9)
        tasks = [task(tokens=16 * (i + 1), policy=policy) for i in range(24)]
        stopped = []
        found = {}
        for outcome in cluster.run(shard(*tasks)):
            found[outcome.index] = outcome
            if not stopped and (pids := measuring(farm)):
                stopped += pids
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
        assert stopped
        assert sorted(found) == list(range(24))
        assert sum(outcome.error is not None for outcome in found.values()) <= 1

    def test_an_answer_that_is_none_costs_its_task(self, cluster, monkeypatch):  # noqa: F811
        def lying(text, sent, *, fetch):
            yield "beat"
            yield '{"index": 0, "timing": {"latencies_s": [1e-12, 1e-12]}}'

        monkeypatch.setattr(ray_executor.remote, "run_here", lying)
        (outcome,) = cluster.run(shard(task()))
        assert outcome.error.startswith("WorkerError: a worker sent")

    def test_too_few_and_too_many_answers_cost_their_tasks(self, cluster, monkeypatch):  # noqa: F811
        error = '{"index": %d, "error": "E: x", "died": false}'

        def nothing(text, sent, *, fetch):
            yield "beat"

        def twice(text, sent, *, fetch):
            yield "beat"  # not from a tuple, to which Ray cannot send
            yield error % 0
            yield error % 0

        for function, expected in ((nothing, "more or fewer"), (twice, "E: x")):
            monkeypatch.setattr(ray_executor.remote, "run_here", function)
            (outcome,) = cluster.run(shard(task()))
            assert expected in outcome.error

    def test_a_long_error_of_a_worker_is_cut(self, cluster, monkeypatch):  # noqa: F811
        def failing(text, sent, *, fetch):
            yield "beat"
            raise RuntimeError("\x1b[2J" + "x" * 5_000_000)

        monkeypatch.setattr(ray_executor.remote, "run_here", failing)
        with pytest.raises(Exception, match="a worker failed: RuntimeError") as caught:
            list(cluster.run(shard(task())))
        assert len(str(caught.value)) < 600
        assert "\x1b" not in str(caught.value)


@pytest.mark.farm
def test_a_coordinator_that_cannot_start_is_one_sentence(tmp_path):
    """Also where only Ray finds out."""
    environment = {**os.environ, "AUTOTUNE_FARM_TOKEN": "0" * 64, "RAY_TMPDIR": "/proc"}
    done = subprocess.run(
        [sys.executable, "-m", "autotune", "farm", "--address", f"127.0.0.1:{free_port()}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2
    assert "cannot write /proc/autotune-" in done.stderr
    assert "Traceback" not in done.stderr
