"""What cannot fit into a job's memory is refused when it is submitted, and what may fit is not."""

import dataclasses
import json

import pytest
from starlette.testclient import TestClient

from autotune.core.errors import UsageError
from autotune.core.workload import Workload
from autotune.service import estimates
from autotune.service.app import create_app
from autotune.service.estimates import check_model, widths_of
from autotune.service.jobs import JobDatabase
from tests.autotune.service.conftest import TUNE, roots, settings  # noqa: F401 (fixtures)

HUB = "some/model"
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
}


@pytest.fixture
def submit(settings, roots):  # noqa: F811
    """Submit a job to a server whose jobs may use 8 GB."""
    quotas = dataclasses.replace(settings.quotas, memory_bytes=8_000_000_000)
    settings = dataclasses.replace(settings, quotas=quotas, hub_ids=frozenset({HUB}))
    with JobDatabase(settings.job_database) as database:
        with TestClient(create_app(settings, database), raise_server_exceptions=False) as client:

            def post(kind="tune", **changes):
                spec = {**(TUNE if kind == "tune" else {}), **changes}
                return client.post("/v1/jobs", json={"kind": kind, "spec": spec})

            yield post


def a_model(roots, **changes):  # noqa: F811
    folder = roots / "claims"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL | changes))
    (folder / "model.safetensors").write_bytes(b"")
    return "claims"


@pytest.mark.parametrize(
    ("kind", "spec", "named"),
    [
        ("tune", {"batch_size": 65536, "isl": 128}, "batch_size 65536 and isl 128 need at least"),
        ("tune", {"batch_size": 1 << 24, "isl": 1 << 24}, "need at least"),
        ("tune", {"batch_size": 1, "isl": 100_000}, "need at least"),  # its attention scores
        ("tune", {"batch_size": 8192, "phase": "decode", "isl": 2000}, "keys and values"),
        ("tune", {"batch_size": 1, "osl": 10_000_000}, "keys and values"),
        ("profile", {"tokens": [128], "shapes": ["9999999x9999999"]}, "tokens takes 400,010.2 GB"),
        ("profile", {"tokens": [2**31 - 1], "shapes": ["384x384"]}, "on 2147483647 tokens takes"),
        ("profile", {"model": "code-llama-3m", "batch_size": 65536}, "need at least"),
        ("profile", {"tokens": [128], "shapes": ["0x0"]}, "must be IN_FEATURESxOUT_FEATURES"),
        ("profile", {"tokens": [128], "shapes": ["ééé"]}, "must be IN_FEATURESxOUT_FEATURES"),
        ("profile", {}, "give spec.tokens and spec.shapes"),
        ("tune", {"targets": ["("]}, "is not a regular expression"),
        ("tune", {"ignore": [r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)\7[!?]"]}, "takes too long to search"),
        ("tune", {"allocator": "pgsvd:groups=("}, "is not a regular expression"),
    ],
)
def test_a_job_that_no_memory_or_patience_suffices_for_is_refused(submit, kind, spec, named):
    answer = submit(kind, **spec)
    assert answer.status_code == 422, answer.text
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"num_hidden_layers": 1_000_000}, "config.json of 1,000,000 layers"),
        ({"n_layer": 10**30}, "layers"),
        ({"vision_config": {"depths": [2, 5000, 5001]}}, "10,003 layers"),
        ({"num_hidden_layers": 5000, "num_local_experts": 5000}, "5,000 experts"),
        ({"hidden_size": 10**6}, "largest weight alone takes"),
        ({"vocab_size": 10**9}, "largest weight alone takes"),
        ({"vocab_size": 10**9, "architectures": ["BertModel"]}, "largest weight alone takes"),
        ({"max_position_embeddings": 10**9, "model_type": "bert"}, "largest weight alone takes"),
    ],
)
def test_a_model_that_claims_to_be_huge_is_refused(submit, roots, config, named):  # noqa: F811
    for kind, spec in (("tune", {}), ("profile", {"batch_size": 1})):
        answer = submit(
            kind, **spec, model=a_model(roots, **config) if kind == "tune" else "claims"
        )
        assert answer.status_code == 422, answer.text
        assert named in answer.json()["error"]["message"]


def test_weights_that_exceed_the_memory_are_refused(submit, roots):  # noqa: F811
    name = a_model(roots)
    with (roots / name / "model.safetensors").open("wb") as file:
        file.truncate(9_000_000_000)  # a file with a hole
    assert "has weights of 9.0 GB" in submit(model=name).json()["error"]["message"]


@pytest.mark.parametrize("text", ["null", "[]", "3", "{", '{"num_hidden_layers": "x"}', "{}"])
def test_a_config_that_is_none_is_no_error_of_the_server(submit, roots, text):  # noqa: F811
    """The job reports it, or it is refused."""
    name = a_model(roots)
    (roots / name / "config.json").write_text(text)
    assert submit(model=name).status_code in (201, 422)


@pytest.mark.parametrize(
    ("config", "refused", "taken"),
    [
        (None, {"batch_size": 2**20, "isl": 128}, {"batch_size": 64}),  # not loaded yet
        (SMALL, {"batch_size": 2**16, "isl": 128}, {"batch_size": 64}),
        (SMALL | {"hidden_size": 10**6}, {"batch_size": 1}, None),
    ],
)
def test_hub_models_are_bounded_by_what_is_known_of_them(
    submit, tmp_path, monkeypatch, config, refused, taken
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    if config is not None:
        cached = tmp_path / "hub" / "models--some--model"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("abc")
        (cached / "snapshots" / "abc").mkdir(parents=True)
        (cached / "snapshots" / "abc" / "config.json").write_text(json.dumps(config))
    for kind in ("tune", "profile"):
        answer = submit(kind, model=HUB, **refused)
        assert answer.status_code == 422, answer.text
        assert "a job of this server may use 8.0 GB of memory" in answer.json()["error"]["message"]
        if taken is not None:
            assert submit(kind, model=HUB, **taken).status_code == 201


def test_a_config_may_be_nested_however_deep(tmp_path, monkeypatch):
    """How deep a document the parser takes depends on the version of Python."""
    config = {"num_hidden_layers": 1_000_000}
    for _ in range(100_000):
        config = {"below": config}
    monkeypatch.setattr(estimates, "read_config", lambda folder: config)
    with pytest.raises(UsageError, match="of 1,000,000 layers"):
        check_model(tmp_path, 8_000_000_000)


def test_many_positions_are_no_weights_where_they_are_rotary(submit, roots):  # noqa: F811
    assert submit(model=a_model(roots, max_position_embeddings=10**9)).status_code == 201


def test_usual_jobs_are_taken(submit):
    assert submit().status_code == 201
    assert submit(batch_size=64, isl=512).status_code == 201
    assert submit(osl=64, isl=512).status_code == 201
    spec = {"tokens": [1, 4096], "shapes": ["4096x14336"], "ranks": [512]}
    assert submit("profile", **spec).status_code == 201


def test_the_estimate_is_a_lower_bound_that_grows_with_the_workload(roots):  # noqa: F811
    widths = widths_of(roots / a_model(roots))
    workload = Workload(batch_size=8, sequence_length=128)
    logits = 8 * 128 * 1000 * 4
    assert logits < widths.activation_bytes(workload, dtype="fp32", scores=True) < 2 * logits
    half = widths.activation_bytes(workload, dtype="fp16", scores=False)
    assert 2 * half == widths.activation_bytes(workload, dtype="fp32", scores=False)
    assert widths.cache_bytes(workload, dtype="fp32") == 0
    decode = Workload(batch_size=8, sequence_length=128, phase="decode")
    assert widths.activation_bytes(decode, dtype="fp32", scores=True) == 0
    # 2 (keys, values) · 2 layers · 64 features, of 8 × 128 tokens in 4 bytes.
    assert widths.cache_bytes(decode, dtype="fp32") == 2 * 2 * 64 * 8 * 128 * 4
