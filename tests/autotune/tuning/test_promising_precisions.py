"""Precisions in which every layer is slower are left out before anything is rounded."""

from types import SimpleNamespace

import pytest

from autotune.core.forms import NATIVE
from autotune.core.layers import Site
from autotune.core.types import Estimate
from autotune.tuning.measuring import MeasuringMachine

SITES = [
    Site(name=name, in_features=64, out_features=width, tokens=1)
    for name, width in (("a", 64), ("b", 96))
]
PRECISIONS = (NATIVE, "int8-weight-only", "int4-weight-only")


def promising(ratios, precisions=PRECISIONS):
    """What is left with these ratios to dense by precision, one for each layer; and the notes."""

    def estimate(shape):
        ratio = ratios.get(shape.form.precision, (1.0, 1.0))[shape.out_features == 96]
        return Estimate(latency_s=ratio, low_s=ratio, high_s=ratio, ratio=ratio, source="measured")

    machine = SimpleNamespace(
        dtype="fp32", _measure_dense=lambda model, workspace: SimpleNamespace(estimate=estimate)
    )
    model = SimpleNamespace(
        precisions=precisions,
        workload=SimpleNamespace(passes={"prefill": 1}),
        choices_in=lambda phase: SITES,
    )
    notes = []
    workspace = SimpleNamespace(note=notes.append)
    return MeasuringMachine.promising_precisions(machine, model, workspace), notes


def test_one_layer_that_is_faster_keeps_a_precision():
    found, notes = promising({"int8-weight-only": (1.4, 0.9), "int4-weight-only": (1.1, 1.2)})
    assert found == (NATIVE, "int8-weight-only")
    assert notes == ["int4-weight-only is left out: every layer is slower in it"]


def test_a_single_further_precision_is_kept_without_a_look():
    found, notes = promising({"int8-weight-only": (2.0, 2.0)}, PRECISIONS[:2])
    assert found == PRECISIONS[:2]
    assert notes == []


@pytest.mark.parametrize(("low_s", "above"), [(1.01, True), (0.99, False)])
def test_an_interval_is_above_dense_as_a_whole(low_s, above):
    found = Estimate(latency_s=1.2, low_s=low_s, high_s=1.4, ratio=1.2, source="measured")
    assert found.is_above_dense is above
