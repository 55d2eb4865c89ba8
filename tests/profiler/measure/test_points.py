"""Two programs that measure the same points into one database do the work once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from autotune.core.errors import DatabaseError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.core.progress import no_progress
from autotune.devices.specs import find_device
from autotune.profiler.database.latency import LatencyDatabase
from autotune.profiler.measure.points import plan_forms
from autotune.profiler.measure.settling import measure_wanted
from autotune.profiler.measure.timing import TimingPolicy
from autotune.testing.disturbance import CALM
from autotune.testing.hardware import simulated_hardware
from autotune.testing.runner import SimulatedRunner
from tests.profiler.points import FINGERPRINT

DENSE = LayerShape(tokens=128, in_features=384, out_features=384, dtype="fp32")
WANTED = [DENSE, *(DENSE.with_form(low_rank(rank)) for rank in (16, 32, 48, 64, 80))]


class Measuring(SimulatedRunner):
    """Calls `then` once it has begun."""

    def __init__(self, then):
        super().__init__(simulated_hardware("cpu-like"), CALM)
        self.then = then

    def run(self, tasks):
        self.then()
        yield from super().run(tasks)


def measure(store, then):
    found = measure_wanted(
        store,
        FINGERPRINT,
        wanted=WANTED,
        doubtful=(),
        runner=Measuring(then),
        policy=TimingPolicy(),
        stage=lambda again: nullcontext(no_progress),
    )
    return found.measured, list(found.failed)


def test_the_second_one_looks_again_at_what_is_there(tmp_path):
    path = tmp_path / "latency.sqlite"
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert go_on.wait(60)

    def measure_there(then):
        with LatencyDatabase(path) as store:
            return measure(store, then)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(measure_there, wait)
        assert begun.wait(60)
        second = pool.submit(measure_there, lambda: None)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.5)
        go_on.set()
        assert first.result(timeout=60) == (6, [])
        assert second.result(timeout=60) == (0, [])


def test_a_database_that_is_removed_meanwhile_is_an_error(tmp_path):
    """It said "12 measured in FILE", and there was no FILE."""
    path = tmp_path / "latency.sqlite"
    with LatencyDatabase(path) as store, pytest.raises(DatabaseError, match="was removed"):
        measure(store, path.unlink)


def test_a_grid_of_every_structure_that_is_offered():
    """Pivoted pairs reach beyond break-even, and take a sixth of the points of plain ones."""
    shape = LayerShape(tokens=8, in_features=512, out_features=512)
    spec = find_device("cpu")
    plain = plan_forms(spec, shape, points=24)
    assert plain == plan_forms(spec, shape, points=24, structures=("plain",))
    both = plan_forms(spec, shape, points=24, structures=("plain", "pivoted"))
    pivoted = [form for form in both if form.structure == "pivoted"]
    assert [form for form in both if form not in pivoted] == plain
    assert len(pivoted) == 4
    assert max(form.rank for form in plain) < 256 < pivoted[-1].rank < 512
