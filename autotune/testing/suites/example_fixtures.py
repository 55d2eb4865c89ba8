"""Fixtures that the suites of whole tunings share."""

from __future__ import annotations

import pytest

from autotune.testing.example_tuning import example_compression, example_traced
from autotune.tuning.compression import Compression
from autotune.tuning.model import TracedModel


class ExampleFixtures:
    """The example model and its factors, made once for a suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> TracedModel:
        """The example model, traced and with its sites."""
        return example_traced()

    @pytest.fixture(scope="class")
    @classmethod
    def compression(
        cls, model: TracedModel, tmp_path_factory: pytest.TempPathFactory
    ) -> Compression:
        """Factors of the example model, from which plans choose."""
        return example_compression(model, tmp_path_factory.mktemp("factors"))
