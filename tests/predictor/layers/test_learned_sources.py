"""What prices that are learned are learned from."""

import math
from dataclasses import replace

import pytest

from autotune.core.errors import NotPricedError
from autotune.core.forms import PIVOTED, low_rank
from autotune.core.layers import LayerShape
from autotune.core.paths import fits_cache
from autotune.devices.roofline import Roofline
from autotune.devices.specs import find_device
from autotune.predictor.layers.learned_sources import LearnedLayers, RecoveredPairs
from autotune.predictor.layers.regressor import LatencyRegressor
from autotune.predictor.layers.sources import MeasuredLayers
from autotune.predictor.layers.table import LatencyTable
from autotune.profiler.sources.shipped import shipped_tables
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


@pytest.fixture(scope="module")
def pivoted():
    """Pivoted pairs of two M of the shipped H200, a fifth of the layers apart."""
    rows = [
        row
        for row in shipped_tables("h200-sxm", "bf16")[0][1]
        if row.shape.form.structure == PIVOTED and row.shape.tokens in (512, 2048)
    ]
    sizes = sorted({(row.shape.in_features, row.shape.out_features) for row in rows})
    held = set(sizes[::5])
    parts = ([], [])
    for row in rows:
        parts[(row.shape.in_features, row.shape.out_features) in held].append(row)
    return parts


H200 = Roofline.of(find_device("h200"), 1)


def test_pivoted_pairs_of_layers_that_were_not_measured_are_learned(pivoted):
    known, held = pivoted
    source = RecoveredPairs(MeasuredLayers(known, H200), H200, structure=PIVOTED)
    asked = [row for row in held if not row.shape.parts]
    found = source.price([row.shape for row in asked])
    errors = [abs(math.log(g.ratio / r.ratio)) for g, r in zip(found, asked, strict=True)]
    inside = [e <= g.half_width for e, g in zip(errors, found, strict=True)]
    assert len(asked) >= 60
    assert sum(errors) / len(errors) < 0.08
    assert sum(inside) / len(inside) >= 0.8
    plain = asked[0].shape.with_form(low_rank(asked[0].shape.rank))
    joint = next(row.shape for row in known if row.shape.parts)
    assert not any(map(source.knows, (plain, joint, asked[0].shape.dense)))


def test_another_m_than_the_only_measured_one_is_not_infinitely_far_away(pivoted):
    """Its interval was from 0.000 to 37017168."""
    one = [row for row in pivoted[0] if row.shape.tokens == 512]
    form = low_rank(2048, PIVOTED)
    shape = LayerShape(tokens=700, in_features=4096, out_features=8192, form=form, dtype="bf16")
    widths = []
    for known in (one, pivoted[0]):
        source = RecoveredPairs(MeasuredLayers(known, H200), H200, structure=PIVOTED)
        widths.append(source.price([shape])[0].half_width)
    assert 0.01 < widths[1] < 0.5 < widths[0] < 5


def test_only_a_table_of_a_device_elsewhere_learns_them(pivoted):
    """What is missed here is measured."""
    known, held = pivoted
    asked = next(row.shape for row in held if not row.shape.parts)
    with pytest.raises(NotPricedError, match="measure it"):
        LatencyTable(known, H200, cliff=8).estimate(asked)
    rows = [*known, *(row for row in held if row.shape.is_dense)]
    rows += [r for r in shipped_tables("h200-sxm", "bf16")[0][1] if r.shape == asked.dense]
    found = LatencyTable(rows, H200, cliff=8, is_elsewhere=True).estimate(asked)
    assert (found.source, 0 < found.ratio_low < found.ratio_high < 10) == ("predicted", True)


def test_what_a_table_of_a_device_elsewhere_learns_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    rows, fits = recorded(), []
    fit = LatencyRegressor.fit

    def counted(self, shapes, seconds):
        fits.append(len(shapes))
        return fit(self, shapes, seconds)

    monkeypatch.setattr(LatencyRegressor, "fit", counted)
    asked = [replace(row.shape, out_features=320) for row in rows[:12]]

    def answers(rows, *, is_elsewhere):
        return LatencyTable(rows, ROOFLINE, is_elsewhere=is_elsewhere).answers(asked)

    here = answers(rows, is_elsewhere=False)
    assert not fits_cache().exists()
    first, again = (answers(rows, is_elsewhere=True) for _ in range(2))
    assert here == first == again
    assert len(fits) == 2, "the third table has read the fit of the second"
    other = [replace(row, latency_s=row.latency_s * 2) for row in rows]
    answers(other, is_elsewhere=True)
    assert len(fits) == 3


def test_staircases_of_another_structure_change_no_answer_of_plain_ones(pivoted):
    """How ranks step from one to the next is learned of each by itself."""
    plain = [
        row
        for row in shipped_tables("h200-sxm", "bf16")[0][1]
        if row.shape.tokens == 512 and row.shape.in_features == 4096 and not row.shape.form.suffix
    ]
    other = [row for row in pivoted[0] if row.shape.tokens == 512]
    pairs = [row.shape for row in plain if row.shape.rank]
    asked = [shape.with_form(low_rank(shape.rank + 8)) for shape in pairs]
    alone, beside = (LatencyTable(rows, H200, cliff=8) for rows in (plain, [*plain, *other]))
    found = alone.answers([*pairs, *asked])
    assert found == beside.answers([*pairs, *asked])
    assert {one.source for one in found if not isinstance(one, NotPricedError)} >= {
        "measured",
        "interpolated",
    }
