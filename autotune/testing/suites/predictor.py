"""Tests of the contract of `autotune.predictor.base.LatencyPredictor`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

import pytest

from autotune.core.errors import MeasurementError
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Source
from autotune.predictor.base import LatencyPredictor
from autotune.testing.shapes import is_dense


class PredictorSuite:
    """Give the fixture `make_predictor`, which makes a new predictor of the same knowledge.

    `known` are layers and pairs that it can price, `unknown` one that it must refuse (None: there
    is no such shape).
    """

    known: Sequence[LayerShape] = ()
    unknown: LayerShape | None = None

    @pytest.fixture
    def make_predictor(self) -> Callable[[], LatencyPredictor]:
        """A function that makes the predictor under test."""
        raise NotImplementedError("give a fixture named make_predictor")

    def test_the_suite_has_shapes(self) -> None:
        """`known` holds dense layers and pairs."""
        assert {is_dense(shape) for shape in self.known} == {True, False}

    def test_an_interval_holds_its_estimate(
        self, make_predictor: Callable[[], LatencyPredictor]
    ) -> None:
        """0 < low ≤ latency ≤ high < infinity, and the source is one of the known ones."""
        predictor = make_predictor()
        for shape in self.known:
            found = predictor.estimate(shape)
            assert 0 < found.low_s <= found.latency_s <= found.high_s < math.inf, shape
            assert found.source in get_args(Source)

    def test_a_ratio_is_to_the_dense_layer(
        self, make_predictor: Callable[[], LatencyPredictor]
    ) -> None:
        """`ratio` is latency / latency of the dense layer: 1 for a dense layer."""
        predictor = make_predictor()
        for shape in self.known:
            dense = predictor.estimate(shape.dense)
            found = predictor.estimate(shape)
            assert found.ratio == pytest.approx(found.latency_s / dense.latency_s, rel=1e-6), shape
            assert 0 < found.ratio_low <= found.ratio <= found.ratio_high < math.inf, shape
            assert dense.ratio == pytest.approx(1.0)

    def test_asked_twice_it_answers_the_same(
        self, make_predictor: Callable[[], LatencyPredictor]
    ) -> None:
        """Asking changes nothing: equal answers, bit by bit."""
        predictor = make_predictor()
        first = [predictor.estimate(shape) for shape in self.known]
        assert [predictor.estimate(shape) for shape in self.known] == first

    def test_order_and_preparation_change_nothing(
        self, make_predictor: Callable[[], LatencyPredictor]
    ) -> None:
        """Shapes announced by `prepare`, or asked in another order, have the same latency."""
        alone, backwards, prepared = (make_predictor() for _ in range(3))
        first = {shape: alone.estimate(shape) for shape in self.known}
        second = {shape: backwards.estimate(shape) for shape in reversed(self.known)}
        prepared.prepare(())
        prepared.prepare(self.known)
        for shape in self.known:
            _assert_equal(second[shape], first[shape])
            _assert_equal(prepared.estimate(shape), first[shape])

    def test_an_unknown_shape_is_refused(
        self, make_predictor: Callable[[], LatencyPredictor]
    ) -> None:
        """A shape that nothing is known about raises `MeasurementError`, each time."""
        if self.unknown is None:
            pytest.skip("the predictor prices every shape")
        predictor = make_predictor()
        for _ in range(2):
            with pytest.raises(MeasurementError, match=r"\S"):
                predictor.estimate(self.unknown)


def _assert_equal(found: Estimate, expected: Estimate) -> None:
    """Equal up to the order in which sums are taken."""
    ours, theirs = found.to_json(), expected.to_json()
    assert ours.pop("source") == theirs.pop("source")
    assert ours == pytest.approx(theirs, rel=1e-6)
