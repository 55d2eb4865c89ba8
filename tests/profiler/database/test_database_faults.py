"""Writers that are killed, and many writers at once: no row lost, none twice."""

import time

import pytest

from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import measure_points, missing_points
from autotune.profiler.measure.tasks import Outcome
from autotune.profiler.measure.timing import PairedTiming
from autotune.testing.disturbance import CALM
from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner
from tests.commands import SERVER
from tests.profiler.points import FINGERPRINT

pytestmark = [pytest.mark.faults, pytest.mark.duration(15)]

KILLS = 50
# Tasks a writer does before it waits for its end: 50 writers cannot have measured everything.
AT_MOST = 8
DENSE = LayerShape(tokens=128, in_features=384, out_features=384, dtype="fp32")
WANTED = [DENSE.with_form(low_rank(rank)) for rank in range(1, 2001)]


class Reporting(SimulatedRunner):
    """Sends the ranks of a task once whoever keeps its outcome asks for the next one."""

    def __init__(self, heard=None, at_most=None):
        super().__init__(simulated_hardware("cpu-like"), CALM)
        self.heard, self.at_most = heard, at_most

    def run(self, tasks):
        last = None
        for number, outcome in enumerate(super().run(tasks)):
            if number == self.at_most:
                time.sleep(60)  # its killer comes sooner
            if self.heard is not None and last is not None:
                self.heard.send([subject.layer.rank for subject in last.subjects[1:]])
            last = tasks[outcome.index]
            yield outcome


def write_missing(address, wanted, heard=None, at_most=None):
    """What `autotune profile` does: measure what is missing, and keep it as it comes."""
    with LatencyDatabase(address) as store:
        points = missing_points(store, FINGERPRINT, wanted=wanted)
        measure_points(store, FINGERPRINT, points=points, runner=Reporting(heard, at_most))


def received(pipe):
    ranks = []
    while pipe.poll():
        try:
            ranks += pipe.recv()
        except EOFError:
            break
    return ranks


def test_kill_9_at_50_moments_loses_no_committed_row(database, moments):
    told = set()
    for _ in range(KILLS):
        here, there = SERVER.Pipe(duplex=False)
        writer = SERVER.Process(
            target=write_missing, args=(database.address, WANTED, there, AT_MOST)
        )
        writer.start()
        there.close()
        # Some are killed while they open the database, most while they write to it.
        for _ in range(moments.choice((0, 1, 1, 2, 3))):
            assert here.poll(60)
            told |= set(here.recv())
        time.sleep(moments.uniform(0.0, 0.004))
        writer.kill()
        writer.join()
        told |= set(received(here))
        stored = [row.shape.rank for row in database.measurements(FINGERPRINT.id)]
        assert len(stored) == len(set(stored))
        assert told <= set(stored)
        assert find_problems(database) == []
    done = {
        row.shape.rank: row.measured_at
        for row in database.measurements(FINGERPRINT.id)
        if row.shape.rank
    }
    assert told <= set(done)
    points = missing_points(database, FINGERPRINT, wanted=WANTED)
    assert {point.rank for point in points} == {shape.rank for shape in WANTED} - set(done)
    write_missing(database.address, points[:40])
    after = {row.shape.rank: row.measured_at for row in database.measurements(FINGERPRINT.id)}
    assert all(after[rank] == at for rank, at in done.items())
    assert {point.rank for point in points[:40]} <= set(after)
    assert find_problems(database) == []


def test_eight_writers_at_once(database):
    wanted = WANTED[:240]
    # Neighbours share half of their points, so that the same row comes from two at a time.
    parts = [[s for s in wanted if s.rank % 8 in (i, (i + 1) % 8)] for i in range(8)]
    writers = [SERVER.Process(target=write_missing, args=(database.address, p)) for p in parts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=300)
        assert writer.exitcode == 0
    rows = database.measurements(FINGERPRINT.id)
    assert [row.shape.rank for row in rows] == [0, *range(1, 241)]
    assert find_problems(database) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_no_nonsense_is_kept_by_the_way(database, value):
    """The same path as a measurement's, with a timing that no clock gives."""
    from autotune.core.errors import DatabaseError

    class Broken(Reporting):
        def run(self, tasks):
            for outcome in super().run(tasks):
                broken = {**vars(outcome.timing), "latencies_s": (value,) * 5}
                yield Outcome(index=outcome.index, timing=PairedTiming(**broken))

    with pytest.raises(DatabaseError, match="refuses"):
        measure_points(database, FINGERPRINT, points=WANTED[:4], runner=Broken())
    assert database.rows(FINGERPRINT.id) == []
