"""Tests of the contract of `autotune.profiler.backends.base.Backend`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from autotune.core.forms import low_rank, parse_form
from autotune.core.layers import LayerShape
from autotune.profiler.backends.base import Backend
from autotune.profiler.measure.tasks import TimingTask, layer_task
from autotune.profiler.measure.timing import PairedTiming, TimingPolicy
from autotune.profiler.measure.worker import run_task
from autotune.testing.shapes import at_rank

_DTYPES = ("fp32", "fp16", "bf16")


class BackendSuite:
    """Give the fixture `backend`; the tests are skipped where `missing()` names what it lacks.

    `threads` and the sizes of `shape` may be changed; the dtype is the backend's first.
    """

    threads = 1
    shape = LayerShape(tokens=16, in_features=64, out_features=96)
    policy = TimingPolicy(max_seconds=0.2, min_windows=2, warmup_rounds=1)

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test, which a subclass provides."""
        raise NotImplementedError("give a fixture named backend")

    @pytest.fixture
    def ready(self, backend: Backend) -> Backend:
        """The backend, if everything that it needs is installed."""
        lacks = backend.missing()
        if lacks:
            pytest.skip(lacks)
        return backend

    def layer_shape(self, backend: Backend, rank: int = 0) -> LayerShape:
        """The suite's layer in a dtype of the backend; rank 0 is dense."""
        return at_rank(dataclasses.replace(self.shape, dtype=backend.dtypes[0]), rank)

    def time(self, backend: Backend, task: TimingTask) -> PairedTiming:
        """Time a task as the measuring process does; override it for a clock of its own."""
        return run_task(backend, task, threads=self.threads)[0]

    def test_it_names_what_it_is_and_runs_on(self, backend: Backend) -> None:
        """Name, dtypes and kinds of device are set; the device is one of those kinds."""
        assert backend.name
        assert set(backend.dtypes) <= set(_DTYPES)
        assert backend.dtypes
        assert backend.device in backend.device_kinds

    def test_what_is_missing_is_a_sentence(self, backend: Backend) -> None:
        """`missing` is None, or one sentence that names the backend and what to install."""
        lacks = backend.missing()
        assert lacks is None or ("\n" not in lacks and backend.name in lacks)

    def test_versions_and_settings_go_into_a_fingerprint(self, ready: Backend) -> None:
        """Every package has a version; versions and settings are text, the same each time."""
        assert set(ready.versions()) == set(ready.packages)
        texts = {**ready.versions(), **ready.settings()}
        assert all(isinstance(value, str) for value in texts.values())
        assert ready.settings() == ready.settings()

    @pytest.mark.parametrize("rank", [0, 8, 61])
    def test_layers_run_dense_and_low_rank(self, ready: Backend, rank: int) -> None:
        """A layer or a pair is prepared, at unaligned ranks too, and may be called repeatedly."""
        timed = ready.layer(self.layer_shape(ready, rank), self.threads)
        assert timed.copies >= 1
        for _ in range(3):
            seconds = timed.run()
            assert seconds is None or seconds > 0

    @pytest.mark.parametrize("form", ["dense", "rank=8", "rank=8:pivoted"])
    def test_layers_run_in_every_dtype_of_a_network(self, ready: Backend, form: str) -> None:
        """`layer` takes shapes of each of `inference_dtypes`, of which the first is the model's."""
        own = ready.dtypes[0]
        found = ready.inference_dtypes(own)
        assert found[0] == own
        assert len(set(found)) == len(found)
        for dtype in found:
            shape = dataclasses.replace(self.shape, form=parse_form(form), dtype=dtype)
            if ready.implements(shape.form):
                ready.layer(shape, self.threads).run()

    @pytest.mark.parametrize("rank", [0, 8])
    def test_layers_that_share_their_input_run(self, ready: Backend, rank: int) -> None:
        """A shape with `parts` is prepared as layers of these widths on one input."""
        shape = self.layer_shape(ready, rank)
        third = shape.out_features // 3
        parts = (shape.out_features - 2 * third, third, third)
        ready.layer(dataclasses.replace(shape, parts=parts), self.threads).run()

    def test_copies_are_those_that_a_call_runs(self, ready: Backend) -> None:
        """`copies(shape)` is what one call of the prepared layer runs."""
        shape = self.layer_shape(ready)
        assert ready.layer(shape, self.threads).copies == ready.copies(shape)

    def test_prepared_layers_do_not_disturb_each_other(self, ready: Backend) -> None:
        """A backend holds no state between calls: two layers may be called in turn."""
        first = ready.layer(self.layer_shape(ready), self.threads)
        second = ready.layer(self.layer_shape(ready, 8), self.threads)
        for timed in (first, second, first, second):
            timed.run()

    def test_a_pair_is_timed_against_its_dense_layer(self, ready: Backend) -> None:
        """The profiler times it: positive seconds, and ratios to the dense layer."""
        task = layer_task(self.layer_shape(ready), map(low_rank, (8, 16)), policy=self.policy)
        timing = self.time(ready, task)
        assert len(timing.latencies_s) == 3
        assert timing.ratios[0] == 1.0
        assert all(seconds > 0 for seconds in timing.latencies_s)

    def test_a_network_needs_its_file(self, ready: Backend, tmp_path: Path) -> None:
        """`network` raises for a missing file, and names the file or the loader it lacks."""
        missing = tmp_path / "missing-network.onnx"
        with pytest.raises(Exception, match=r"missing-network|loader"):
            ready.network(missing, tmp_path / "inputs.safetensors", threads=self.threads)
