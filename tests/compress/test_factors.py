"""The suite for every source of a plan's factors."""

import pytest

from autotune.compress.factorizers import FACTORIZERS, make_factorizer
from autotune.compress.factors import FactorStore, Refactored, Stored, build_factor_store
from autotune.compress.metrics import make_metric
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


class TestStored(ExampleFactors):
    @pytest.fixture(params=["int8", "int4"])
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
