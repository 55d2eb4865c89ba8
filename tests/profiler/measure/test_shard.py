"""Measuring processes that die, hang or fail cost one task, not the shard."""

import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.devices import visible
from autotune.devices.visible import Gpu
from autotune.profiler.measure.shard import ShardRunner
from autotune.profiler.measure.tasks import Outcome, layer_task
from autotune.profiler.measure.timing import TimingPolicy

QUICK = TimingPolicy(max_seconds=0.1, min_windows=1, warmup_rounds=1, rounds_per_window=2)
SHAPES = [LayerShape(tokens=8, in_features=64, out_features=n) for n in (64, 128, 192, 256)]
TASKS = [layer_task(shape, (low_rank(16),), policy=QUICK) for shape in SHAPES]

# The real worker, with a backend that misbehaves on the layer of 128 outputs.
SABOTAGED = """
import os, signal, sys, time
from autotune.profiler.measure import worker
from autotune.profiler.backends.onnxruntime_cpu import OnnxRuntimeCpu
real = OnnxRuntimeCpu.layer
def layer(self, shape, threads):
    if shape.out_features == 128:
        {fault}
    return real(self, shape, threads)
OnnxRuntimeCpu.layer = layer
worker.main(sys.stdin, sys.stdout)
"""


def runner(tmp_path, fault, **options):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(SABOTAGED).format(fault=fault))
    return ShardRunner(
        backend="onnxruntime-cpu", threads=1, command=(sys.executable, str(script)), **options
    )


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("sys.exit('out of memory')", "exit code 1: out of memory"),
        ("raise RuntimeError('bad kernel')", "RuntimeError: bad kernel"),
    ],
)
def test_a_fault_is_a_result_and_the_rest_goes_on(tmp_path, fault, says):
    outcomes = list(runner(tmp_path, fault).run(TASKS))
    assert [o.index for o in outcomes] == [0, 1, 2, 3]
    assert says in outcomes[1].error
    assert all(o.timing is not None for o in outcomes if o.index != 1)


def test_a_hang_ends_at_its_limit(tmp_path):
    """Which leaves the tasks that do not hang time enough, also where cores are taken away."""
    outcomes = list(runner(tmp_path, "time.sleep(600)", task_limit_s=8.0).run(TASKS))
    assert "TimeoutError" in outcomes[1].error
    assert all(o.timing is not None for o in outcomes if o.index != 1)


def test_shards_are_fresh_processes(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, sys\n"
        "request = json.load(sys.stdin)\n"
        "for i, _ in enumerate(request['tasks']):\n"
        "    print(json.dumps({'index': i, 'error': str(os.getpid())}), flush=True)\n"
    )
    shards = ShardRunner(
        backend="x", threads=1, tasks_per_shard=2, command=(sys.executable, str(script))
    )
    pids = [o.error for o in shards.run(TASKS)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_no_tasks_no_process():
    assert list(ShardRunner(backend="x", threads=1, command=("false",)).run([])) == []


def test_measuring_goes_before_others_work_where_that_is_allowed():
    tried = subprocess.run(["nice", "-n", "-20", "true"], capture_output=True, text=True)
    if "cannot set niceness" in tried.stderr:
        pytest.skip("only root and CAP_SYS_NICE may")
    command = [sys.executable, "-m", "autotune.profiler.measure.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while os.getpriority(os.PRIO_PROCESS, process.pid) != -20:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    assert os.getpriority(os.PRIO_PROCESS, 0) != -20


def test_only_a_death_is_a_death(tmp_path):
    """An error that is worded like one is not tried again, and a process that died is."""
    worded = "raise __import__('multiprocessing').ProcessError('ended with signal 9')"
    for fault, died in ((worded, False), ("os.kill(os.getpid(), 9)", True)):
        outcome = list(runner(tmp_path, fault).run(TASKS[:2]))[1]
        assert outcome.died is died
        assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def test_an_older_workers_death_is_understood():
    message = {"index": 0, "error": "ProcessError: the measuring process ended with signal 9"}
    assert Outcome.from_json(message).died
    assert not Outcome.from_json({**message, "died": False}).died
    assert not Outcome.from_json({"index": 0, "error": "RuntimeError: bad kernel"}).died


MEETING = """
import json, os, sys, time
from pathlib import Path
request = json.load(sys.stdin)
here, folder = os.environ.get("CUDA_VISIBLE_DEVICES"), Path({folder!r})
(folder / here).touch()
deadline = time.monotonic() + 60
while not (folder / {{"GPU-0": "GPU-1", "GPU-1": "GPU-0"}}[here]).exists():
    if time.monotonic() > deadline:
        sys.exit("the other GPU's measurement does not start")
    time.sleep(0.02)
print(json.dumps({{"error": here}}), flush=True)
"""


def test_gpus_of_one_host_measure_at_the_same_time(tmp_path, monkeypatch):
    """Stand-ins for GPUs: each measurement ends only when the other one has started."""
    gpus = [Gpu(index=i, uuid=f"GPU-{i}", name="NVIDIA H200") for i in range(2)]
    gpus = [replace(gpu, selector=gpu.uuid) for gpu in gpus]
    monkeypatch.setattr(visible, "physical_gpus", lambda: tuple(gpus))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    script = tmp_path / "worker.py"
    script.write_text(MEETING.format(folder=str(tmp_path)))

    def measure(gpu):
        command = (sys.executable, str(script))
        runner = ShardRunner(backend="x", threads=1, device="cuda", gpu=gpu, command=command)
        return [outcome.error for outcome in runner.run(TASKS[:1])]

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(measure, gpus)) == [["GPU-0"], ["GPU-1"]]
