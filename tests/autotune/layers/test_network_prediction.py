"""`autotune predict --model` and `autotune.predict_model`: a model by its configuration alone."""

import dataclasses
import json
import re
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import autotune
from autotune.cli.predict_model import lines
from autotune.compress import locate
from autotune.core.errors import MeasurementError, NotPricedError, UsageError
from autotune.layers import network_prediction
from autotune.layers.network_advice import advice
from autotune.layers.network_records import NetworkPrediction
from autotune.tuning.outlines import begin_outline
from tests.conftest import DATA, LLAMA, tiny_model

pytestmark = pytest.mark.duration(150)
LLAMA_8B = DATA / "llama-3-8b"
ASKED = {"device": "a100", "isl": 512, "osl": 128, "batch_size": 1}


@pytest.fixture(scope="module")
def found() -> NetworkPrediction:
    return autotune.predict_model(model=str(LLAMA_8B), **ASKED)


def test_llama_on_an_a100_is_what_its_shapes_say(found):
    assert (found.task, found.device, found.dtype) == ("causal-lm", "a100-sxm", "bf16")
    assert found.parameters == 8_030_261_248
    prefill, decode = found.phases
    assert (prefill.count, prefill.tokens) == (1, 512)
    assert (decode.count, decode.tokens) == (128, 1)
    kinds = {kind.name.rpartition(".")[2]: kind for kind in decode.layers}
    assert {name: kind.count for name, kind in kinds.items()} == dict.fromkeys(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], 32
    )
    for phase in found.phases:
        assert sum(kind.share for kind in phase.layers) + phase.rest_share == pytest.approx(1)
        assert phase.low_s < phase.latency_s < phase.high_s
        dense_s = sum(kind.count * kind.dense.latency_s for kind in phase.layers)
        assert dense_s + phase.rest_s == pytest.approx(phase.latency_s)
    # A decode step reads 16 GB of weights: at 2 TB/s, and at most half as fast.
    assert 8e-3 < decode.latency_s < 16e-3
    assert found.latency_s == pytest.approx(prefill.latency_s + 128 * decode.latency_s)


def test_changes_are_of_every_phase_and_of_the_whole(found):
    names = [each.name for each in found.changes]
    assert names[:7] == [f"keep {keep:g}" for keep in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)]
    assert set(names[7:]) == {"int8-static", "int8-weight-only", "int4-weight-only"}
    ratios = [each.ratio for each in found.changes[:7]]
    assert ratios == sorted(ratios, reverse=True)
    for phase in found.phases:
        assert [each.name for each in phase.changes] == names
    whole = found.latency_s
    for number, change in enumerate(found.changes):
        parts = [p.count * p.latency_s * p.changes[number].ratio for p in found.phases]
        assert change.ratio == pytest.approx(sum(parts) / whole)
        assert change.ratio_low < change.ratio < change.ratio_high


def test_a_break_even_rank_is_where_the_pair_stops_being_faster(found):
    """A layer of its own, asked for by `predict`, says the same."""
    kind = next(k for k in found.phases[1].layers if k.name.endswith("gate_proj"))
    assert kind.faster_rank < kind.likely_rank
    ranks = (kind.faster_rank, kind.likely_rank, kind.likely_rank + 32)
    known = autotune.predict(device="a100", tokens=1, shape="4096x14336", ranks=ranks).estimates
    dense, surely, likely, beyond = known
    assert dense.latency_s == pytest.approx(kind.dense.latency_s)
    assert surely.ratio_high < 1
    assert likely.ratio < 1 <= likely.ratio_high
    assert beyond.ratio >= 1


def test_the_text_has_what_the_json_has(found):
    """Every figure of the text is in the JSON, and every change, kind and source is in the text."""
    text, record = "\n".join(lines(found)), json.loads(json.dumps(found.to_json()))
    assert f"advice: {advice(found)}" in text
    for change in record["changes"]:
        shown = f"{change['ratio']:.3f} ({change['ratio_low']:.3f} to {change['ratio_high']:.3f})"
        assert re.search(
            rf"^{change['name']} .*{re.escape(shown)} {change['verdict']}$", text, re.M
        )
    for phase in record["phases"]:
        for kind in phase["layers"]:
            (line,) = re.findall(
                rf"^{re.escape(kind['name'])} .* {phase['tokens']}×.*$", text, re.M
            )
            shown = [kind["count"], f"{100 * kind['share']:.1f} %", kind["faster_rank"]]
            assert all(str(each) in line for each in [*shown, kind["likely_rank"]])
    assert all(f"from {source}" in text for source in record["sources"])
    assert "int4-weight-only: as run by trtllm 1.0.0; others may differ by more" in text
    assert (record["interval"], record["level"]) == ("transfer", 0.9)
    assert "another board, driver, library and harness" in text


def test_the_command_says_what_the_function_returns(cli, found):
    asked = ["--device", "a100", "--isl", "512", "--osl", "128", "--batch-size", "1"]
    config = LLAMA_8B / "config.json"
    said = cli("predict", "--model", config, *asked, "--json")
    assert said.returncode == 0, said.stderr
    record = json.loads(said.stdout.splitlines()[-1])
    assert record == {**found.to_json(), "model": str(config), "advice": advice(found)}
    text = cli("predict", "--model", LLAMA_8B, *asked)
    assert text.stdout.splitlines()[1:] == list(lines(found))[1:]


def test_devices_that_share_a_model_are_faster_and_exchange_sums(found):
    two = autotune.predict_model(model=str(LLAMA_8B), tensor_parallel=2, **ASKED)
    assert two.parameters == found.parameters
    for one, half in zip(found.phases, two.phases, strict=True):
        assert 0.5 * one.latency_s < half.latency_s < 0.9 * one.latency_s
        assert [kind.count for kind in half.layers] == [kind.count for kind in one.layers]
    assert ", 2 devices:" in list(lines(two))[1]


def test_a_precision_without_any_table_is_none(found):
    """The H200's own table has bf16 alone; the ratios of others are told with their stacks."""
    here = autotune.predict_model(model=str(LLAMA_8B), **{**ASKED, "device": "h200"})
    by_name = {each.name: each for each in here.changes}
    assert len(by_name["fp8"].stacks) == 3
    assert by_name["keep 0.5"].stacks == ()
    assert not [each for each in by_name if "int" in each]


def test_a_model_larger_than_memory_is_noted(monkeypatch):
    @contextmanager
    def of_more_parameters(*given, **more):
        with begin_outline(*given, **more) as coming:
            whole = dataclasses.replace(coming.result(), parameters=50 * 10**9)
            yield SimpleNamespace(result=lambda: whole)

    monkeypatch.setattr(network_prediction, "begin_outline", of_more_parameters)
    alone = autotune.predict_model(model=str(LLAMA), device="a100", isl=16)
    assert alone.notes == ("the dense weights, 100 GB, do not fit into the 80 GB of 1 a100-sxm",)
    assert f"note: {alone.notes[0]}" in list(lines(alone))
    assert alone.to_json()["notes"] == [*alone.notes]
    two = autotune.predict_model(model=str(LLAMA), device="a100", isl=16, tensor_parallel=2)
    assert two.notes == ()


@pytest.mark.slow
def test_this_machine_is_asked_by_what_was_measured_here(tmp_path, private_database):
    folder = tmp_path / "model"
    tiny_model("bert").save_pretrained(folder)
    here = {"model": str(folder), "batch_size": 2, "isl": 16, "threads": 1}
    autotune.profile(**here, backend="torch-eager", ranks=(8, 16), database=private_database)
    found = autotune.predict_model(**here, backend="torch-eager", database=private_database)
    assert (found.device, found.backend, found.interval) == ("cpu", "torch-eager", "table")
    (prefill,) = found.phases
    assert {kind.dense.source for kind in prefill.layers} <= {"measured", "unsettled"}
    assert sum(kind.count for kind in prefill.layers) == 12
    assert "of this machine with this software" in "\n".join(lines(found))


def test_an_empty_database_knows_no_network(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    with pytest.raises(MeasurementError, match=r"`autotune profile --for /.*`$"):
        autotune.predict_model(model=str(tmp_path), isl=16, threads=1)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "^model is missing: a folder, a hub id, or a config.json"),
        ({"model": "nosuch.json"}, "'nosuch.json' does not exist"),
        ({"model": "no/such.json"}, "'no/such.json' does not exist"),
        ({"model": str(LLAMA / "README.md")}, "does not exist|no file of the name config.json"),
        ({"model": str(DATA)}, "has no config.json"),
        ({"model": str(LLAMA), "isl": 4096}, "^isl 4096 and 0 decode steps"),
        ({"model": str(LLAMA), "tensor_parallel": 3}, "^tensor_parallel 3: .* 2, 4, 8"),
        ({"model": str(LLAMA), "tensor_parallel": 0}, "^tensor_parallel must be"),
        ({"model": str(LLAMA), "device": "nosuch"}, "^device: unknown device"),
        ({"model": str(LLAMA), "dtype": "fp32"}, "dtype: .* no fp32 table"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_keyword(given, text):
    with pytest.raises(UsageError, match=text):
        autotune.predict_model(**{"device": "a100", "isl": 16, **given})


def test_a_keyword_that_is_no_option_is_named():
    with pytest.raises(TypeError, match=r"predict_model\(\) got an unexpected keyword .*'tokens'"):
        autotune.predict_model(tokens=3)


def test_layers_beyond_the_table_need_leave(tmp_path):
    config = json.loads((LLAMA / "config.json").read_text())
    wide = {**config, "hidden_size": 1 << 18, "num_hidden_layers": 1, "intermediate_size": 1 << 18}
    (tmp_path / "config.json").write_text(json.dumps(wide))
    asked = {"model": str(tmp_path), "device": "h200", "isl": 16}
    with pytest.raises(NotPricedError, match=r"lie beyond what was measured.*allow_extrapolation"):
        autotune.predict_model(**asked)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--model", LLAMA, "--tokens", 8], 2, "--tokens is of one layer"),
        (["--model", LLAMA, "--shape", "64x64"], 2, "--shape is of one layer"),
        (["--model", LLAMA, "--rank", 8], 2, "--rank is of one layer"),
        (["--model", LLAMA, "--shapes", "-"], 2, "--shapes has layers, and --model has its own"),
        (["--tokens", 8, "--shape", "64x64", "--isl", 64], 2, "--isl needs --model"),
        (["--tokens", 8, "--shape", "64x64", "--tensor-parallel", 2], 2, "-parallel needs --model"),
        (["--model", LLAMA, "--isl", 4096], 2, "--isl 4096 and 0 decode steps (--osl) need"),
        (["--model", LLAMA, "--isl", 16, "--tensor-parallel", 3], 2, "--tensor-parallel 3: "),
        (["--model", LLAMA / "nosuch.json"], 2, "does not exist"),
        (["--model", LLAMA, "--device", "a40"], 4, "a40 (NVIDIA A40 48 GB) is not on this machine"),
    ],
)
def test_the_command_ends_with_a_sentence_and_a_code(cli, arguments, code, text):
    device = [] if "--device" in arguments else ["--device", "a100"]
    done = cli("predict", *device, *arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"model_type": "nosuch"}, "is not a transformers configuration"),
        ({"model_type": "llama", "hidden_size": "wide"}, "config.json"),
        ({"model_type": "llama", "auto_map": {}, "num_attention_heads": 0}, "config.json"),
        (
            {"model_type": "own", "auto_map": {"AutoModel": "m.M"}},
            "needs Python code of its own",
        ),
        ([], "config.json"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path, config, text):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=text):
        autotune.predict_model(model=str(tmp_path), device="a100", isl=16)


def test_of_a_hub_model_only_the_configuration_is_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(name, file):
        asked.append((name, file))
        (tmp_path / file).write_text((LLAMA / "config.json").read_text())
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(locate, "_download", lambda name: pytest.fail("weights were asked for"))
    found = autotune.predict_model(model="org/name", device="a100", isl=16)
    assert asked == [("org/name", "config.json")]
    assert found.model == "org/name"


def test_a_hub_that_gives_nothing_is_an_error_of_ours(monkeypatch):
    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UsageError, match="the hub did not give it"):
        autotune.predict_model(model="org/name", device="a100", isl=16)
