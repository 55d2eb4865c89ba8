import pytest

from autotune.core.errors import UsageError
from autotune.core.forms import DENSE, Form, low_rank
from autotune.core.layers import LayerShape, Site, break_even_rank, chosen_sites

SHAPE = LayerShape(tokens=10, in_features=64, out_features=192)
LAYERS = tuple(Site(name=n, in_features=64, out_features=64, tokens=10, block=0) for n in "qkv")
JOINT = Site(
    name="q+k+v",
    in_features=64,
    out_features=192,
    tokens=10,
    block=0,
    members=("q", "k", "v"),
    parts=(64, 64, 64),
)


def test_parameters_and_flops_by_form():
    assert SHAPE.parameters == 64 * 192
    assert SHAPE.with_form(low_rank(16)).parameters == 16 * (64 + 192)
    assert SHAPE.with_form(low_rank(16, "pivoted")).parameters == 16 * (64 + 192 - 16)
    for form in (DENSE, low_rank(16), low_rank(16, "pivoted")):
        shape = SHAPE.with_form(form)
        assert shape.flops == 2 * 10 * shape.parameters
        smaller = SHAPE.with_form(Form(rank=form.rank, structure=form.structure, precision="int8"))
        assert smaller.parameters == shape.parameters


def test_the_reference_of_every_form_is_the_layer_as_the_model_has_it():
    for form in (
        low_rank(8),
        low_rank(8, "pivoted", precision="int8"),
        Form(precision="int8"),
        DENSE,
    ):
        assert SHAPE.with_form(form).dense == SHAPE
    assert SHAPE.with_form(Form(precision="int8")).is_dense
    assert SHAPE.dense is SHAPE
    assert (SHAPE.rank, SHAPE.with_form(low_rank(8)).rank) == (0, 8)


def test_shapes_travel_as_json():
    shape = JOINT.shape(low_rank(16, "pivoted", precision="int8-static"), "bf16")
    values = shape.to_json()
    assert values["form"] == "rank=16:pivoted:int8-static"
    assert LayerShape.from_json(values) == shape
    assert LayerShape.from_json({"tokens": 10, "in_features": 64, "out_features": 192}) == SHAPE
    with pytest.raises(UsageError, match="unknown key 'rank'"):
        LayerShape.from_json({**values, "rank": 16})
    with pytest.raises(UsageError, match="tokens"):
        LayerShape.from_json({"in_features": 2, "out_features": 3})


def test_shapes_sort_by_size_and_then_by_rank():
    shapes = [SHAPE.with_form(form) for form in (low_rank(16), DENSE, low_rank(8))]
    assert [shape.rank for shape in sorted(shapes)] == [0, 8, 16]


def test_a_joint_site_stands_in_for_its_members_where_the_plan_factorizes_it():
    sites = (*LAYERS, JOINT)
    assert chosen_sites(sites, {"q+k+v": low_rank(8)}) == [(JOINT, low_rank(8))]
    assert chosen_sites(sites, {"q+k+v": DENSE, "k": low_rank(8)}) == [
        (LAYERS[0], DENSE),
        (LAYERS[1], low_rank(8)),
        (LAYERS[2], DENSE),
    ]
    assert chosen_sites(sites, {}) == [(layer, DENSE) for layer in LAYERS]
    rounded = Form(precision="int8-static")
    assert chosen_sites(sites, {"q+k+v": rounded}) == [(JOINT, rounded)]


def test_break_even_rank_is_the_last_that_saves():
    for k, n in [(384, 384), (384, 1536), (7, 5), (4096, 14336)]:
        rank = break_even_rank(k, n)
        assert rank * (k + n) <= k * n < (rank + 1) * (k + n)
