"""A measuring process that somebody kills costs an attempt, not the tuning."""

import dataclasses
import os
import signal
import threading
from contextlib import nullcontext, suppress

import numpy as np
import pytest
from safetensors.numpy import save_file

from autotune.core.errors import MeasurementError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.core.progress import no_progress
from autotune.profiler.backends.onnx_layers import layer_model
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.nodes import profile_sites
from autotune.profiler.measure.points import measure_points
from autotune.profiler.measure.shard import ShardRunner
from autotune.profiler.measure.tasks import Outcome, Subject
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy
from autotune.tuning.machines import local_machine
from autotune.tuning.network_timing import time_subjects
from autotune.tuning.options import MachineOptions
from tests.autotune.service.processes import descendants

pytestmark = [pytest.mark.faults, pytest.mark.duration(40)]

SHAPE = LayerShape(tokens=16, in_features=64, out_features=96)
SUBJECTS = [Subject(layer=SHAPE), Subject(layer=SHAPE.with_form(low_rank(8)))]
LONG = TimingPolicy(max_seconds=3.0, target_relative_ci=1e-9)  # it is heard of in between
# Of a process that never ends by itself: whoever kills it may come late.
ENDLESS = TimingPolicy(max_seconds=60.0, target_relative_ci=1e-9)


def kill(mark):
    """kill -9 of the processes of this one that bear the mark; their pids.

    One that was killed may be found again before it is gone.
    """
    found = {pid for pid, command in descendants(os.getpid()).items() if mark in command}
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


@pytest.fixture
def runner():
    return ShardRunner(backend="onnxruntime-cpu", threads=1)


@pytest.mark.parametrize("enough", [None, 1])
@pytest.mark.parametrize("times", [1, 99])
def test_a_measurement_of_networks_is_tried_again(runner, times, enough):
    killed = set()

    def advance(done, total):
        if len(killed) < times:
            killed.update(kill("autotune.profiler.measure.worker"))

    if times > 1:
        with pytest.raises(MeasurementError, match="process ended with signal 9"):
            time_subjects(runner, SUBJECTS, policy=ENDLESS, advance=advance, times=enough)
        assert len(killed) == 5  # as many as there are processes at most
        return
    timing = time_subjects(runner, SUBJECTS, policy=LONG, advance=advance, times=enough)
    assert len(killed) == 1
    assert timing.ratios[0] == 1.0


@pytest.mark.parametrize(("seconds", "expected"), [(0.05, 2), (0.35, 5)])
def test_what_is_wide_is_timed_again_unless_little_time_is_asked_for(seconds, expected):
    wide = PairedTiming(
        latencies_s=(1.0, 0.5),
        ratios=(1.0, 0.5),
        ratio_lows=(1.0, 0.3),
        ratio_highs=(1.0, 0.7),
        rounds=9,
        windows=3,
        disturbed_windows=0,
        converged=False,
    )
    seen = []

    class Runner:
        def run(self, tasks, progress):
            for task in tasks:
                seen.append(task.policy.max_seconds)
                yield Outcome(index=len(seen) - 1, timing=wide)

    policy = TimingPolicy(max_seconds=seconds)
    time_subjects(Runner(), SUBJECTS, policy=policy, advance=no_progress)
    assert seen == ([seconds] * 2 + [2 * seconds] * 3)[:expected]


def test_an_error_of_the_backend_is_not_tried_again(runner):
    impossible = [Subject(layer=dataclasses.replace(SHAPE, dtype="bf16"))]
    with pytest.raises(MeasurementError, match="the measurement failed") as caught:
        time_subjects(runner, impossible, policy=LONG, advance=no_progress)
    assert "process ended" not in str(caught.value)


@pytest.mark.parametrize("times", [1, 99])
def test_a_profile_of_a_network_is_tried_again(tmp_path, times):
    graph, inputs = tmp_path / "model.onnx", tmp_path / "inputs.safetensors"
    large = LayerShape(tokens=512, in_features=1024, out_features=1024)  # its runs take seconds
    graph.write_bytes(layer_model(large, 8))
    save_file({"x": np.zeros((512, 1024), np.float32)}, inputs)
    killed = set()

    def progress(done, total):
        if len(killed) < times:
            killed.update(kill("autotune.profiler.measure.nodes"))

    fails = pytest.raises(MeasurementError, match="signal 9") if times > 1 else nullcontext()
    with fails:
        # No node bears that site's name, which is found once the profile is there.
        assert (
            profile_sites(graph, inputs, threads=1, sites=["elsewhere"], progress=progress) is None
        )
    assert len(killed) == (3 if times > 1 else 1)


@pytest.mark.parametrize("times", [1, 99])
def test_layers_of_a_process_that_was_killed_are_measured_again(runner, tmp_path, times):
    points = [SHAPE.with_form(low_rank(rank)) for rank in (8, 16, 24, 32, 40)]
    stopping, killed = threading.Event(), set()
    policy = TimingPolicy(max_seconds=0.3) if times == 1 else ENDLESS

    def kill_when_seen():
        while len(killed) < times and not stopping.wait(0.05):
            killed.update(kill("autotune.profiler.measure.worker"))

    with LatencyDatabase(tmp_path / "latency.sqlite") as store:
        mark = local_machine(MachineOptions(threads=1)).fingerprint
        thread = threading.Thread(target=kill_when_seen)
        thread.start()
        failed = measure_points(store, mark, points=points, runner=runner, policy=policy)
        stopping.set()
        thread.join()
        found = {row.shape.rank for row in store.measurements(mark.id)}
    assert killed
    if times == 1:
        assert failed == []
        assert found == {0, 8, 16, 24, 32, 40}
    else:  # what always kills its process is a failure that is told
        assert all("process ended with signal 9" in row.error for row in failed)
        assert found == set()
