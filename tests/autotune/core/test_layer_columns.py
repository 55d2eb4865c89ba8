"""Layers as columns are the same layers."""

import numpy as np
import pytest

from autotune.core.forms import parse_form
from autotune.core.layer_columns import LayerColumns
from autotune.core.layers import LayerShape

SHAPES = [
    LayerShape(
        tokens=tokens,
        in_features=96,
        out_features=128,
        form=parse_form(form),
        dtype=dtype,
        parts=parts,
    )
    for tokens, form, dtype, parts in [
        (1, "dense", "bf16", ()),
        (7, "rank=32", "bf16", ()),
        (7, "rank=32:pivoted", "fp16", ()),
        (2**31 - 1, "dense:int8-static", "bf16", (64, 64)),
        (8, "rank=16:pivoted:int8-dynamic", "bf16", (96, 32)),
    ]
]


def test_columns_are_the_layers_that_they_were_made_of():
    columns = LayerColumns.of(SHAPES)
    assert len(columns) == len(SHAPES)
    assert columns.shapes() == SHAPES
    assert columns.rows(np.array([3, 0])).shapes() == [SHAPES[3], SHAPES[0]]
    assert LayerColumns.of([]).shapes() == []


@pytest.mark.parametrize("name", ["parameters", "is_dense"])
def test_what_a_layer_has_its_column_has(name):
    found = getattr(LayerColumns.of(SHAPES), name)
    assert found.tolist() == [getattr(shape, name) for shape in SHAPES]


def test_forms_are_told_apart():
    columns = LayerColumns.of(SHAPES)
    assert columns.is_unchanged.tolist() == [shape.form.is_unchanged for shape in SHAPES]
    assert columns.is_native.tolist() == [not shape.form.suffix for shape in SHAPES]
    assert columns.dense.shapes() == [shape.dense for shape in SHAPES]
    assert {shape.dtype for shape in columns.in_dtype("fp32").shapes()} == {"fp32"}


def test_weights_of_huge_layers_do_not_overflow():
    most = 2**31 - 1
    shape = LayerShape(
        tokens=1, in_features=most, out_features=most, form=parse_form("rank=999999")
    )
    assert LayerColumns.of([shape]).parameters[0] == pytest.approx(shape.parameters)
