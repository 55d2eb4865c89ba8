"""Tests of the contract of `autotune.predictor.layers.sources.LatencySource`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

import pytest

from autotune.core.layers import LayerShape
from autotune.core.types import Estimate, Source
from autotune.predictor.layers.sources import Guess, LatencySource


class LatencySourceSuite:
    """Give the fixture `make_source`, which makes a new source of the same knowledge.

    `known` are shapes that it prices, `unknown` shapes that it does not (none: it prices all).
    """

    known: Sequence[LayerShape] = ()
    unknown: Sequence[LayerShape] = ()

    @pytest.fixture
    def make_source(self) -> Callable[[], LatencySource]:
        """A function that makes the source under test."""
        raise NotImplementedError("give a fixture named make_source")

    def test_it_knows_what_it_can_price(self, make_source: Callable[[], LatencySource]) -> None:
        """`knows` answers the same each time, whatever was asked before."""
        source = make_source()
        assert self.known
        for _ in range(2):
            assert all(source.knows(shape) for shape in self.known)
            assert not any(source.knows(shape) for shape in self.unknown)
        assert not any(make_source().knows(shape) for shape in self.unknown)

    def test_every_known_shape_has_one_price(
        self, make_source: Callable[[], LatencySource]
    ) -> None:
        """`price` gives one each, in order: an estimate, or a value with its half width."""
        prices = self.prices(make_source(), self.known)
        assert len(prices) == len(self.known)
        for found in prices:
            assert found.source in get_args(Source)
            if isinstance(found, Estimate):
                assert 0 < found.low_s <= found.latency_s <= found.high_s < math.inf
                continue
            (value,) = (each for each in (found.latency_s, found.ratio) if each is not None)
            assert 0 < value < math.inf
            assert found.half_width >= 0

    def test_prices_do_not_depend_on_what_is_asked_together(
        self, make_source: Callable[[], LatencySource]
    ) -> None:
        """One by one, in another order or all at once: equal but for rounding."""
        together = self.prices(make_source(), self.known)
        backwards = self.prices(make_source(), self.known[::-1])[::-1]
        source = make_source()
        alone = [self.prices(source, [shape])[0] for shape in self.known]
        for other in (backwards, alone):
            for one, two in zip(together, other, strict=True):
                assert one.source == two.source
                for ours, theirs in ((one.latency_s, two.latency_s), (one.ratio, two.ratio)):
                    assert ours == (theirs and pytest.approx(theirs, rel=1e-6))

    def test_nothing_costs_nothing(self, make_source: Callable[[], LatencySource]) -> None:
        """An empty list of shapes has an empty list of prices."""
        assert list(make_source().price([])) == []

    def prices(
        self, source: LatencySource, shapes: Sequence[LayerShape]
    ) -> Sequence[Estimate | Guess]:
        """The prices of known shapes, asked for as a table does: `knows` first."""
        assert {source.knows(shape) for shape in shapes} <= {True}
        return source.price(shapes)
