"""Writers that are killed, and many writers at once: no row lost, none twice."""

import random
import time

import pytest

from autotune.core.layers import LayerShape
from autotune.profiler.database.audit import find_problems
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import measure_points, missing_points
from autotune.profiler.measure.tasks import Outcome
from autotune.profiler.measure.timing import PairedTiming
from tests.commands import SERVER
from tests.profiler.points import FINGERPRINT

KILLS = 50
DENSE = LayerShape(tokens=128, in_features=384, out_features=384, dtype="fp32")
WANTED = [
    LayerShape(tokens=128, in_features=384, out_features=384, rank=rank, dtype="fp32")
    for rank in range(1, 2001)
]


class Replay:
    """Answers every task at once with one recorded timing: what is tested is the keeping."""

    def __init__(self, heard=None):
        self.heard = heard

    def run(self, tasks):
        last = None
        for index, task in enumerate(tasks):
            if self.heard is not None and last is not None:
                self.heard.send([subject.layer.rank for subject in last.subjects[1:]])
            count = len(task.subjects)
            seconds = tuple(1e-3 / (1 + i) for i in range(count))
            timing = PairedTiming(
                latencies_s=seconds, ratios=tuple(s / 1e-3 for s in seconds),
                ratio_lows=tuple(s / 1.1e-3 for s in seconds),
                ratio_highs=tuple(s / 0.9e-3 for s in seconds), rounds=5, windows=3,
                disturbed_windows=0, converged=True,
                quantiles_s=tuple((s,) * 5 for s in seconds),
                samples_s=tuple((s,) for s in seconds),
            )  # fmt: skip
            last = task
            yield Outcome(index=index, timing=timing)


def write_missing(address, wanted, heard=None):
    """What `autotune profile` does: measure what is missing, and keep it as it comes."""
    with LatencyDatabase(address) as store:
        points = missing_points(store, FINGERPRINT, wanted)
        measure_points(store, FINGERPRINT, points, Replay(heard))


def received(pipe):
    ranks = []
    while pipe.poll():
        try:
            ranks += pipe.recv()
        except EOFError:
            break
    return ranks


def test_kill_9_at_50_moments_loses_no_committed_row(database):
    draw = random.Random(0)
    told = set()
    for _ in range(KILLS):
        here, there = SERVER.Pipe(duplex=False)
        writer = SERVER.Process(target=write_missing, args=(database.address, WANTED, there))
        writer.start()
        there.close()
        # Some are killed while they open the database, most while they write to it.
        for _ in range(draw.choice((0, 1, 1, 2, 3))):
            if here.poll(60):
                told |= set(here.recv())
        time.sleep(draw.uniform(0.0, 0.004))
        writer.kill()
        writer.join()
        told |= set(received(here))
        stored = [row.rank for row in database.measurements(FINGERPRINT.id)]
        assert len(stored) == len(set(stored))
        assert told <= set(stored)
        assert find_problems(database) == []
    done = {row.rank: row.measured_at for row in database.measurements(FINGERPRINT.id) if row.rank}
    assert 0 < len(done) < len(WANTED), "the kills came too early or too late to tell"
    points = missing_points(database, FINGERPRINT, WANTED)
    assert {point.rank for point in points} == {shape.rank for shape in WANTED} - set(done)
    write_missing(database.address, points[:40])
    after = {row.rank: row.measured_at for row in database.measurements(FINGERPRINT.id)}
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
    assert [row.rank for row in rows] == [0, *range(1, 241)]
    assert find_problems(database) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_no_nonsense_is_kept_by_the_way(database, value):
    """The same path as a measurement's, with a timing that no clock gives."""
    from autotune.core.errors import DatabaseError

    class Broken(Replay):
        def run(self, tasks):
            for outcome in super().run(tasks):
                broken = {**vars(outcome.timing), "latencies_s": (value,) * 5}
                yield Outcome(index=outcome.index, timing=PairedTiming(**broken))

    with pytest.raises(DatabaseError, match="refuses"):
        measure_points(database, FINGERPRINT, WANTED[:4], Broken())
    assert database.measurements(FINGERPRINT.id, errors=True) == []
