"""Networks that run at the same time, and tasks that ask for it."""

import os
import threading

import pytest

from autotune.profiler.measure.streams import at_the_same_time
from autotune.profiler.measure.tasks import Subject, TimingTask
from autotune.profiler.measure.timing import TimingPolicy
from autotune.profiler.measure.worker import prepare

POLICY = TimingPolicy(max_seconds=1.0)


class Threads:
    """A backend that records with how many threads networks are opened."""

    def __init__(self, network):
        self.opened, self._network = [], network

    def network(self, artefact, inputs, *, threads, loader=None):
        self.opened.append(threads)
        return self._network


def test_every_network_is_under_way_before_any_ends():
    together = threading.Barrier(3, timeout=60)
    run = at_the_same_time([together.wait] * 3)
    for _ in range(3):  # threads are used again
        run()
    with pytest.raises(threading.BrokenBarrierError):
        threading.Barrier(2, timeout=0.1).wait()


def test_an_error_of_one_network_is_the_caller_s():
    def fail():
        raise RuntimeError("cannot run")

    run = at_the_same_time([lambda: None, fail])
    with pytest.raises(RuntimeError, match="cannot run"):
        run()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_each_network_has_a_processor_though_the_caller_has_one():
    """A backend pins the process's first thread, and threads begin where that is."""
    available = sorted(os.sched_getaffinity(0))
    found, together = [], threading.Barrier(2, timeout=60)

    def network():
        together.wait()
        found.append(os.sched_getaffinity(0))

    os.sched_setaffinity(0, available[:1])
    try:
        at_the_same_time([network] * 2, available[:2])()
    finally:
        os.sched_setaffinity(0, available)
    assert sorted(map(sorted, found)) == [[available[0]], [available[1]]]


@pytest.mark.parametrize(("streams", "opened"), [(1, [4]), (2, [2, 2]), (8, [1] * 8)])
def test_streams_share_the_threads(streams, opened):
    backend = Threads(lambda: None)
    subject = Subject(network="model", inputs="inputs", streams=streams)
    run, copies = prepare(backend, subject, threads=4)
    run()
    assert backend.opened == opened
    assert copies == streams  # so that latencies are for one network


def test_older_peers_read_tasks_without_streams():
    alone = TimingTask(subjects=(Subject(network="model", inputs="inputs"),), policy=POLICY)
    assert "streams" not in alone.to_json()["subjects"][0]
    several = TimingTask(
        subjects=(Subject(network="model", inputs="inputs", streams=2),), policy=POLICY
    )
    for task in (alone, several):
        assert TimingTask.from_json(task.to_json()) == task
