"""`autotune.profile` and `autotune.predict`: what the commands of these names do, from Python."""

import json

import pytest

import autotune
from autotune.core.errors import UsageError
from autotune.core.options import OptionError

LAYER = {"tokens": 16, "shape": "64x96", "threads": 1, "backend": "torch-eager"}
POINTS = {"tokens": (16,), "shapes": ["64x96"], "threads": 1, "backend": "torch-eager"}


def test_layers_are_measured_and_then_known(cli, private_database):
    database = private_database
    found = autotune.profile(**POINTS, ranks=(8, 16), database=str(database))
    assert (found.wanted, found.measured, found.failed) == (3, 3, ())
    assert found.database == database
    assert found.fingerprint
    again = autotune.profile(**POINTS, ranks=(8, 16), database=database)
    assert again.measured <= 3
    known = autotune.predict(**LAYER, ranks=(8, 16), database=database)
    assert [shape.rank for shape in known.shapes] == [0, 8, 16]
    assert (known.device, known.dtype) == ("cpu", "fp32")
    dense, *pairs = known.estimates
    assert dense.ratio == 1.0
    assert all(0 < each.low_s <= each.latency_s <= each.high_s for each in known.estimates)
    # The command says the same.
    command = ("predict", "--tokens", 16, "--shape", "64x96", "--threads", 1, "--rank", 8)
    said = cli(*command, "--backend", "torch-eager", "--rank", 16, "--db", database, "--json")
    answers = json.loads(said.stdout.splitlines()[-1])["estimates"]
    assert [each["latency_s"] for each in answers] == [e.latency_s for e in (dense, *pairs)]


def test_a_rank_is_measured_where_a_layer_can_have_it(private_database):
    shapes = {**POINTS, "shapes": ["16x96", "64x96"], "ranks": (24,)}
    assert autotune.profile(**shapes, database=private_database).wanted == 3  # two dense, one pair


def test_a_device_that_is_not_here_is_predicted():
    found = autotune.predict(device="h200", tokens=2048, shape="4096x4096", ranks=(1024,))
    assert (found.device, found.dtype) == ("h200-sxm", "bf16")
    assert found.estimates[1].ratio < 1.0


@pytest.mark.parametrize(
    ("call", "values", "text"),
    [
        (autotune.predict, {**LAYER, "shape": "64"}, "^shape must be IN_FEATURESxOUT_FEATURES"),
        (autotune.predict, {**LAYER, "tokens": 0}, "^tokens must be"),
        (autotune.predict, {"shape": "64x96"}, "^tokens"),
        (autotune.predict, {**LAYER, "forms": ("r96",)}, "^forms?: "),
        (autotune.predict, {**LAYER, "ranks": (65,)}, "^rank=65: .* ranks up to 64"),
        (autotune.profile, {**POINTS, "ranks": (8, 65)}, "^rank=65: .* ranks up to 64"),
        (
            autotune.profile,
            {"ranks": (8,)},
            "or model, or plan quick, or next_points 25",
        ),
        (autotune.profile, {**POINTS, "isl": 64}, "^isl needs model"),
        (autotune.profile, {**POINTS, "device": "nosuch"}, "^device: "),
    ],
)
def test_errors_name_the_keyword(call, values, text):
    with pytest.raises((UsageError, OptionError), match=text):
        call(**values)


@pytest.mark.parametrize("call", [autotune.predict, autotune.profile])
def test_a_keyword_that_is_no_option_is_named(call):
    with pytest.raises(TypeError, match=rf"{call.__name__}\(\) got an unexpected keyword .*'rows'"):
        call(rows=3)
