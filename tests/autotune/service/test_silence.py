"""A runner is silent when its heartbeat stays the same, not when a clock says so."""

from autotune.service.job_records import Lease
from autotune.service.silence import SilenceWatch

LEASE = Lease(job_id="1", runner="a/0", attempt=1)
OTHER = Lease(job_id="2", runner="a/1", attempt=1)


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def looks(watch, clock, beats, *, every_s=5.0):
    for beat in beats:
        clock.now_s += every_s
        watch.look({LEASE: beat})


def made():
    clock = Clock()
    return SilenceWatch(15.0, every_s=5.0, clock=clock), clock


def test_a_heartbeat_that_stays_the_same_becomes_silent():
    watch, clock = made()
    looks(watch, clock, [7.0] * 3)
    assert not watch.is_silent(LEASE, 7.0)
    looks(watch, clock, [7.0])
    assert watch.is_silent(LEASE, 7.0)
    assert not watch.is_silent(LEASE, 8.0), "it spoke since the last look"
    assert not watch.is_silent(OTHER, 7.0), "never seen"


def test_a_heartbeat_that_moves_is_not_whichever_way_the_clock_is_set():
    watch, clock = made()
    looks(watch, clock, [7.0, 8.0, 90_000.0, 90_001.0, 3.0, 4.0, 5.0])
    assert not watch.is_silent(LEASE, 5.0)


def test_an_observer_that_was_frozen_has_seen_nothing():
    watch, clock = made()
    looks(watch, clock, [7.0, 7.0])
    clock.now_s += 600.0  # SIGSTOP, a paused machine
    watch.look({LEASE: 7.0})
    assert not watch.is_silent(LEASE, 7.0)
    looks(watch, clock, [7.0])
    assert watch.is_silent(LEASE, 7.0)


def test_another_attempt_starts_anew():
    watch, clock = made()
    looks(watch, clock, [7.0] * 4)
    again = Lease(job_id="1", runner="b/0", attempt=2)
    watch.look({again: 7.0})
    assert not watch.is_silent(again, 7.0)
