"""The user's path, through the command, on a real trained model: code-llama-3m."""

import json
import shutil
import sqlite3

import onnxruntime
import pytest
import torch

from autotune.results.verdict import Verdict
from tests.commands import flags
from tests.conftest import LLAMA
from tests.endtoend.conftest import BUDGET
from tests.endtoend.test_bad_input import refuse
from tests.outcomes import assert_finished

pytestmark = pytest.mark.duration(150)


@pytest.fixture(scope="module")
def tuned(cli, arguments, home):
    done = cli(*arguments, "--output", home / "out", "--format", "json")
    # As the tuning leaves it: later ones measure again what did not settle.
    shutil.copy(home / "latency.sqlite", home / "tuned.sqlite")
    return home / "out", assert_finished(done)


def test_the_result_is_complete_and_consistent(tuned):
    folder, record = tuned
    written = json.loads((folder / "result.json").read_text())
    assert {k: v for k, v in record.items() if k != "output"} == {
        k: v for k, v in written.items() if k != "schema_version"
    }
    assert written["schema_version"] == 5
    assert record["measured_ratio_low"] <= record["measured_ratio"] <= record["measured_ratio_high"]
    assert record["predicted_latency_low_s"] <= record["predicted_latency_s"]
    assert record["quality"]["compressed"] >= record["quality"]["dense"] > 1
    assert "non-overlapping windows of 128 tokens" in record["quality"]["protocol"]
    assert record["parameters"]["compressed"] < record["parameters"]["dense"]
    assert record["stored_bytes"]["compressed"] == 4 * record["parameters"]["compressed"]
    sites = {site["name"]: site for site in record["sites"]}
    assert "tied" in sites["lm_head"]["reason"]
    chosen = [site for site in sites.values() if site["rank"] is not None]
    assert chosen
    assert all(site["rank"] % 16 == 0 and site["keep_ratio"] < 1 for site in chosen)
    assert all(site["measured_latency_s"] > 0 for site in sites.values() if "group" in site)
    sources = {s["source"] for s in sites.values() if "source" in s}
    assert sources <= {"measured", "unsettled"}  # the tests themselves keep the machine busy


def test_the_report_is_self_contained(tuned):
    folder, record = tuned
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 6
    for outside in ("http://", "https://", "<script", "<link"):
        text = page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")
        text = text.replace("http://purl.org", "").replace("http://creativecommons.org", "")
        text = text.replace("https://matplotlib.org", "")
        assert outside not in text
    assert f"{record['measured_ratio']:.3f}" in page


def test_checkpoint_and_onnx_are_the_same_model(tuned):
    folder, record = tuned
    assert_same_model(folder, record)


def test_the_model_card_tells_what_was_measured(tuned):
    folder, record = tuned
    card = (folder / "model" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "\npipeline_tag: text-generation\n" in card
    assert f"(ratio {record['measured_ratio']:.3f}, 95 %" in card
    assert f"{record['parameters']['compressed']:,}" in card
    rows = [line for line in card.splitlines() if "→" in line]
    assert len(rows) == sum(site["rank"] is not None for site in record["sites"])


def assert_same_model(folder, record):
    """The checkpoint in torch and the ONNX in onnxruntime give the same logits."""
    from autotune.compress.checkpoint import low_rank_layers
    from autotune.compress.loading import load_class

    model = load_class("causal-lm", folder / "model", dtype=torch.float32)
    ranks = {name: s["rank"] for s in record["sites"] if s["rank"] for name in s["layers"]}
    assert {n: layer.rank for n, layer in low_rank_layers(model).items()} == ranks
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]["compressed"]
    ids = torch.randint(0, 2048, (3, 17), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected = model(**inputs).logits
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    (got,) = session.run(None, {k: v.numpy() for k, v in inputs.items()})
    assert float((torch.from_numpy(got) - expected).abs().max()) < 1e-3
    text = model.generate(ids[:1], max_new_tokens=5, do_sample=False)
    assert text.shape == (1, 22)


@pytest.fixture(scope="module")
def small_command(small, home):
    """Its limit on the latency holds for every plan, so that its verdict is sure."""
    budget = {"params_budget": "0.8x", "latency_budget": "100s"}
    return (*small, *flags(output=home / "small", format="json", **budget))


@pytest.fixture(scope="module")
def small_run(cli, small_command, home):
    record = assert_finished(cli(*small_command))
    assert record["verdict"] == "met"
    return home / "small", record


@pytest.fixture
def small_copy(small_run, tmp_path):
    """A copy of the tiny model's finished run, to go on from."""
    shutil.copytree(small_run[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def copied(tuned, tmp_path):
    """A copy of the finished run, to go on from."""
    shutil.copytree(tuned[0], tmp_path / "copy")
    return tmp_path / "copy"


def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in (folder / ".cache").rglob("*") if p.is_file()}


def assert_same(again, record, *, timed):
    """One tuning has ended as another did, but for the host's load and its own cost."""
    measured = {"layer_timings"}
    if not timed:
        measured |= set(record) - {"model", "task", "device", "workload", "budget", "calibration"}
    for key in set(record) - {"cost", "output"} - measured:
        assert again[key] == record[key], key
    if timed:  # else layers were measured again, and with them perhaps others
        assert again["layer_timings"]["total"] == record["layer_timings"]["total"]


def test_the_same_command_again_computes_nothing_again(small_run, cli, small_command):
    folder, record = small_run
    before = stamps(folder)
    done = cli(*small_command)
    assert_same(assert_finished(done), record, timed=True)
    after = stamps(folder)
    changed = [p.name for p in after if before.get(p) != after[p]]
    assert set(changed) <= {"lock", "request.json"}  # what was asked for is noted each time
    assert not any(line.startswith("measure") for line in done.stderr.splitlines())
    assert "this folder already holds this result; nothing was measured" in done.stderr


@pytest.mark.slow
def test_another_budget_reuses_what_does_not_depend_on_it(tuned, copied, cli, arguments):
    """It has room for fewer parameters than the plan before, so that its plan is another one."""
    parameters = tuned[1]["parameters"]
    share = f"{0.95 * parameters['compressed'] / parameters['dense']:.3f}x"
    budget = {"latency_budget": "100s", "params_budget": share}
    done = cli(*arguments, *flags(output=copied, trials=0, rounds=1, **budget))
    assert_finished(done, copied)
    reused = ["statistics", "factorize", "export"]
    timings = tuned[1]["layer_timings"]
    if timings["settled"] == timings["total"]:  # what did not settle is tried again
        reused.append("measure layers")
    for stage in reused:
        assert stage not in done.stderr
    assert "measure round 1" in done.stderr


@pytest.mark.slow
def test_a_models_profile_is_what_its_tuning_needs(tuned, cli, home):
    done = cli(
        "profile",
        "--for",
        LLAMA,
        *flags(batch_size=1, isl=128, db=home / "latency.sqlite", format="json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    timings = tuned[1]["layer_timings"]
    assert found["measured"] <= timings["total"] - timings["settled"]
    assert found["wanted"] > 50


def test_bench_measures_again(tuned, cli):
    folder, record = tuned
    done = cli("bench", folder, "--format", "json")
    again = assert_finished(done)
    assert again["tuned_ratio"] == record["measured_ratio"]
    assert 0 < again["ratio_low"] <= again["ratio"] <= again["ratio_high"]


@pytest.mark.slow
def test_a_result_is_verified_and_a_changed_one_is_not(small_copy, cli):
    for dtype in ("fp16", "fp32"):
        exported = cli("export", small_copy, "--dtype", dtype, "--json")
        assert exported.returncode == 0, exported.stderr
    done = cli("verify", small_copy, "--format", "json")
    report = json.loads(done.stdout.splitlines()[-1])
    found = {finding["check"]: finding for finding in report["findings"]}
    others = {k: f for k, f in found.items() if not k.startswith("latency")}  # too short to judge
    assert all(finding["holds"] for finding in others.values()), others
    named = {"ranks", "latency", "quality", "parity of model.onnx", "model/model.safetensors"}
    named |= {"onnx-fp16/model.onnx", "parity of onnx-fp16/model.onnx"}
    assert named <= set(found)
    _, rows = (small_copy / "report.html").read_text().split("<h2>Builds</h2>")
    assert rows.rstrip().endswith("</html>")
    rows = rows.partition("</table>")[0]
    assert all(name in rows for name in ("<td>model.onnx", "onnx-fp16/model.onnx", "onnx-fp32/"))
    assert rows.count("not measured") == 1  # fp16 is not what this run was tuned in
    record = json.loads((small_copy / "result.json").read_text())
    assert found["quality"]["value"] == pytest.approx(record["quality"]["compressed"], rel=1e-3)
    verdict = Verdict(report["verdict"])
    assert verdict.value == found["latency"]["verdict"]
    assert report["within_budget"] is verdict.within_budget
    assert report["quality_verdict"] == record["quality_verdict"]
    wrong = not report["valid"] or report["quality_lost"]
    assert done.returncode == (1 if wrong else verdict.exit_code)
    weights = small_copy / "model" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 64
    weights.write_bytes(raw)
    done = cli("verify", small_copy)
    assert done.returncode == 1
    assert "model.safetensors has been changed since it was written" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("INVALID: ")


def test_the_python_api_gives_the_same(tuned, copied, home, tmp_path):
    import autotune

    _, record = tuned
    timed = record["verdict"] == "met"  # what missed its budget is measured again
    database = shutil.copy(home / "tuned.sqlite", tmp_path / "latency.sqlite")
    result = autotune.tune(
        LLAMA,
        device="cpu",
        budget=autotune.Budget(latency=BUDGET),
        workload=autotune.Workload(batch_size=1, sequence_length=128),
        output=copied,
        calibration=home / "text.txt",
        calibration_samples=16,
        trials=2,
        rounds=2,
        sensitivity_rounds=0,
        precision="native",
        factors="plain",
        references=False,
        other_shapes=False,
        database=database,
    )
    assert isinstance(result, autotune.TuneResult)
    found = result.record.to_json()
    assert_same(found, record, timed=timed)
    assert set(result.ranks) == {s["name"] for s in found["sites"] if "group" in s}
    assert result.measured.ratio == result.record.measured_ratio
    assert (result.save_pretrained(tmp_path / "saved") / "config.json").is_file()
    assert result.export_onnx(tmp_path / "saved.onnx").stat().st_size > 1e6
    assert "<svg" in result.report(tmp_path / "saved.html").read_text()


@pytest.mark.slow
def test_an_impossible_budget_names_the_reachable_minimum(cli, arguments, copied):
    (copied / "result.json").unlink()
    done = cli(*arguments, "--output", copied, "--latency-budget", "1us")
    refuse(done, 3, "latency 1 us was requested", "no plan needs less than")
    reachable = float(done.stderr.split("(")[-1].split("x of")[0])
    assert 0.05 < reachable < 1
    assert not (copied / "result.json").exists()


@pytest.mark.slow
def test_several_budgets_hold_together(cli, arguments, copied):
    done = cli(
        *arguments,
        *flags(
            output=copied,
            trials=0,
            sensitivity_rounds=0,
            params_budget="0.85x",
            memory_budget="0.9x",
            flops_budget="0.9x",
            format="json",
        ),
    )
    record = assert_finished(done)
    assert record["parameters"]["compressed"] <= 0.85 * record["parameters"]["dense"]
    assert record["flops"]["compressed"] <= 0.9 * record["flops"]["dense"]


@pytest.mark.slow
def test_layers_with_one_input_share_a_down_factor(cli, small, small_copy):
    """Where that costs less; without it the same budget costs more loss by the same table."""
    records = []
    for joint in ("--no-joint", "--joint"):
        done = cli(
            *small,
            joint,
            *flags(
                output=small_copy,
                trials=0,
                sensitivity_rounds=0,
                rounds=1,
                params_budget="0.75x",
                format="json",
            ),
        )
        records.append(assert_finished(done))
        assert_same_model(small_copy, records[-1])
    apart, together = records
    shared = [site for site in together["sites"] if site["rank"] and len(site["layers"]) > 1]
    assert shared
    assert all("+" in site["name"] and site["measured_latency_s"] > 0 for site in shared)
    assert not any(len(site.get("layers", ())) > 1 for site in apart["sites"])
    assert together["solver"]["loss"] < apart["solver"]["loss"]
    assert together["parameters"]["compressed"] <= 0.75 * together["parameters"]["dense"]


@pytest.mark.slow
def test_plans_are_judged_in_processes_of_their_own(cli, arguments, copied):
    done = cli(
        *arguments,
        *flags(
            output=copied,
            trials=3,
            jobs=2,
            sensitivity_rounds=1,
            rounds=1,
            params_budget="0.8x",
            format="json",
        ),
    )
    assert_finished(done)
    (journal,) = (copied / ".cache").glob("losses-*.jsonl")
    plans = [json.loads(line)["plan"] for line in journal.read_text().splitlines() if line]
    assert len(plans) == len(set(plans)) > 20
    assert list((copied / ".cache").glob("search-batches-*"))
    with sqlite3.connect(copied / ".cache" / "optuna.sqlite") as study:
        states = [state for (state,) in study.execute("SELECT state FROM trials")]
    assert states.count("COMPLETE") >= 3


@pytest.mark.slow
def test_a_papers_method_runs_through_the_same_pipeline(cli, small, small_copy):
    """ERC's factors and allocation in Dobi's storage: every part differs from the default's."""
    done = cli(
        *small,
        *flags(
            output=small_copy,
            rounds=1,
            metric="activation",
            factorizer="residual:beta=0.1",
            allocator="erc-plc:step=1",
            storage="remap8",
            params_budget="0.95x",
            kv_cache_budget="1x",
            activation_budget="8MB",
            format="json",
        ),
    )
    record = assert_finished(done)
    solver = record["solver"]
    assert (solver["metric"], solver["factorizer"]) == ("activation", "residual:beta=0.1")
    assert (solver["allocator"], solver["storage"]) == ("erc-plc:step=1", "remap8")
    assert solver["certified_gap"] is None
    assert record["stored_bytes"]["compressed"] < record["computed_bytes"]["compressed"]
    assert record["budgets"]["kv_cache_bytes"]["used"] == 2 * 2 * (2 * 32) * 32 * 4
    weights = small_copy / "model" / "model.safetensors"
    assert weights.stat().st_size == pytest.approx(record["stored_bytes"]["compressed"], rel=0.01)
    from autotune.compress.loading import load_class

    model = load_class("causal-lm", small_copy / "model", dtype=torch.float32)
    ids = torch.randint(0, 2048, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected = model(**inputs).logits
    session = onnxruntime.InferenceSession(str(small_copy / "model.onnx"))
    (got,) = session.run(None, {k: v.numpy() for k, v in inputs.items()})
    assert float((torch.from_numpy(got) - expected).abs().max()) < 1e-3
