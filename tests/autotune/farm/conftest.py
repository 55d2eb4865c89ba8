"""A farm on this machine: a coordinator and a worker, as the commands start them."""

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.farm.errors import FarmUnreachableError
from autotune.farm.local import LocalExecutor
from autotune.profiler.measure.tasks import layer_task
from autotune.profiler.measure.timing import TimingPolicy
from tests.autotune.service.processes import descendants, kill
from tests.postgres import free_port
from tests.waiting import listens, wait_for

QUICK = TimingPolicy(max_seconds=0.3)


def task(tokens=16, rank=8, policy=QUICK):
    dense = LayerShape(tokens=tokens, in_features=64, out_features=96)
    return layer_task(dense, (low_rank(rank),), policy=policy)


class Farm:
    """Head and workers in processes of their own."""

    def __init__(self, folder):
        self.token = secrets.token_hex(32)
        self.file = folder / "token"
        self.file.write_text(self.token)
        self.address = f"127.0.0.1:{free_port()}"
        self.processes = []

    def start(self, *command):
        environment = {**os.environ, "AUTOTUNE_FARM_TOKEN": self.token}
        process = subprocess.Popen(
            [sys.executable, "-m", "autotune", *command],
            env=environment,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def coordinator(self):
        """One that listens, at another port where somebody has taken the first meanwhile."""
        for _ in range(3):
            process = self.start("farm", "--address", self.address)
            wait_for(lambda p=process: listens(self.address) or p.poll() is not None)
            if process.poll() is None:
                return process
            self.processes.remove(process)
            self.address = f"127.0.0.1:{free_port()}"
        raise AssertionError("no coordinator starts")

    def worker(self):
        return self.start("worker", "--join", self.address)

    def up(self):
        """A coordinator and a worker, once the one listens and the other runs its Ray node."""
        coordinator = self.coordinator()
        worker = self.worker()
        wait_for(lambda: any("raylet" in c for c in descendants(worker.pid).values()))
        return coordinator, worker

    def lose_host(self):
        """kill -9 of the newest worker and all below it; another one joins."""
        kill_tree(self.processes[-1])
        self.worker()

    def lose_coordinator(self):
        """kill -9 of the coordinator and of the worker that needs it; both are started again."""
        for process in self.processes[-2:]:
            kill_tree(process)
        self.processes.clear()
        address = self.address
        self.up()
        assert self.address == address, "who waits for the farm waits for it there"

    def executor(self, seconds=300):
        """Connected, as soon as the coordinator answers."""
        from autotune.farm.ray_executor import RayExecutor

        deadline = time.monotonic() + seconds
        while True:
            try:
                return RayExecutor(self.address, self.token)
            except FarmUnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def kill_tree(process):
    for pid in (*descendants(process.pid), process.pid):
        kill(pid)
    process.wait()


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    if importlib.util.find_spec("ray") is None:  # not imported: it reads its token mode then
        pytest.skip("needs Ray: pip install 'lowrank-autotune[farm]'")
    found = Farm(tmp_path_factory.mktemp("farm"))
    try:
        found.coordinator()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def cluster(farm):
    """An executor on the farm, with one worker."""
    with closing(farm.executor()) as executor:
        assert executor.devices() == ()
        farm.worker()
        wait_for(executor.devices)
        yield executor


@pytest.fixture(params=["local", "ray"])
def executor(request):
    """Each kind: what holds for the one holds for the other."""
    if request.param == "local":
        return LocalExecutor()
    return request.getfixturevalue("cluster")
