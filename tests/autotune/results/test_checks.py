"""Checks as records: what verify prints of each, and how failures become reasons."""

import pytest
from click.testing import CliRunner

from autotune.cli.verify import command
from autotune.core.errors import UsageError
from autotune.results.checks import (
    Check,
    CheckKind,
    EngineFacts,
    Finding,
    LatencyFacts,
    ParityFacts,
    Verification,
    run_check,
)
from autotune.results.quality_verdict import QualityVerdict
from autotune.results.verdict import Verdict


def test_findings_keep_their_names_and_facts():
    """The keys of commit 2a6778f: check, holds, reason, and the facts of each kind."""
    checks = (
        Check(kind=CheckKind.HASH, subject="model/model.safetensors"),
        Check(kind=CheckKind.PARITY, subject="model.onnx", facts=ParityFacts(worst=1e-6)),
        latency(Verdict.UNDECIDED, holds=False, reason="slower"),
        Check(
            kind=CheckKind.ENGINE,
            subject="tensorrt-fp16/prefill",
            facts=EngineFacts(worst=0.1, latency_s=1e-4),
        ),
    )
    found = Verification(folder="out", checks=checks).to_json()
    assert (found["folder"], found["valid"]) == ("out", False)
    hashed, parity, timed, engine = found["findings"]
    assert hashed["check"] == "model/model.safetensors"
    assert (parity["check"], parity["worst"]) == ("parity of model.onnx", 1e-6)
    assert (timed["check"], timed["holds"], timed["reason"]) == ("latency", False, "slower")
    assert (timed["tuned_ratio"], timed["verdict"]) == (0.9, "undecided")
    assert (engine["check"], engine["latency_s"]) == ("engine of tensorrt-fp16/prefill", 1e-4)
    assert (engine["kind"], engine["subject"]) == ("engine", "tensorrt-fp16/prefill")


@pytest.mark.parametrize(
    ("error", "reason"), [(UsageError("no such file"), "no such file"), (KeyError(), "KeyError")]
)
def test_an_error_is_the_reason_why_a_check_fails(error, reason):
    def look():
        raise error

    found = run_check(look, CheckKind.QUALITY)
    assert (found.holds, found.reason) == (False, reason)


def test_a_finding_without_a_reason_holds():
    found = run_check(lambda: Finding(facts=ParityFacts(worst=0.5)), CheckKind.PARITY, subject="a")
    assert (found.holds, found.facts.worst, found.title) == (True, 0.5, "parity of a")
    assert not run_check(lambda: Finding(reason="differs"), CheckKind.PARITY).holds


def latency(verdict, **changes):
    facts = LatencyFacts(
        ratio=0.9,
        ratio_low=0.8,
        ratio_high=1.0,
        tuned_ratio=0.9,
        predicted_ratio=0.91,
        verdict=verdict,
    )
    return Check(kind=CheckKind.LATENCY, facts=facts, **changes)


HASH = Check(kind=CheckKind.HASH, subject="model.onnx")
WRONG = Check(kind=CheckKind.QUALITY, holds=False, reason="moved")


@pytest.mark.parametrize(
    ("checks", "values", "code", "last"),
    [
        ((HASH,), (True, None, None), 0, "VALID"),
        ((HASH, latency(Verdict.MET)), (True, "met", True), 0, "VALID, budget met"),
        ((latency(Verdict.MISSED),), (True, "missed", False), 1, "VALID, budget missed"),
        ((latency(Verdict.UNDECIDED),), (True, "undecided", None), 5, "VALID, budget undecided"),
        ((latency(Verdict.UNDECIDED), WRONG), (False, "undecided", None), 1, "INVALID: 1 of 2"),
        ((HASH, WRONG), (False, None, None), 1, "INVALID: 1 of 2 checks failed"),
    ],
)
def test_a_verification_has_one_verdict_and_exit_code(checks, values, code, last, monkeypatch):
    found = Verification(folder="out", checks=checks)
    json = found.to_json()
    assert (json["valid"], json["verdict"], json["within_budget"]) == values
    monkeypatch.setattr("autotune.tuning.verify.verify", lambda *_: found)
    done = CliRunner().invoke(command, ["out"], standalone_mode=False)
    assert done.return_value == code
    assert done.stdout.splitlines()[-1].startswith(last)


def test_a_floor_that_is_missed_ends_verify_with_1(monkeypatch):
    found = Verification(
        folder="out",
        checks=(HASH, latency(Verdict.MET)),
        floor_missed=True,
        warnings=("another processor",),
    )
    monkeypatch.setattr("autotune.tuning.verify.verify", lambda *_: found)
    done = CliRunner().invoke(command, ["out"], standalone_mode=False)
    assert done.return_value == 1
    assert done.stdout.splitlines()[-2:] == [
        "warning: another processor",
        "VALID, budget met, quality floor missed",
    ]


@pytest.mark.parametrize(
    ("quality", "lost", "code", "last"),
    [
        (QualityVerdict.KEPT, False, 0, "VALID, budget met"),
        (QualityVerdict.REDUCED, False, 0, "VALID, budget met, quality reduced"),
        (QualityVerdict.LOST, True, 1, "VALID, budget met, quality lost"),
        (QualityVerdict.LOST, False, 0, "VALID, budget met, quality lost"),
    ],
)
def test_a_lost_quality_ends_verify_with_1(quality, lost, code, last, monkeypatch):
    checks = (HASH, latency(Verdict.MET))
    found = Verification(folder="out", checks=checks, quality_verdict=quality, quality_lost=lost)
    assert found.to_json()["quality_verdict"] == quality.value
    monkeypatch.setattr("autotune.tuning.verify.verify", lambda *_: found)
    done = CliRunner().invoke(command, ["out"], standalone_mode=False)
    assert done.return_value == code
    assert done.stdout.splitlines()[-1] == last
