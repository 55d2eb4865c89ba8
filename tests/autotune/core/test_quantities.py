import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.errors import QuantityError
from autotune.core.quantities import UNITS, format_seconds, parse_quantity


@pytest.mark.parametrize(
    ("text", "resource", "value", "relative"),
    [
        ("20ms", "latency", 0.02, False),
        ("850us", "latency", 850e-6, False),
        ("1.5s", "latency", 1.5, False),
        ("0.75x", "latency", 0.75, True),
        ("8GiB", "weight_bytes", 8 * 2**30, False),
        ("1.5GB", "weight_bytes", 1.5e9, False),
        ("25M", "parameters", 25e6, False),
        ("0.8x", "flops", 0.8, True),
    ],
)
def test_reads_what_people_write(text, resource, value, relative):
    quantity = parse_quantity(text, resource)
    assert math.isclose(quantity.value, value, rel_tol=1e-12)
    assert quantity.relative is relative


@pytest.mark.parametrize(
    "text",
    ["1e400ms", "-5ms", "20", "20m", "nanms", "infs", "0ms", "0x", "1.5x", "", "ms", "2 0ms",
     "1_000ms", "٣ms", "20MS", "0.85X", "1..5s", "9" * 40 + "s"],
)  # fmt: skip
def test_refuses_what_could_be_misread(text):
    with pytest.raises(QuantityError) as error:
        parse_quantity(text, "latency")
    assert repr(text)[1:10] in str(error.value)


@pytest.mark.parametrize("resource", UNITS)
@pytest.mark.parametrize("text", ["80parsec", "0x"])
def test_refusals_name_the_resource_in_words(text, resource):
    with pytest.raises(QuantityError, match="limit on the") as error:
        parse_quantity(text, resource)
    assert "_" not in str(error.value)


@given(st.floats(1e-8, 1e5))
def test_formatting_keeps_three_digits(seconds):
    number, unit = format_seconds(seconds).split()
    scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[unit]
    assert math.isclose(float(number) * scale, seconds, rel_tol=6e-3)
