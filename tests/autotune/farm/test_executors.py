"""What every executor promises, and what a farm's dying workers cost."""

import json
import os
import signal
from dataclasses import replace

import pytest

from autotune.compress.precisions import PRECISIONS
from autotune.core.errors import DeviceMissingError, UsageError
from autotune.core.forms import STRUCTURES, Form
from autotune.core.layers import LayerShape
from autotune.devices.detect import check_threads, cpu_features, require_device
from autotune.farm.address import split_address
from autotune.farm.base import Abilities, Shard
from autotune.farm.errors import FarmUnreachableError
from autotune.farm.processes import make_token, read_token
from autotune.layers.profile import profile_points
from autotune.profiler.backends import make_backend
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import fingerprint_of
from autotune.testing.suites.executor import ExecutorSuite
from autotune.tuning.machines import executor_machine
from autotune.tuning.options import MachineOptions
from tests.autotune.farm.conftest import QUICK, task
from tests.autotune.service.faults import MEASURING
from tests.autotune.service.processes import descendants, mentioning
from tests.waiting import wait_for

pytestmark = [pytest.mark.farm, pytest.mark.duration(100)]


def shard(*tasks):
    return Shard(device="cpu", backend="onnxruntime-cpu", threads=1, tasks=tasks)


class TestExecutors(ExecutorSuite):
    @pytest.fixture
    def executor(self, executor):
        return executor


def test_a_device_that_is_not_reached_is_no_machine(executor):
    with pytest.raises(DeviceMissingError, match="autotune worker --join"):
        executor_machine(executor, MachineOptions(device="h200"))


def test_the_fingerprint_is_that_of_the_host(executor):
    backend = make_backend("onnxruntime-cpu", "cpu")
    here = fingerprint_of(require_device("cpu"), backend, dtype="fp32", threads=check_threads(None))
    assert executor.fingerprint("cpu", "onnxruntime-cpu", dtype="fp32", threads=0) == here
    with pytest.raises(UsageError, match=r"threads must be 1 to .* got 4096"):
        executor.fingerprint("cpu", "onnxruntime-cpu", dtype="fp32", threads=4096)


def test_the_coordinator_writes_what_workers_measured(executor, tmp_path):
    dense = LayerShape(tokens=16, in_features=64, out_features=96)
    machine = executor_machine(executor, MachineOptions(threads=1))
    with LatencyDatabase(tmp_path / "latency.sqlite") as store:
        found = profile_points(machine, store, wanted=[dense], policy=QUICK)
        assert (found.measured, found.failed) == (1, ())
        assert len(store.measurements(machine.fingerprint.id)) == 1


def test_forms_and_dtypes_are_those_of_the_worker(executor):
    """Here it is this host, whose processor may have instructions for integers."""
    for name in ("onnxruntime-cpu", "openvino-cpu"):
        here = make_backend(name, "cpu")
        machine = executor_machine(executor, MachineOptions(threads=1, backend=name))
        offered = machine.precisions(tuple(PRECISIONS), all_of_them=False)
        assert set(offered) == {p for p in PRECISIONS if here.implements(Form(precision=p))}
        assert machine.structures(STRUCTURES) == STRUCTURES
        assert machine.inference_dtypes() == here.inference_dtypes("fp32")
        assert machine.cpu_features() == cpu_features()


def test_what_the_worker_cannot_run_is_refused(executor, monkeypatch):
    machine = executor_machine(executor, MachineOptions(threads=1))
    monkeypatch.setattr(machine, "_abilities", Abilities(forms=("dense",), dtypes=("fp32",)))
    with pytest.raises(UsageError, match=r"int8-weight-only: .* on the worker that"):
        machine.precisions(("native", "int8-weight-only"), all_of_them=True)
    assert machine.network_dtypes(("native", "bf16"), all_of_them=False) == ("fp32",)


def measuring(farm):
    """pids of the processes that run shards on the farm's workers."""
    below = [descendants(process.pid).items() for process in farm.processes]
    return [pid for found in below for pid, command in found if "ray::run_here" in command]


def test_a_worker_process_that_is_killed_costs_its_task_at_most(farm, cluster):
    # Long enough that something runs while outcomes are read, however busy the host is.
    policy = replace(QUICK, max_seconds=0.5, target_relative_ci=1e-9)
    tasks = [task(tokens=16 * (i + 1), policy=policy) for i in range(24)]
    found, kill_at = {}, [2, 7]
    for outcome in cluster.run(shard(*tasks)):
        assert outcome.index not in found
        found[outcome.index] = outcome
        # Not at a count exactly: outcomes come in bunches, and nothing may run at that moment.
        if kill_at and len(found) >= kill_at[0] and (pids := measuring(farm)):
            kill_at.pop(0)
            for pid in pids:
                below = descendants(pid)
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda b=below: not set(b) & set(mentioning(MEASURING)), 60)
    assert not kill_at, "fewer workers were killed than meant"
    assert sorted(found) == list(range(24))
    assert sum(outcome.error is not None for outcome in found.values()) <= 2


def test_a_host_that_dies_is_told_and_another_one_goes_on(farm, cluster):
    second = farm.worker()
    wait_for(lambda: cluster.devices()[0].count == 2)
    tasks = [task(tokens=16 * (i + 1)) for i in range(24)]
    found = {}
    for outcome in cluster.run(shard(*tasks)):
        assert outcome.index not in found
        found[outcome.index] = outcome
        if len(found) == 4:
            for pid in (*descendants(second.pid), second.pid):
                os.kill(pid, signal.SIGKILL)
    assert sorted(found) == list(range(24))
    lost = [outcome.error for outcome in found.values() if outcome.error]
    assert len(lost) <= 2, lost
    assert all("WorkerError" in error for error in lost)


def test_the_command_measures_on_the_farm(farm, cluster, cli, tmp_path):
    environment = {**os.environ, "AUTOTUNE_FARM_TOKEN": farm.token, "AUTOTUNE_FARM": farm.address}
    shape = ("--tokens", 16, "--shape", "64x96", "--rank", 8, "--threads", 1)
    database = ("--db", tmp_path / "latency.sqlite", "--format", "json")
    done = cli("profile", *shape, *database, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["measured"] == 2
    done = cli("profile", *shape, *database, "--device", "h200", env=environment)
    assert done.returncode == 4
    assert "no worker with a h200-sxm has joined" in done.stderr


def test_a_wrong_token_opens_nothing(farm, cluster, cli, tmp_path):
    environment = {**os.environ, "AUTOTUNE_FARM_TOKEN": "0" * 64}
    done = cli(
        "profile",
        "--tokens",
        16,
        "--shape",
        "64x96",
        "--farm",
        farm.address,
        env=environment,
    )
    assert done.returncode == FarmUnreachableError.exit_code, done.stderr
    assert "no farm responds" in done.stderr


@pytest.mark.parametrize("address", ["10.0.0.1", "farm:6380", "8.8.8.8:6380", "10.0.0.1:0", "::1"])
def test_an_address_is_explicit_and_private(address):
    with pytest.raises(UsageError, match=r"IP:PORT|private"):
        split_address(address)


def test_the_token_is_made_once_and_kept_from_others(tmp_path, monkeypatch):
    monkeypatch.delenv("AUTOTUNE_FARM_TOKEN", raising=False)
    file = tmp_path / "farm" / "token"
    with pytest.raises(UsageError, match="a farm token"):
        read_token(file)
    token = make_token(file)
    assert make_token(file) == read_token(file) == token
    assert file.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("AUTOTUNE_FARM_TOKEN", "guess")
    with pytest.raises(UsageError, match="32 characters"):
        read_token(file)
