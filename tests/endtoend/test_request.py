"""A latency budget on a request: its prefill and its decode steps."""

import numpy as np
import onnxruntime
import pytest
import torch

import autotune.compress.checkpoint  # noqa: F401  registers the format
from autotune.compress.loading import load_class
from tests.commands import flags
from tests.conftest import LLAMA
from tests.damage import save_model
from tests.endtoend.test_bad_input import refuse
from tests.outcomes import assert_finished

pytestmark = [pytest.mark.slow, pytest.mark.duration(45)]


@pytest.fixture(scope="module")
def request_run(cli, small, home):
    """A request of 128 tokens in and 32 out, at 0.9 of the dense model's parameters too.

    The limit on the latency holds for every plan: so small a model may be slower with pairs.
    """
    save_model(home / "longer", width=256, positions=256)
    done = cli(
        *small,
        *flags(
            model=home / "longer",
            isl=128,
            osl=32,
            latency_budget="100s",
            params_budget="0.9x",
            output=home / "out",
            format="json",
        ),
    )
    return home / "out", assert_finished(done)


def test_the_record_adds_up(request_run):
    _, record = request_run
    prefill, decode = record["passes"]
    assert (prefill["name"], prefill["count"]) == ("prefill", 1)
    assert (decode["name"], decode["count"]) == ("decode", 32)
    assert record["workload"]["phase"] == "request"
    for key in ("dense_latency_s", "latency_s"):
        whole = {"latency_s": "measured_latency_s"}.get(key, key)
        assert record[whole] == pytest.approx(prefill[key] + 32 * decode[key])
    low, high = sorted((prefill["ratio"], decode["ratio"]))
    assert low <= record["measured_ratio"] <= high
    # A step has one token a sequence, so its table is another than the prefill's.
    assert prefill["predicted_ratio"] != decode["predicted_ratio"]
    assert decode["dense_latency_s"] < prefill["dense_latency_s"]
    chosen = [site for site in record["sites"] if site["rank"] is not None]
    assert chosen
    assert all(site["measured_latency_s"] > 0 for site in chosen)


def test_both_graphs_generate_what_the_checkpoint_does(request_run):
    """Greedy, 64 tokens, by the two files alone.

    The prefill graph gives the first token; it hands out logits only, so the decode graph reads the
    prompt too, token by token from an empty cache, and gives the others.
    """
    folder, _ = request_run
    model = load_class("causal-lm", folder / "model", dtype=torch.float32)
    ids = torch.randint(0, 2048, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    wanted = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=64,
        min_new_tokens=64,
        do_sample=False,
        pad_token_id=0,
    )[:, 9:]
    # Generation forbids the end token until `min_new_tokens`; so do we.
    forbidden = model.generation_config.eos_token_id
    whole = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    step = onnxruntime.InferenceSession(str(folder / "model_decode.onnx"))
    (logits,) = whole.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    names = [value.name for value in step.get_inputs()[2:]]
    heads, size = step.get_inputs()[2].shape[1], step.get_inputs()[2].shape[3]
    past = [np.zeros((2, heads, 0, size), np.float32)] * len(names)

    def further(token, length):
        feeds = dict(zip(names, past, strict=True))
        feeds |= {"input_ids": token, "attention_mask": np.ones((2, length), np.int64)}
        return step.run(None, feeds)

    for i in range(9):
        read, *past = further(ids[:, i : i + 1].numpy(), i + 1)
    assert np.abs(read[:, -1] - logits[:, -1]).max() < 1e-3
    tokens = []
    for done in range(64):
        scores = logits[:, -1].copy()
        if forbidden is not None:
            scores[:, forbidden] = -np.inf
        tokens.append(scores.argmax(-1)[:, None])
        logits, *past = further(tokens[-1], 10 + done)
    assert np.array_equal(np.concatenate(tokens, axis=1), wanted.numpy())


def test_the_report_tells_of_both_passes(request_run):
    folder, _ = request_run
    page = (folder / "report.html").read_text()
    assert "1 × 128 tokens and 32 decode steps" in page
    assert "<td>decode</td><td>32</td>" in page


def test_bench_measures_both_passes_again(request_run, cli):
    folder, _ = request_run
    done = cli("bench", folder, "--format", "json")
    record = assert_finished(done)
    assert [(one["name"], one["count"]) for one in record["passes"]] == [
        ("prefill", 1),
        ("decode", 32),
    ]
    whole = sum(one["count"] * one["latency_s"] for one in record["passes"])
    assert record["latency_s"] == pytest.approx(whole)


def test_more_positions_than_the_model_has_are_refused(cli, tmp_path):
    done = cli(
        "--model",
        LLAMA,
        "--latency-budget",
        "0.9x",
        "--isl",
        2000,
        "--osl",
        100,
        "--output",
        tmp_path / "out",
    )
    refuse(done, 2, "need 2100 positions; the model has 2048")
    done = cli(
        "--model",
        LLAMA,
        "--latency-budget",
        "0.9x",
        "--isl",
        2048,
        "--phase",
        "decode",
        "--output",
        tmp_path / "out",
    )
    refuse(done, 2, "need 2049 positions")


def test_a_model_that_does_not_decode_is_refused(cli, tmp_path):
    done = cli("--latency-budget", "0.9x", "--osl", "8", "--output", tmp_path / "out")
    refuse(done, 2, "decode", "embedding")
