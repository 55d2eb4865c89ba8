"""Rank, structure and precision of a checkpoint's layers, compared with the plan of a result."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from autotune.compress.lowrank import LowRankLinear, replace_modules
from autotune.compress.precisions import make_precision
from autotune.compress.precisions.native import Native
from autotune.compress.sites import find_sites
from autotune.core.forms import DENSE, Form, low_rank
from autotune.export.manifest import Manifest
from autotune.profiler.backends import BACKENDS, make_backend
from autotune.results.checks import CheckKind, run_check
from autotune.tuning import checkpoint_forms as module
from autotune.tuning.checkpoint_forms import compare_forms
from autotune.tuning.verify import _runs_export
from tests.autotune.tuning.conftest import Q
from tests.conftest import random_layers, tiny_model
from tests.records import stored_record

DOWN = "model.layers.0.mlp.down_proj"
STEPS = "steps"


class Steps(Native):
    """Multiples of 1/64."""

    name = STEPS

    def rounded(self, weight):
        return (weight * 64).round() / 64


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    monkeypatch.setattr(module, "make_precision", lambda name: {STEPS: Steps()}[name])


@pytest.fixture
def model():
    """One pair of rank 8, all other layers dense."""
    dense = tiny_model("llama")
    sites = [site for site in find_sites(dense).sites if site.name == Q]
    replace_modules(dense, random_layers(dense, sites, 8))
    return dense


def record_of(plan):
    """A result with only these sites."""
    record = stored_record()
    site = record.sites[0]
    sites = [replace(site, name=name, layers=(name,), form=form) for name, form in plan.items()]
    return replace(record, sites=tuple(sites))


def round_weights(module):
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("weight"):
                weight.copy_(Steps().rounded(weight))


def test_a_checkpoint_of_the_plan_holds(model):
    found = compare_forms(model, record_of({Q: low_rank(8), DOWN: DENSE}))
    assert (found.reason, found.facts.layers) == ("", 1)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({Q: low_rank(9)}, f"{Q}, which is rank=8 and should be rank=9"),
        ({Q: DENSE}, "is rank=8 and should be dense"),
        ({}, "is rank=8 and should be dense"),
        ({Q: low_rank(8, "pivoted")}, "is rank=8 and should be rank=8:pivoted"),
        ({Q: low_rank(8, precision=STEPS)}, "is rank=8 and should be rank=8:steps"),
        ({Q: low_rank(8), DOWN: low_rank(8)}, f"{DOWN}, which is dense and should be rank=8"),
        ({Q: low_rank(8), DOWN: Form(precision=STEPS)}, "is dense and should be dense:steps"),
        ({Q: low_rank(8), "gone": low_rank(8)}, "gone, which is dense and should be rank=8"),
    ],
)
def test_another_rank_structure_or_precision_does_not(model, plan, says):
    assert says in compare_forms(model, record_of(plan)).reason


def test_rounded_weights_are_recognised(model):
    plan = {Q: low_rank(8, precision=STEPS), DOWN: Form(precision=STEPS)}
    for name in plan:
        round_weights(model.get_submodule(name))
    found = compare_forms(model, record_of(plan))
    assert (found.reason, found.facts.layers) == ("", 2)
    assert isinstance(model.get_submodule(Q), LowRankLinear)
    with torch.no_grad():
        model.get_submodule(Q).weight_down[0, 0] += 1 / 128
    assert "should be rank=8:steps" in compare_forms(model, record_of(plan)).reason


def test_a_precision_that_is_not_known_here_is_the_reason(model, monkeypatch):
    monkeypatch.setattr(module, "make_precision", make_precision)
    record = record_of({Q: low_rank(8, precision="int3")})
    found = run_check(partial(compare_forms, model, record), CheckKind.RANKS)
    assert "unknown precision 'int3'" in found.reason


def test_the_backends_that_open_exported_graphs_say_so():
    """`verify` times exports only in those."""
    known = {name for name in BACKENDS if make_backend(name).opens_onnx}
    assert known == {"onnxruntime-cpu", "onnxruntime-cuda", "openvino-cpu"}


def test_an_export_of_a_backend_that_is_not_installed_is_not_timed():
    manifest = Manifest(
        format="onnx",
        dtype="fp32",
        checkpoint="model",
        weights_sha256="",
        device="cpu",
        forms={},
        versions={},
    )
    record = replace(record_of({}), dtype="fp32")
    assert _runs_export(replace(record, backend="onnxruntime-cpu"), manifest)
    assert not _runs_export(replace(record, backend="of-another-distribution"), manifest)
    assert not _runs_export(replace(record, backend="torch-eager"), manifest)
