"""Of several timings of one point the better one stays, and points can be forgotten."""

import dataclasses
import itertools

import pytest

from autotune.profiler.database.audit import Suspect, find_problems, quarantine
from autotune.profiler.database.forget import Forgettable, find_forgettable, forget
from tests.profiler.points import DETAIL, FINGERPRINT, point

SHAPE = point().shape
FAILED = point(error="crash")
WIDE = point(latency_s=1e-3, converged=False, ratio_low=0.3, ratio_high=0.9)
NARROW = point(latency_s=2e-3, converged=False, ratio_low=0.5, ratio_high=0.7)
SETTLED = point(latency_s=3e-3)
RANKING = [FAILED, WIDE, NARROW, SETTLED]


def stored(database, *rows, remeasured=()):
    for row in rows:
        run = database.start_run(FINGERPRINT, "test")
        database.add(run, [row], details={SHAPE: _detail(row)}, remeasured=remeasured)
    (found,) = database.rows(FINGERPRINT.id)
    return found


def _detail(row):
    return dataclasses.replace(DETAIL, samples_s=(getattr(row, "latency_s", 9.0),))


@pytest.mark.parametrize("remeasured", [(), (SHAPE,)])
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(range(len(RANKING)), 2)))
def test_the_better_timing_stays_in_either_order(database, first, second, remeasured):
    better = RANKING[max(first, second)]
    assert stored(database, RANKING[first], RANKING[second], remeasured=remeasured) == better
    assert find_problems(database) == []
    details = [database.contents(run["id"]).details for run in database.runs()]
    assert [each for each in details if each] == [{SHAPE: _detail(better)}]


def test_a_settled_timing_gives_way_only_where_it_was_to_be_measured_again(database):
    later = dataclasses.replace(SETTLED, latency_s=4e-3)
    assert stored(database, SETTLED, later) == SETTLED
    assert stored(database, later, remeasured=(SHAPE,)) == later
    assert find_problems(database) == []


def test_what_replaces_an_impossible_point_is_used(database):
    stored(database, WIDE)
    quarantine(database, [Suspect(fingerprint_id=FINGERPRINT.id, row=WIDE, reason="test")])
    assert database.measurements(FINGERPRINT.id) == []
    assert stored(database, SETTLED) == SETTLED


OTHER = dataclasses.replace(FINGERPRINT, threads=1)
GPU = dataclasses.replace(FINGERPRINT, device="h200-sxm", dtype="bf16")
POINTS = [
    point(16),
    point(32, converged=False),
    point(48, error="crash"),
    point(16, tokens=64, converged=False),
    point(16, in_features=768),
]


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({"not_converged": True}, 9),
        ({"device": "cpu"}, 10),
        ({"device": "cpu", "not_converged": True}, 6),
        ({"fingerprint": OTHER.id[:8]}, 5),
        ({"sizes": [(768, 384)]}, 3),
        ({"tokens": [64]}, 3),
        ({"tokens": [64], "sizes": [(768, 384)]}, 0),
        ({"fingerprint": "nothing"}, 0),
    ],
)
def test_only_what_was_chosen_is_forgotten(database, chosen, count):
    for fingerprint in (FINGERPRINT, OTHER, GPU):
        run = database.start_run(fingerprint, "test")
        database.add(run, POINTS, details={POINTS[1].shape: DETAIL})
    found = find_forgettable(database, Forgettable(**chosen))
    assert sum(map(len, found.values())) == count
    assert sum(len(database.rows(key)) for key in database.fingerprints()) == 15
    assert forget(database, found) == count
    assert forget(database, found) == 0
    left = {key: database.rows(key) for key in database.fingerprints()}
    assert sum(map(len, left.values())) == 15 - count
    assert not any(row in left[key] for key, rows in found.items() for row in rows)
    assert find_problems(database) == []


def test_what_was_forgotten_can_be_measured_again(database):
    stored(database, SETTLED)
    forget(database, find_forgettable(database, Forgettable(device="cpu")))
    assert stored(database, WIDE) == WIDE
    assert find_problems(database) == []


def test_the_command_counts_and_removes_only_when_told_to(cli, tmp_path):
    from autotune.profiler.database.latency import LatencyDatabase

    path = tmp_path / "latency.sqlite"
    with LatencyDatabase(path) as database:
        database.add(database.start_run(FINGERPRINT, "test"), POINTS)

    def run(*args):
        return cli("db", "forget", *args, "--db", path)

    def left():
        with LatencyDatabase(path) as database:
            return len(database.rows(FINGERPRINT.id))

    done = run("--not-converged")
    assert done.returncode == 0, done.stderr
    assert "3 points would be removed" in done.stdout
    assert "--yes" in done.stdout
    assert left() == 5
    done = run("--not-converged", "--shape", "384x384", "--tokens", "64", "--yes")
    assert "1 points removed" in done.stdout
    assert left() == 4
    for args, text in (
        ((), "nothing was chosen"),
        (("--fingerprint", "zz"), "no fingerprint"),
        (("--shape", "big"), "must be IN_FEATURESxOUT_FEATURES"),
        (("--device", "h2000"), "unknown device"),
    ):
        done = run(*args, "--yes")
        assert done.returncode == 2
        assert text in done.stderr
        assert left() == 4
    done = cli("db", "info", "--db", path)
    assert "4 points, 2 settled, 1 failed" in done.stdout
