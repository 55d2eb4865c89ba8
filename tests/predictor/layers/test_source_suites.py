"""The suite for every source of a latency table, on recorded points of a CPU."""

import pytest

from autotune.predictor.layers.learned_sources import LearnedLayers, RecoveredPairs
from autotune.predictor.layers.sources import (
    InterpolatedLayers,
    MeasuredLayers,
    RooflineGuesses,
)
from autotune.testing.shapes import at_rank
from autotune.testing.suites.latency_source import LatencySourceSuite
from tests.predictor.layers.test_prediction import ROOFLINE, recorded

ROWS = recorded()
SHAPES = tuple(row.shape for row in ROWS[:40:3])
DENSE = tuple(shape for shape in SHAPES if shape.is_dense)
# Of layers with measured ranks on both sides.
BETWEEN = tuple(
    at_rank(row.shape, row.shape.rank + 8)
    for row in ROWS
    if row.shape.rank and at_rank(row.shape, row.shape.rank + 16) in {r.shape for r in ROWS}
)[:6]
PAIRS = tuple(shape for shape in SHAPES if not shape.is_dense and not shape.parts)[:4]
# As many pairs as a Gaussian process is fitted on, and too few products to do without it.
FEW = [row for row in ROWS if row.shape.is_dense][:3] + [row for row in ROWS if row.shape.rank][:64]
ODD = at_rank(SHAPES[0].dense, 7)


class TestMeasured(LatencySourceSuite):
    known = SHAPES
    unknown = (ODD,)

    @pytest.fixture
    def make_source(self):
        return lambda: MeasuredLayers(ROWS, ROOFLINE)


class TestInterpolated(LatencySourceSuite):
    known = BETWEEN
    unknown = DENSE

    @pytest.fixture
    def make_source(self):
        return lambda: InterpolatedLayers(MeasuredLayers(ROWS, ROOFLINE), ROOFLINE, cliff=8)


class TestRecovered(LatencySourceSuite):
    known = tuple(row.shape for row in FEW if row.shape.rank and not row.shape.parts)[:4]
    unknown = DENSE

    @pytest.fixture
    def make_source(self):
        return lambda: RecoveredPairs(MeasuredLayers(FEW, ROOFLINE), ROOFLINE)


class TestLearned(LatencySourceSuite):
    known = (*DENSE, *PAIRS)

    @pytest.fixture
    def make_source(self):
        return lambda: LearnedLayers(MeasuredLayers(ROWS, ROOFLINE), ROOFLINE)


class TestRoofline(LatencySourceSuite):
    known = (*SHAPES, ODD)

    @pytest.fixture
    def make_source(self):
        return lambda: RooflineGuesses(ROOFLINE)
