"""The suite for every source of a plan's factors."""

import pytest
import torch

from autotune.compress.factorizers import FACTORIZERS, make_factorizer
from autotune.compress.factors import FactorStore, Refactored, Stored, build_factor_store
from autotune.compress.metrics import make_metric
from autotune.core.forms import low_rank
from autotune.testing.examples import example_batches
from autotune.testing.suites.factors import FactorsSuite

METRIC = make_metric("kfac")


class ExampleFactors(FactorsSuite):
    """With the store of the example model's factors."""

    @pytest.fixture(scope="class")
    @classmethod
    def statistics(cls, example):
        return example.statistics(METRIC.moments)

    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, example, statistics, tmp_path_factory):
        path = tmp_path_factory.mktemp("factors") / "factors.safetensors"
        build_factor_store(
            example.model,
            example.sites,
            path=path,
            metric=METRIC,
            statistics=statistics,
            joint=example.joint,
        )
        return path


class TestFactorStore(ExampleFactors):
    @pytest.fixture
    def factors(self, path):
        return FactorStore(path)

    def test_beyond_break_even_only_where_it_was_built_for_that(self, example, path, tmp_path):
        """Pivoted pairs save at every rank below the full one."""
        site = max(example.sites, key=lambda one: min(one.in_features, one.out_features))
        full = min(site.in_features, site.out_features)
        forms = {site: low_rank(full - 1, "pivoted")}
        with pytest.raises(AssertionError, match="without such ranks"):
            list(FactorStore(path).plan(forms))
        whole = tmp_path / "all.safetensors"
        build_factor_store(
            example.model,
            [site],
            path=whole,
            metric=METRIC,
            statistics=example.statistics(METRIC.moments),
            all_ranks=True,
        )
        ((_, (up, down)),) = FactorStore(whole).plan(forms)
        assert (up.shape[1], down.shape[0]) == (full - 1, full - 1)
        few = {site: low_rank(3)}
        ((_, found),), ((_, same),) = (FactorStore(p).plan(few) for p in (whole, path))
        assert all(map(torch.equal, found, same))


class TestStored(ExampleFactors):
    @pytest.fixture(params=["fp16", "bf16", "remap8"])
    def factors(self, request, path):
        return Stored(FactorStore(path), request.param)


class TestRefactored(ExampleFactors):
    """Joint sites have the metric's own factors only (docs/methods/joint.md)."""

    joint = False

    @pytest.fixture(params=sorted(set(FACTORIZERS) - {"svd"}))
    def factors(self, request, path, example, statistics):
        return Refactored(
            FactorStore(path),
            factorizer=make_factorizer(request.param),
            metric=METRIC,
            model=example.model,
            statistics=lambda: statistics,
            task=example.task,
            batches=example_batches(2),
        )
