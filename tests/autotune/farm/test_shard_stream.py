"""A coordinator waits for a worker no longer than its limits, however it falls silent."""

import threading

import pytest

from autotune.farm.errors import WorkerLostError
from autotune.farm.shard_stream import Limits, received
from autotune.farm.worker_calls import BEAT, with_beats
from tests.autotune.farm.conftest import task
from tests.autotune.farm.test_executors import shard


class Clock:
    """In place of `time`, so that nobody waits."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Worker:
    """In place of Ray and a stream of its: sends texts, each after some seconds."""

    def __init__(self, clock, sent):
        self.clock, self.sent = clock, list(sent)

    def wait(self, streams, *, timeout, fetch_local):
        if not self.sent:
            return streams, []
        pause_s, text = self.sent[0]
        if pause_s > timeout:
            self.clock.now += timeout
            self.sent[0] = (pause_s - timeout, text)
            return [], streams
        self.clock.now += pause_s
        return streams, []

    def __next__(self):
        if not self.sent:
            raise StopIteration
        return self.sent.pop(0)[1]

    def get(self, reference, timeout):
        return reference


@pytest.fixture
def worker(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("autotune.farm.shard_stream.time", clock)
    return lambda *sent: Worker(clock, sent)


def texts(worker, limits, *, is_offered=lambda: True):
    return list(received(worker, worker, limits=limits, is_offered=is_offered))


LIMITS = Limits(start_s=600.0, silent_s=60.0, whole_s=1000.0)


def test_signs_of_life_are_no_answers(worker):
    sent = [(500, BEAT), (50, BEAT), (50, "one"), (10, BEAT), (55, "two")]
    assert texts(worker(*sent), LIMITS) == ["one", "two"]


def test_a_worker_that_falls_silent_is_given_up(worker):
    with pytest.raises(WorkerLostError, match="no sign of life within 60 s"):
        texts(worker((1, BEAT), (1, "one"), (1e9, "two")), LIMITS)


def test_a_device_that_never_gets_free_is_given_up(worker):
    with pytest.raises(WorkerLostError, match="no free device within 600 s"):
        texts(worker((1e9, BEAT)), LIMITS)


def test_a_device_that_leaves_before_the_shard_has_started_is_noticed(worker):
    with pytest.raises(WorkerLostError, match="no worker with the device"):
        texts(worker((1e9, BEAT)), LIMITS, is_offered=lambda: False)


def test_a_worker_that_only_lives_is_given_up(worker):
    with pytest.raises(WorkerLostError, match="did not end within 1000 s"):
        texts(worker(*[(10, BEAT)] * 1000), LIMITS)


def test_the_limit_of_a_shard_grows_with_its_tasks():
    one, two = (Limits.of(shard(*[task()] * n), "cpu").whole_s for n in (1, 2))
    assert 3600 < one < two < 2 * one


def test_beats_come_between_answers_that_take_long():
    go = threading.Event()

    def slow():
        yield "one"
        assert go.wait(30)
        yield "two"

    found = []
    for text in with_beats(slow(), every_s=0.02):
        found.append(text)
        if found.count(BEAT) > 3:
            go.set()
    assert [text for text in found if text != BEAT] == ["one", "two"]
    assert found[0] == BEAT
    assert found.count(BEAT) > 3


def test_an_error_behind_the_beats_is_raised_where_they_are_read():
    def failing():
        yield "one"
        raise KeyError("x")

    found = []
    with pytest.raises(KeyError):
        for text in with_beats(failing(), every_s=60.0):
            found.append(text)
    assert found == [BEAT, "one"]
