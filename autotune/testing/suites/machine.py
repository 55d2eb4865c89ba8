"""Tests of the contract of `autotune.tuning.machine.Machine`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.core.errors import MeasurementError
from autotune.core.layers import LayerShape
from autotune.core.operation import Operation
from autotune.core.outline import Pass
from autotune.core.progress import Advance
from autotune.testing.example_tuning import (
    EXAMPLE_PLAN,
    EXAMPLE_WORKLOAD,
    RecordingReporter,
    example_workspace,
)
from autotune.testing.shapes import at_rank
from autotune.testing.suites.example_fixtures import ExampleFixtures
from autotune.tuning.builders import Builder, make_builder
from autotune.tuning.compression import Compression
from autotune.tuning.machine import Machine
from autotune.tuning.model import TracedModel
from autotune.tuning.workspace import Workspace

MakeMachine = Callable[[], Machine]
_TITLE = "measure layers"


class MachineSuite(ExampleFixtures):
    """Give the fixture `make_machine`: each call makes the machine anew, on the same database.

    Override `builder` if the machine's backend does not open what `make_builder` builds, and
    `sizes` (tokens, in, out, rank) if its table does not know these.
    """

    sizes = (32, 128, 256, 64)

    @pytest.fixture
    def make_machine(self) -> MakeMachine:
        """A function that makes the machine under test."""
        raise NotImplementedError("give a fixture named make_machine")

    @pytest.fixture
    def machine(self, make_machine: MakeMachine) -> Iterator[Machine]:
        """The machine under test, which is closed in the end."""
        with make_machine() as machine:
            yield machine

    @pytest.fixture
    def work(self, tmp_path: Path) -> Iterator[tuple[Workspace, RecordingReporter]]:
        """An empty run folder, and what is reported."""
        with example_workspace(tmp_path / "out") as work:
            yield work

    def builder(self, model: TracedModel, machine: Machine, *, workspace: Workspace) -> Builder:
        """What builds the model for the machine."""
        return make_builder(model, machine, workspace=workspace)

    def shapes(self, machine: Machine) -> list[LayerShape]:
        """A dense layer and its pair."""
        tokens, k, n, rank = self.sizes
        dense = LayerShape(tokens=tokens, in_features=k, out_features=n, dtype=machine.dtype)
        return [dense, at_rank(dense, rank)]

    def test_its_latencies_have_one_fingerprint(
        self, make_machine: MakeMachine, work: tuple[Workspace, RecordingReporter]
    ) -> None:
        """`fingerprint` names device and dtype, and stays the same whatever is measured."""
        with make_machine() as machine, make_machine() as other:
            first = machine.fingerprint
            assert (first.device, first.dtype) == (machine.spec.name, machine.dtype)
            machine.measure_layers(self.shapes(machine), work[0], stage=_TITLE)
            assert machine.fingerprint == first == other.fingerprint
            if machine.verified:
                assert (first.backend, first.threads) == (machine.backend.name, machine.threads)
                assert first.device_name == machine.device_name

    def test_ranks_have_a_multiple(self, machine: Machine) -> None:
        """`rank_multiple` is a multiple of what the device's sheet asks for."""
        assert machine.rank_multiple >= 1
        assert machine.rank_multiple % machine.spec.rank_multiple(machine.dtype) == 0

    def test_only_what_is_missing_is_measured(
        self, make_machine: MakeMachine, work: tuple[Workspace, RecordingReporter]
    ) -> None:
        """The table prices what was asked for; nothing that settled is measured again."""
        workspace, reporter = work
        with make_machine() as machine:
            wanted = self.shapes(machine)
            table = machine.measure_layers(wanted, workspace, stage=_TITLE)
            first = [table.estimate(shape) for shape in wanted]
            timings = machine.layer_timings()
        assert reporter.stages[:1] == ([_TITLE] if machine.verified else [])
        assert first[0].ratio == 1.0
        assert reporter.notes == []
        assert (timings is not None) == machine.verified
        settled = timings is None or timings.settled == timings.total == len(wanted)
        stages = len(reporter.stages)
        with make_machine() as machine:
            table = machine.measure_layers(wanted, workspace, stage=_TITLE)
            second = [table.estimate(shape) for shape in wanted]
            known, sources = machine.known_layers(allow_extrapolation=False)
            assert [known.estimate(shape) for shape in wanted] == second
            assert sources
            assert all(isinstance(source, str) and source for source in sources)
        if settled:  # a busy host may leave some of them open
            assert second == first
        assert (len(reporter.stages) == stages) == settled

    def test_prices_answer_for_layers_and_for_all_else(
        self, make_machine: MakeMachine, work: tuple[Workspace, RecordingReporter]
    ) -> None:
        """`network_prices` has what `known_layers` has, and a price for memory and attention."""
        with make_machine() as machine:
            machine.measure_layers(self.shapes(machine), work[0], stage=_TITLE)
        with make_machine() as machine:
            prices, sources = machine.network_prices(allow_extrapolation=False)
            known, _ = machine.known_layers(allow_extrapolation=False)
            assert prices.dtype == machine.dtype
            assert sources
            assert all(isinstance(source, str) and source for source in sources)
            for shape in self.shapes(machine):
                assert prices.layers.estimate(shape) == known.estimate(shape)
            memory = Operation(kind="memory", reads=((0, 1 << 20),), writes=((1, 1 << 20),))
            attention = Operation(
                kind="attention", batch=2, heads=4, kv_heads=4, queries=32, keys=32, head_dim=32
            )
            rest = prices.rest(Pass(sites=(), operations=(memory, attention)))
            alone = prices.rest(Pass(sites=(), operations=(memory,)))
            assert 0 < alone.latency_s < rest.latency_s < math.inf
            assert 0 < rest.half_width < math.inf

    def test_a_network_has_a_model_of_every_phase(
        self, machine: Machine, model: TracedModel, work: tuple[Workspace, RecordingReporter]
    ) -> None:
        """`network` covers the workload's phases; without a plan it predicts the dense latency."""
        network = machine.network(self.builder(model, machine, workspace=work[0]))
        assert {one.name: one.count for one in network.phases} == dict(EXAMPLE_WORKLOAD.passes)
        for one in network.phases:
            dense_s = one.anchor.latency_s
            assert 0 < dense_s < math.inf
            found = one.predict({})
            assert found.latency_s == pytest.approx(dense_s)
            assert found.low_s <= dense_s <= found.high_s
            assert set(one.anchor.layer_shares) == set(model.dense_shapes(one.name, machine.dtype))
            assert all(share > 0 for share in one.anchor.layer_shares.values())

    def test_networks_are_timed_with_the_dense_one_first(
        self,
        machine: Machine,
        model: TracedModel,
        compression: Compression,
        work: tuple[Workspace, RecordingReporter],
    ) -> None:
        """A verified machine times builds in turn, as ratios to the first; others refuse."""
        builder = self.builder(model, machine, workspace=work[0])
        inputs = builder.inputs("prefill")
        builds = [
            builder.dense("prefill"),
            builder.compressed("prefill", compression, plan=EXAMPLE_PLAN),
        ]
        shown: list[tuple[int, int]] = []
        advance: Advance = lambda done, total: shown.append((done, total))  # noqa: E731
        if not machine.verified:
            with pytest.raises(MeasurementError, match="not on this machine"):
                machine.compare(builds, inputs, final=False, advance=advance)
            return
        for final in (False, True):
            timing = machine.compare(builds, inputs, final=final, advance=advance)
            assert len(timing.latencies_s) == len(timing.ratios) == 2
            assert timing.ratios[0] == 1.0
            assert all(0 < seconds < math.inf for seconds in timing.latencies_s)
        assert all(0 <= done <= total for done, total in shown)

    def test_networks_are_timed_briefly_or_not_at_all(
        self,
        machine: Machine,
        model: TracedModel,
        work: tuple[Workspace, RecordingReporter],
    ) -> None:
        """`compare_briefly` times one and several streams, or returns None for either."""
        if not machine.verified:
            return
        builder = self.builder(model, machine, workspace=work[0])
        builds = [builder.dense("prefill")] * 2
        for streams in (1, 2):
            timing = machine.compare_briefly(
                builds, builder.inputs("prefill"), streams=streams, advance=lambda *_: None
            )
            if timing is not None:
                assert len(timing.ratios) == 2
                assert timing.ratios[0] == 1.0

    def test_a_network_that_cannot_run_is_an_error(self, machine: Machine, tmp_path: Path) -> None:
        """`compare` of what the backend cannot open raises `MeasurementError`."""
        missing = [tmp_path / "missing-dense", tmp_path / "missing-compressed"]
        with pytest.raises(MeasurementError):
            machine.compare(missing, tmp_path / "inputs", final=False, advance=lambda *_: None)

    def test_sites_are_parts_of_the_network(
        self, machine: Machine, model: TracedModel, work: tuple[Workspace, RecordingReporter]
    ) -> None:
        """`site_latencies` is None, or has every site; they add up to no more than the network."""
        builder = self.builder(model, machine, workspace=work[0])
        names = [site.name for site in model.single]
        build, inputs = builder.dense("prefill"), builder.inputs("prefill")
        found = machine.site_latencies(build, inputs, sites=names, advance=lambda *_: None)
        if found is None:
            pytest.skip("the machine does not look inside a running network")
        assert set(found.sites_s) == set(names)
        assert all(seconds > 0 for seconds in found.sites_s.values())
        assert sum(found.sites_s.values()) <= found.total_s

    def test_only_predictions_have_sources(self, machine: Machine) -> None:
        """`sources` is empty exactly where the machine measures."""
        assert bool(machine.sources()) is not machine.verified

    def test_it_may_be_prepared_and_closed_twice(self, make_machine: MakeMachine) -> None:
        """`prepare` and `close` may be called again, and `close` before anything was opened."""
        make_machine().close()
        with make_machine() as machine:
            machine.prepare()
            machine.prepare()
            assert machine.known_layers(allow_extrapolation=True)[0] is not None
        machine.close()
