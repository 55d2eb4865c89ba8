"""Tests of the contract of `autotune.tuning.builders.Builder`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autotune.compress.decode import decode_step
from autotune.compress.factors import Factors
from autotune.compress.lowrank import LowRankLinear
from autotune.core.forms import DENSE, Form, Plan, low_rank
from autotune.core.layers import Site
from autotune.testing.example_tuning import (
    EXAMPLE_PLAN,
    example_workspace,
)
from autotune.testing.suites.example_fixtures import ExampleFixtures
from autotune.tuning.builders import Builder
from autotune.tuning.compression import Compression
from autotune.tuning.model import TracedModel
from autotune.tuning.workspace import Workspace

MakeBuilder = Callable[[Workspace], Builder]
_PHASES = ("prefill", "decode")


class BuilderSuite(ExampleFixtures):
    """Give the fixture `make_builder`: a function that makes the builder of `model` in a workspace.

    Override `outputs` with what runs a build, if this host can; `tolerance` is how far it may be
    from what torch computes in fp32. `uses_factors` is whether builds hold the plan's factors.
    """

    tolerance = 1e-4
    uses_factors = True

    @pytest.fixture
    def make_builder(self, model: TracedModel) -> MakeBuilder:
        """A function that makes the builder under test."""
        raise NotImplementedError("give a fixture named make_builder")

    @pytest.fixture
    def builder(self, make_builder: MakeBuilder, workspace: Workspace) -> Builder:
        """The builder under test, which a subclass provides."""
        return make_builder(workspace)

    @pytest.fixture
    def workspace(self, tmp_path: Path) -> Iterator[Workspace]:
        """An empty run folder, with a reporter that keeps what it is given."""
        with example_workspace(tmp_path / "out") as (workspace, _):
            yield workspace

    def outputs(self, build: Path, inputs: Path, *, phase: str) -> Tensor | None:
        """What a build computes of the inputs; None if nothing can run it here."""
        del build, inputs, phase
        return None

    @pytest.fixture(autouse=True)
    def _the_model_is_left_dense(self, model: TracedModel) -> Iterator[None]:
        network = model.loaded.model
        before = {name: value.clone() for name, value in network.state_dict().items()}
        modules = dict(network.named_modules())
        yield
        after = network.state_dict()
        assert dict(network.named_modules()) == modules
        assert not any(isinstance(module, LowRankLinear) for module in network.modules())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], value) for name, value in after.items())
        assert not hasattr(network.config, "quantization_config")

    @pytest.mark.parametrize("phase", _PHASES)
    def test_what_is_built_is_reused(
        self,
        make_builder: MakeBuilder,
        workspace: Workspace,
        compression: Compression,
        phase: str,
    ) -> None:
        """Dense and compressed builds of a phase, and its inputs, are built once in the cache."""
        builder = make_builder(workspace)
        builds = [builder.dense(phase), builder.compressed(phase, compression, plan=EXAMPLE_PLAN)]
        builds.append(builder.inputs(phase))
        assert len(set(builds)) == 3
        assert all(build.exists() for build in builds)
        stamps = _stamps(workspace)
        again = make_builder(workspace)
        assert builds == [
            again.dense(phase),
            again.compressed(phase, compression, plan=EXAMPLE_PLAN),
            again.inputs(phase),
        ]
        assert _stamps(workspace) == stamps

    def test_the_key_names_the_cache_entry(
        self, builder: Builder, workspace: Workspace, compression: Compression
    ) -> None:
        """`key` is the name of the entry of the cache that holds a build; plans have their own."""
        other: Plan = {name: low_rank(4) for name in EXAMPLE_PLAN}
        builds = [
            builder.dense("prefill"),
            builder.compressed("prefill", compression, plan=EXAMPLE_PLAN),
            builder.compressed("prefill", compression, plan=other),
        ]
        keys = [builder.key(build) for build in builds]
        assert len(set(keys)) == 3
        for key, build in zip(keys, builds, strict=True):
            assert build.is_relative_to(workspace.cache / key)

    def test_a_dense_site_is_no_part_of_a_plan(
        self, builder: Builder, model: TracedModel, compression: Compression
    ) -> None:
        """Plans that differ by sites in their native dense form alone share a build."""
        spelled = {model.single[-1].name: DENSE, **EXAMPLE_PLAN}
        found = (
            builder.compressed("prefill", compression, plan=plan)
            for plan in (EXAMPLE_PLAN, spelled)
        )
        assert len(set(found)) == 1

    @pytest.mark.parametrize("phase", _PHASES)
    def test_a_build_computes_what_the_model_computes(
        self, builder: Builder, model: TracedModel, compression: Compression, phase: str
    ) -> None:
        """Run on its inputs, a build's output is that of the torch model with the plan applied."""
        inputs = builder.inputs(phase)
        found = self.outputs(builder.dense(phase), inputs, phase=phase)
        if found is None:
            pytest.skip("nothing here runs the build")
        dense = _computed(model, phase)
        assert torch.allclose(found.float(), dense, atol=self.tolerance)
        build = builder.compressed(phase, compression, plan=EXAMPLE_PLAN)
        found = self.outputs(build, inputs, phase=phase)
        assert found is not None
        with compression.applied(EXAMPLE_PLAN):
            expected = _computed(model, phase)
        assert not torch.allclose(expected, dense, atol=2 * self.tolerance)
        assert torch.allclose(found.float(), expected, atol=self.tolerance)

    @pytest.mark.parametrize("phase", _PHASES)
    def test_a_build_that_fails_leaves_nothing_behind(
        self, builder: Builder, workspace: Workspace, compression: Compression, phase: str
    ) -> None:
        """What the factors raise reaches the caller, and no entry of the plan is left."""
        if not self.uses_factors:
            pytest.skip("builds hold no factors")
        builder.dense(phase)
        before = _stamps(workspace)
        broken = dataclasses.replace(compression, factors=_Broken())
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                builder.compressed(phase, broken, plan=EXAMPLE_PLAN)
            assert _stamps(workspace) == before
        assert builder.compressed(phase, compression, plan=EXAMPLE_PLAN).exists()


class _Broken(Factors):
    """A pair of the first site, and then an error."""

    def errors(self, site: Site) -> Tensor:
        return torch.zeros(min(site.in_features, site.out_features) + 1)

    def plan(self, forms: Mapping[Site, Form]) -> Iterator[tuple[Site, tuple[Tensor, Tensor]]]:
        for site, form in list(forms.items())[:1]:
            yield site, (torch.ones(len(site.name), form.rank), torch.ones(form.rank, 1))
        raise ZeroDivisionError("the second site has no factors")


@torch.no_grad()
def _computed(model: TracedModel, phase: str) -> Tensor:
    network, inputs = model.loaded.model, model.example_inputs(phase)
    found: Tensor = (
        decode_step(network, inputs)[0] if phase == "decode" else model.task.output(network, inputs)
    )
    return found


def _stamps(workspace: Workspace) -> dict[Path, int]:
    """Every file of the cache, with the time at which it was written."""
    files = (path for path in workspace.cache.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}
