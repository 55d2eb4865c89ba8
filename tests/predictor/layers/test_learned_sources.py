"""What prices that are learned are learned from."""

from dataclasses import replace

from autotune.predictor.layers.learned_sources import LearnedLayers
from autotune.predictor.layers.sources import MeasuredLayers
from tests.predictor.layers.test_prediction import ROOFLINE, recorded


def test_numbers_of_tokens_near_the_same_measured_ones_share_a_fit():
    """A fit to a whole GPU's database takes seconds, and a file may ask for any M."""
    rows = [
        replace(row, shape=replace(row.shape, tokens=tokens))
        for tokens in (1, 64, 128, 256, 4096)
        for row in recorded()
    ]
    measured = MeasuredLayers(rows, ROOFLINE)
    source = LearnedLayers(measured, ROOFLINE)
    few, some, same = (source._regressor(tokens) for tokens in (3, 100, 110))
    assert some is same is not few
    asked = [replace(row.shape, tokens=110, out_features=320) for row in rows[:9]]
    assert source.price(asked) == LearnedLayers(measured, ROOFLINE).price(asked)
