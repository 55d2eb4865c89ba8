"""Options of the built-in parts: declared with types and bounds, checked when a request is made."""

import typing

import pytest

from autotune.compress.factorizers import FACTORIZERS
from autotune.compress.metrics import METRICS
from autotune.core.errors import UsageError
from autotune.core.plugin_options import Bounds, arguments
from autotune.core.registry import make
from autotune.core.types import Budget
from autotune.search.allocators import ALLOCATORS
from autotune.tuning.options import MethodOptions
from autotune.tuning.request import TuneRequest
from tests.autotune.service.conftest import TUNE

REGISTRIES = (METRICS, FACTORIZERS, ALLOCATORS)
# `pgsvd:groups` are regular expressions, checked by the part itself.
TEXTS = {"groups"}


def numbers_of(hint):
    """(type, bounds) of an option's numeric type; None for texts, choices and truth values."""
    if typing.get_origin(hint) is typing.Annotated:
        kind, *extras = typing.get_args(hint)
        found = next((each for each in extras if isinstance(each, Bounds)), None)
        return (kind, found) if kind in (int, float) else None
    for each in typing.get_args(hint):
        if (found := numbers_of(each)) is not None:
            return found
    return (hint, None) if hint in (int, float) else None


NUMERIC = [
    (registry, name, option, *found)
    for registry in REGISTRIES
    for name in registry
    for option, hint in arguments(registry.load(name)).items()
    if (found := numbers_of(hint)) is not None
]
IDS = [f"{name}:{option}" for _, name, option, _, _ in NUMERIC]


@pytest.mark.parametrize(("registry", "name", "option", "kind", "bounds"), NUMERIC, ids=IDS)
def test_every_number_has_both_bounds_and_keeps_to_them(registry, name, option, kind, bounds):
    assert bounds is not None, "declare Annotated[…, Bounds(ge=…, le=…)]"
    assert bounds.ge is not None
    assert bounds.le is not None
    assert bounds.ge >= 0
    wrong = ["nan", "inf", "-inf", "-1", "x", "true", "1e999", "9" * 30, "0x1", f"{bounds.le * 2}"]
    for value in [*wrong, *(["1.5"] if kind is int else [])]:
        with pytest.raises(UsageError) as caught:
            make(f"{name}:{option}={value}", registry)
        sentence = str(caught.value)
        for part in (name, option, f"got {value!r}", f"{bounds.ge:g}", f"{bounds.le:g}"):
            assert part in sentence
    for value in (bounds.ge, bounds.le):
        make(f"{name}:{option}={value if kind is int else f'{value:g}'}", registry)


def test_all_other_options_are_choices_truth_values_or_patterns():
    for registry in REGISTRIES:
        for name in registry:
            for option, hint in arguments(registry.load(name)).items():
                known = numbers_of(hint) or hint is bool or option in TEXTS
                assert known or typing.get_origin(hint) is typing.Literal, (name, option)


def test_what_text_cannot_express_is_no_option():
    with pytest.raises(UsageError, match="unknown option 'plain'; known are beta, stages"):
        make("residual:plain=true", FACTORIZERS)
    with pytest.raises(UsageError, match="sets the option 'beta' twice"):
        make("residual:beta=0.1,beta=0.2", FACTORIZERS)


METHODS = [
    {"factorizer": "residual:stages=99999999999999999999"},
    {"factorizer": "als:iterations=1000000000"},
    {"metric": "kfac:damping=nan"},
    {"allocator": "dipsvd-bayes:trials=1000000000"},
    {"allocator": r"pgsvd:groups=^(.|\w)*[A-Z]$"},
    {"allocator": "pgsvd:groups=a+b+c+d+e"},
    {"targets": ("(",)},
    {"targets": (r"^(.|\w)*[A-Z]$",)},
    {"ignore": (r"^(\w|.)*[A-Z]$",)},
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_request_is_refused_before_anything_is_loaded(method):
    with pytest.raises(UsageError, match=f"method.{next(iter(method))} "):
        TuneRequest(budget=Budget(latency="0.9x"), method=MethodOptions(**method)).check()


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_submission_is_refused(client, method):
    spec = {**TUNE, **{key: list(v) if isinstance(v, tuple) else v for key, v in method.items()}}
    answer = client.post("/v1/jobs", json={"kind": "tune", "spec": spec})
    assert answer.status_code == 422, answer.text
    assert next(iter(method)) in answer.json()["error"]["message"]
