"""Changes of a whole network: plans, ratios, verdicts at the ends of intervals, and advice."""

import pytest

from autotune.core.errors import NotPricedError
from autotune.core.forms import Form, low_rank
from autotune.core.layers import LayerShape, Site
from autotune.core.operation import Operation
from autotune.core.outline import ModelOutline, Pass
from autotune.core.types import Estimate
from autotune.devices.specs import find_device
from autotune.layers.network_advice import advice
from autotune.layers.network_changes import KEEPS, WHOLE, ChangedNetwork, PricedNetwork, asked
from autotune.layers.network_records import (
    Change,
    LayerKind,
    NetworkPrediction,
    PhasePrediction,
)
from autotune.predictor.base import LatencyPredictor
from autotune.predictor.network.added_up import NetworkPrices
from autotune.predictor.network.attention import AttentionLatency
from autotune.predictor.network.rest import MemoryModel

MULTIPLE = 32
SITES = {"large": (1024, 4096), "small": (64, 64)}


class ByParameters(LatencyPredictor):
    """A nanosecond a parameter, and a tenth of it in int8; nothing is known of int4."""

    def estimate(self, shape):
        if shape.form.precision == "int4-weight-only":
            raise NotPricedError("int4 was not measured")
        seconds = 1e-9 * shape.parameters * (0.1 if shape.form.precision != "native" else 1.0)
        dense_s = 1e-9 * shape.dense.parameters
        return Estimate(
            latency_s=seconds,
            low_s=0.9 * seconds,
            high_s=1.1 * seconds,
            ratio=seconds / dense_s,
            source="measured",
            ratio_half_width=0.05,
        )


def prices(precisions=("int8-static",)):
    spec = find_device("a100")
    return NetworkPrices(
        dtype="fp32",
        layers=ByParameters(),
        memory=MemoryModel(bandwidth_bytes_s=1e12, least_s=1e-4),
        attention=AttentionLatency(spec, "fp32"),
        fuses=False,
        precisions=precisions,
    )


def one_pass(tokens):
    sites = tuple(
        Site(
            name=name,
            in_features=k,
            out_features=n,
            tokens=tokens,
            group="mlp",
            block=0,
            has_bias=False,
        )
        for name, (k, n) in SITES.items()
    )
    return Pass(sites=sites, operations=(Operation(kind="memory", reads=((0, 8),)),))


OUTLINE = ModelOutline(
    task="causal-lm", parameters=1, passes={"prefill": one_pass(8), "decode": one_pass(1)}
)
DENSE_S = 1e-9 * (1024 * 4096 + 64 * 64)


@pytest.fixture
def network():
    counts = {"prefill": 1, "decode": 3}
    return PricedNetwork.of(OUTLINE, counts, prices=prices(), multiple=MULTIPLE)


def test_uniform_ranks_are_the_largest_aligned_ones_that_keep_no_more(network):
    for keep in KEEPS:
        plan = network.uniform(keep)
        rank = plan["large"].rank
        assert rank % MULTIPLE == 0
        size, whole = 1024 + 4096, 1024 * 4096
        assert rank * size <= keep * whole < (rank + MULTIPLE) * size
        assert "small" not in plan  # 32 · 128 are as many as it has
    assert network.uniform(1e-6) == {}


def test_a_change_is_layers_changed_over_all_there_is(network):
    rest_s = network.phases[0].anchor.latency_s - DENSE_S
    assert rest_s == pytest.approx(1e-4, rel=0.01)
    found = network.changed(CHANGE, {"large": low_rank(256)})
    saved = 1e-9 * (1024 * 4096 - 256 * 5120)
    expected = 1 - saved / (DENSE_S + rest_s)
    for phase in ("prefill", "decode", WHOLE):
        assert found[phase].ratio == pytest.approx(expected)
        assert found[phase].ratio_low < expected < found[phase].ratio_high
        assert found[phase].name == CHANGE.name


def test_changes_have_the_precisions_of_the_device_s_own_table(network):
    changed = ChangedNetwork.of(network, "a100-sxm")
    names = [each[WHOLE].name for each in changed.found]
    assert names == [*(f"keep {keep:g}" for keep in KEEPS), "int8-static"]
    whole = changed.found[-1][WHOLE]
    assert (whole.kind, whole.keep, whole.stacks) == ("precision", None, ())
    assert changed.refused == {}


def test_what_has_no_price_says_why():
    counts = {"prefill": 1, "decode": 3}
    known = prices(("int4-weight-only", "int8-static"))
    network = PricedNetwork.of(OUTLINE, counts, prices=known, multiple=MULTIPLE)
    changed = ChangedNetwork.of(network, "a100-sxm")
    assert changed.refused == {"int4-weight-only": "int4 was not measured"}
    assert [each[WHOLE].name for each in changed.found][-1] == "int8-static"


def test_everything_that_is_asked_for_is_announced(network):
    announced = set(asked(network))
    for phase in network.phases:
        for keep in KEEPS:
            for name, form in network.uniform(keep).items():
                assert phase.shape(name, form) in announced
        for site in phase.sites:
            assert phase.shape(site.name, Form()) in announced


CHANGE = Change(name="some", kind="rank", keep=0.5, ratio=1.0, ratio_low=1.0, ratio_high=1.0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.999, "faster"),
        (0.5, 1.0, "undecided"),
        (0.999, 1.001, "undecided"),
        (1.0, 1.2, "undecided"),
        (1.001, 1.2, "slower"),
    ],
)
def test_an_interval_that_contains_1_is_undecided(low, high, verdict):
    change = Change(name="x", kind="rank", ratio=(low + high) / 2, ratio_low=low, ratio_high=high)
    assert change.verdict == verdict
    assert change.to_json()["verdict"] == verdict


def changes(ranks, precisions=()):
    """Of points by keep and by precision, each within a tenth."""
    kept = [("rank", f"keep {keep:g}", keep, ratio) for keep, ratio in ranks.items()]
    given = [("precision", name, None, ratio) for name, ratio in dict(precisions).items()]
    return tuple(
        Change(
            name=name,
            kind=kind,
            keep=keep,
            ratio=ratio,
            ratio_low=ratio - 0.1,
            ratio_high=ratio + 0.1,
        )
        for kind, name, keep, ratio in kept + given
    )


def predicted(**phases):
    """A prediction with changes of each phase; the last one's are those of the whole."""
    tokens = {"prefill": 512, "decode": 1}
    dense = Estimate(latency_s=1.0, low_s=0.9, high_s=1.1, ratio=1.0, source="measured")
    shape = LayerShape(tokens=1, in_features=64, out_features=64)
    kind = LayerKind(
        name="x", count=1, shape=shape, dense=dense, share=0.5, faster_rank=None, likely_rank=None
    )
    return NetworkPrediction(
        model="m",
        task="causal-lm",
        device="a100-sxm",
        backend="imported",
        dtype="bf16",
        workload="w",
        tensor_parallel=1,
        parameters=1,
        interval="transfer",
        sources=(),
        phases=tuple(
            PhasePrediction(
                name=name,
                count=1,
                tokens=tokens[name],
                latency_s=1.0,
                low_s=0.9,
                high_s=1.1,
                rest_s=0.5,
                layers=(kind,),
                changes=found,
            )
            for name, found in phases.items()
        ),
        changes=[*phases.values()][-1],
    )


GOOD, BAD = {0.9: 1.0, 0.7: 0.8, 0.5: 0.6}, {0.9: 1.2, 0.7: 1.15, 0.5: 1.12}
LIKELY = {0.9: 1.2, 0.7: 1.0, 0.5: 0.95}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            predicted(prefill=changes(GOOD)),
            "at 512 tokens ranks pay off that keep 0.7 or less (0.80, 0.70 to 0.90); "
            "what it costs in quality only a tuning shows.",
        ),
        (predicted(decode=changes(BAD)), "at 1 token no rank pays off."),
        (
            predicted(decode=changes(LIKELY)),
            "at 1 token no rank surely pays off (keep 0.5 is undecided, 0.95, 0.85 to 1.05: tune "
            "or measure on the device).",
        ),
        (
            predicted(decode=changes(BAD, {"int8": 0.7, "fp8": 0.95})),
            "use int8 (0.70, 0.60 to 0.80 of the dense latency); at 1 token no rank pays off; "
            "what it costs in quality only a tuning shows.",
        ),
        (
            predicted(prefill=changes(GOOD, {"int8": 1.3}), decode=changes(BAD, {"int8": 0.7})),
            "use int8 (0.70, 0.60 to 0.80 of the dense latency); over the request no rank pays "
            "off; in prefill (512 tokens) ranks pay off that keep 0.7 or less (0.80, 0.70 to "
            "0.90); what it costs in quality only a tuning shows.",
        ),
        (
            predicted(decode=changes(LIKELY, {"int8": 0.7}), prefill=changes(GOOD, {"int8": 0.8})),
            "use int8 (0.80, 0.70 to 0.90 of the dense latency); over the request ranks pay off "
            "that keep 0.7 or less (0.80, 0.70 to 0.90); in decode (1 token) no rank surely pays "
            "off, and int8 does (0.70, 0.60 to 0.80); what it costs in quality only a tuning "
            "shows.",
        ),
        (
            predicted(prefill=changes(BAD), decode=changes(BAD)),
            "over the request no rank pays off.",
        ),
        (
            predicted(prefill=changes(GOOD), decode=changes(GOOD, {"fp8": 0.95})),
            "no precision that was timed is surely faster; over the request ranks pay off that "
            "keep 0.7 or less (0.80, 0.70 to 0.90); what it costs in quality only a tuning shows.",
        ),
        (
            predicted(prefill=changes({0.9: 0.8, 0.7: 0.7, 0.5: 1.2})),
            "at 512 tokens the ranks of keep 0.7 pay off (0.70, 0.60 to 0.80); what it costs in "
            "quality only a tuning shows.",
        ),
    ],
)
def test_advice_is_one_sentence_of_what_is_sure(found, said):
    assert advice(found) == said


def test_advice_names_the_stacks_that_run_a_precision():
    (one,) = changes({}, {"fp8": 0.7})
    for stacks, text in (
        (("vllm 0.1",), "use fp8 as vllm runs it ("),
        (("sglang 1", "trtllm 2", "vllm 3"), "use fp8 as sglang, trtllm and vllm run it ("),
    ):
        timed = Change(**{**vars(one), "stacks": stacks})
        assert advice(predicted(decode=(timed, *changes(BAD)))).startswith(text)
