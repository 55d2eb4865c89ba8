"""Candidate forms: what saves, at multiples of what the kernels like."""

import pytest

from autotune.core.forms import DENSE, low_rank
from autotune.core.layers import LayerShape
from autotune.devices.alignment import coarse_grid, saving_forms


@pytest.mark.parametrize(("k", "n"), [(64, 256), (256, 64), (96, 96)])
def test_every_form_saves_and_none_that_saves_is_missing(k, n):
    found = saving_forms(8, in_features=k, out_features=n, structures=("plain", "pivoted"))
    shape = LayerShape(tokens=1, in_features=k, out_features=n)
    dense = shape.with_form(DENSE).parameters
    every = [low_rank(r, s) for r in range(8, min(k, n) + 1, 8) for s in ("plain", "pivoted")]
    saving = [form for form in every if shape.with_form(form).parameters < dense]
    assert found == sorted(saving)
    assert max(form.rank for form in found) == min(k, n) - 8


def test_plain_pairs_alone_unless_asked_for():
    found = saving_forms(8, in_features=64, out_features=64)
    assert {form.structure for form in found} == {"plain"}


def test_a_grid_keeps_both_ends():
    forms = saving_forms(8, in_features=512, out_features=512, structures=("pivoted",))
    grid = coarse_grid(forms, 5)
    assert (len(grid), grid[0], grid[-1]) == (5, forms[0], forms[-1])
    assert coarse_grid(forms[:3], 5) == forms[:3]
