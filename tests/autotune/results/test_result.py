"""result.json: today's version and that of commit 2a6778f, read whole or refused with a reason."""

import json
import shutil
from dataclasses import replace

import pytest

from autotune.core.errors import UsageError
from autotune.core.forms import parse_form
from autotune.results.job_summary import TuneSummary
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.record import TuneRecord
from autotune.results.result import TuneResult, read_result, result_text
from autotune.results.upgrade import SCHEMA_VERSION, upgrade
from autotune.results.verdict import Verdict
from tests.records import DATA, MEASURED, PREDICTED, SUMMARY_KEYS, read_v3, stored_record

NEW_KEYS = {
    *("verdict", "plan", "quality_verdict", "allow_quality_loss", "layer_timings"),
    *("runtime_dtype", "runtime_options", "compared", "front", "dense_latencies_s", "cpu_features"),
    "other_shapes",
}
ADDED = {"quality": {"neighbour_overlap": None}}
NEW_IN_PASSES = {"windows", "disturbed_windows", "waiting", "converged"}
NEW_IN_ROUNDS = {"verdict", *(f"second_look_ratio{end}" for end in ("", "_low", "_high"))}


@pytest.mark.parametrize("name", [MEASURED, PREDICTED])
def test_an_older_result_keeps_all_of_its_values(name, tmp_path):
    """Nothing is lost or changed; only verdicts, the plan and forms are added."""
    old = read_v3(name)
    shutil.copy(DATA / name, tmp_path / "result.json")
    new = read_result(tmp_path).to_json()
    assert set(new) - set(old) == NEW_KEYS
    for key in set(old) - {"sites", "staircases", "rounds"}:
        if key != "passes":
            assert new[key] == ({**old[key], **ADDED[key]} if key in ADDED else old[key]), key
    assert [{k: v for k, v in p.items() if k in NEW_IN_PASSES} for p in new["passes"]] == [
        {"windows": 0, "disturbed_windows": 0, "waiting": 0.0, "converged": True}
        for _ in old["passes"]
    ]
    kept = [{k: v for k, v in p.items() if k not in NEW_IN_PASSES} for p in new["passes"]]
    assert kept == old["passes"]
    assert [{k: v for k, v in s.items() if k != "form"} for s in new["sites"]] == old["sites"]
    kept = [{k: v for k, v in r.items() if k not in NEW_IN_ROUNDS} for r in new["rounds"]]
    assert kept == old["rounds"]
    points = [point for curve in new["staircases"] for point in curve["points"]]
    assert points == [
        {**point, "form": f"rank={point['rank']}"}
        for curve in old["staircases"]
        for point in curve["points"]
    ]


@pytest.mark.parametrize("name", [MEASURED, PREDICTED])
def test_forms_and_plan_spell_the_ranks(name):
    new = stored_record(name).to_json()
    considered = [site for site in new["sites"] if "group" in site]
    assert len(considered) > 20
    assert new["plan"] == {site["name"]: site["form"] for site in considered}
    for site in considered:
        assert parse_form(site["form"]).rank == (site["rank"] or 0)


def test_the_verdict_of_an_older_result_comes_from_its_interval():
    values = read_v3(MEASURED)
    assert values["measured_ratio"] < 0.93 < values["measured_ratio_high"]
    wide = upgrade({**values, "budget": {"latency": "0.93x"}}, 3, where="x")
    assert (wide["verdict"], wide["within_budget"]) == ("undecided", None)
    seconds = 0.9 * values["dense_latency_s"]
    missed = upgrade({**values, "budget": {"latency": f"{seconds * 1e6:.3f}us"}}, 3, where="x")
    assert (missed["verdict"], missed["within_budget"]) == ("missed", False)
    assert stored_record(MEASURED).verdict is Verdict.MET
    assert stored_record(PREDICTED).verdict is Verdict.MISSED


@pytest.mark.parametrize("name", [MEASURED, PREDICTED])
def test_what_is_written_is_read_back(name, tmp_path):
    record = stored_record(name)
    (tmp_path / "result.json").write_text(result_text(record))
    assert read_result(tmp_path) == record
    assert json.loads(result_text(record))["schema_version"] == SCHEMA_VERSION == 5


def test_a_result_has_the_measurement_and_the_plan(tmp_path):
    record = stored_record(MEASURED)
    result = TuneResult(folder=tmp_path, record=record)
    assert result.measured.ratio == pytest.approx(record.measured_ratio, rel=1e-12)
    assert result.measured.latency_s == pytest.approx(record.measured_latency_s, rel=1e-12)
    assert result.ranks == {name: form.rank or None for name, form in result.plan.items()}
    assert {site.name: site.rank for site in record.sites} == result.ranks
    assert (result.verdict, result.within_budget) == (Verdict.MET, True)
    elsewhere = TuneResult(folder=tmp_path, record=stored_record(PREDICTED))
    assert elsewhere.measured is None
    with pytest.raises(UsageError, match="torch-cudagraph does not produce an ONNX model"):
        elsewhere.export_onnx(tmp_path / "model.onnx")


def test_a_checkpoint_is_saved_over_its_like_and_over_nothing_else(tmp_path):
    run, target = tmp_path / "run", tmp_path / "saved"
    (run / "model").mkdir(parents=True)
    for name in ("autotune.json", "model.safetensors"):
        (run / "model" / name).write_text(name)
    result = TuneResult(folder=run, record=stored_record(MEASURED))
    target.mkdir()
    assert result.save_pretrained(target) == target
    (target / "notes.txt").write_text("mine")
    for stale in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (target / stale).write_text("of an earlier checkpoint in shards")
    result.save_pretrained(target)
    found = {path.name for path in target.iterdir()}
    assert found == {"autotune.json", "model.safetensors", "notes.txt"}
    (target / "autotune.json").unlink()
    (target / "model.safetensors").write_text("dense")
    with pytest.raises(UsageError, match="is not empty and holds no checkpoint"):
        result.save_pretrained(target)
    assert (target / "model.safetensors").read_text() == "dense"


def damaged(**changes):
    return json.dumps({"schema_version": 5, **stored_record().to_json(), **changes})


def without(key):
    return json.dumps({k: v for k, v in json.loads(damaged()).items() if k != key})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "invalid JSON"),
        (damaged()[:-200], "is damaged: invalid JSON"),
        ("[]", "it has no schema_version"),
        ("{}", "it has no schema_version"),
        (damaged(schema_version="5"), "schema_version '5' is not a whole number"),
        (damaged(schema_version=6), "version 6, newer than the 5 that this program reads; upgrade"),
        (damaged(schema_version=2), "version 2, older than the 3 .*; run the tuning again"),
        (damaged(schema_version=3, sites=None), "does not have the keys of schema version 3"),
        ('{"schema_version": 3}', "does not have the keys of schema version 3 .*tuning again"),
        (damaged(surprise=1), "surprise: unknown key"),
        (without("quality"), "quality: the key is missing"),
        (damaged(within_budget=False), "within_budget: False contradicts"),
        (damaged(quality_verdict="kept"), "quality_verdict: 'kept' contradicts .* give 'lost'"),
        (damaged(allow_quality_loss="yes"), "allow_quality_loss must be true or false"),
        (damaged(sites=[{"group": 1}]), r"sites\[0\].block: the key is missing"),
        (damaged(budget={"latency": 3}), "budget.latency must be a string"),
    ],
)
def test_a_damaged_or_newer_result_is_refused_with_a_sentence(text, says, tmp_path):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UsageError, match=says) as refused:
        read_result(tmp_path)
    assert str(tmp_path / "result.json") in str(refused.value)


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"has no result.json; give the output folder of"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_result(tmp_path)


def test_a_jobs_summary_is_that_of_the_record():
    record = stored_record(MEASURED)
    found = TuneSummary.of_result({**record.to_json(), "output": "/somewhere"})
    assert TuneSummary.of_job(found.to_json()) == found
    for name in ("model", "verdict", "quality", "cost", "parameters", "measured_ratio", "workload"):
        assert getattr(found, name) == getattr(record, name)


def test_summaries_of_older_jobs_get_their_verdict():
    """Job databases of commit 2a6778f hold these keys of a version-3 result."""
    for name, verdict in ((MEASURED, Verdict.MET), (PREDICTED, Verdict.MISSED)):
        values = read_v3(name)
        assert TuneSummary.of_job({key: values[key] for key in SUMMARY_KEYS}).verdict is verdict
    assert TuneSummary.of_job({"measured": 3}) is None


def test_a_result_of_version_4_gets_the_verdict_of_its_quality(tmp_path):
    values = json.loads(damaged(schema_version=4))
    del values["quality_verdict"], values["allow_quality_loss"]
    for compressed, verdict, lost in ((70.0, "kept", 0), (75.0, "reduced", 0), (139.0, "lost", 1)):
        values["quality"]["compressed"] = compressed
        (tmp_path / "result.json").write_text(json.dumps(values))
        record = read_result(tmp_path)
        assert (record.quality_verdict, record.quality_lost) == (verdict, bool(lost))
        assert record.exit_code == lost
        stored = {k: v for k, v in record.to_json().items() if "quality_" not in k}
        summary = TuneSummary.of_job({k: stored[k] for k in (*SUMMARY_KEYS, "verdict")})
        assert (summary.quality_verdict, summary.quality_lost) == (verdict, bool(lost))


def test_a_lost_quality_is_a_failure_unless_it_was_allowed():
    lost = stored_record(MEASURED)
    assert (lost.verdict, lost.quality_verdict) == (Verdict.MET, QualityVerdict.LOST)
    assert lost.exit_code == 1
    allowed = replace(lost, allow_quality_loss=True)
    assert (allowed.quality_verdict, allowed.exit_code) == (QualityVerdict.LOST, 0)
    assert replace(allowed, verdict=Verdict.UNDECIDED).exit_code == 5
    assert replace(lost, verdict=Verdict.UNDECIDED).exit_code == 1


def test_left_out_layers_are_not_sites():
    record = stored_record(MEASURED)
    assert "tied" in {one.name: one.reason for one in record.left_out}["lm_head"]
    assert "lm_head" not in record.plan
    joint = [site for site in record.sites if len(site.layers) > 1]
    assert [site.layer_count for site in joint] == [2]
    assert TuneRecord.from_json(record.to_json()).left_out == record.left_out
