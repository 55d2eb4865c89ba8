"""The part of a report that is replaced when exports were checked."""

import pytest

from autotune.report.builds import END, START, BuildRow, build_rows, put_builds, render_builds
from autotune.results.checks import (
    Check,
    CheckKind,
    EngineFacts,
    FormFacts,
    ParityFacts,
    TimingFacts,
)
from tests.records import stored_record

TIMED = TimingFacts(latency_s=2.1e-3, ratio=0.805, ratio_low=0.8, ratio_high=0.81)


def parity(subject, worst, **where):
    facts = ParityFacts(worst=worst)
    return Check(kind=CheckKind.PARITY, subject=subject, facts=facts, phase="prefill", **where)


def latency(export, **more):
    subject = f"{export}/model.onnx"
    return Check(kind=CheckKind.LATENCY, subject=subject, export=export, phase="prefill", **more)


CHECKS = [
    Check(kind=CheckKind.RANKS, facts=FormFacts(layers=3)),
    parity("model.onnx", 1e-6),
    Check(kind=CheckKind.LATENCY),
    Check(kind=CheckKind.HASH, subject="onnx-fp32/model.onnx", export="onnx-fp32"),
    parity("onnx-fp32/model.onnx", 2e-6, export="onnx-fp32"),
    latency("onnx-fp32", facts=TIMED),
    parity("onnx-fp16/model.onnx", 3e-3, export="onnx-fp16"),
    parity("onnx-slow/model.onnx", 2e-6, export="onnx-slow"),
    latency("onnx-slow", facts=TIMED, holds=False, reason="slower than it was"),
    Check(
        kind=CheckKind.PARITY,
        subject="onnx-bad/model.onnx",
        export="onnx-bad",
        phase="prefill",
        holds=False,
        reason="differs",
    ),
    Check(
        kind=CheckKind.ENGINE,
        subject="tensorrt-fp16/prefill",
        export="tensorrt-fp16",
        phase="prefill",
        facts=EngineFacts(worst=1e-2, latency_s=1e-4),
    ),
]


def test_every_build_has_its_prediction_measurement_and_parity():
    record = stored_record()
    rows = {row.name: row for row in build_rows(record, CHECKS)}
    assert list(rows) == [
        "model.onnx",
        "model_decode.onnx",
        "onnx-fp32/model.onnx",
        "onnx-fp16/model.onnx",
        "onnx-slow/model.onnx",
        "onnx-bad/model.onnx",
        "tensorrt-fp16/prefill",
    ]
    prefill, decode = record.phases
    own = rows["model.onnx"]
    assert (own.predicted_ratio, own.ratio) == (prefill.predicted_ratio, prefill.ratio)
    assert rows["model_decode.onnx"].latency_s == decode.latency_s
    again = rows["onnx-fp32/model.onnx"]
    assert (again.predicted_ratio, again.ratio) == (prefill.predicted_ratio, 0.805)
    assert (again.parity, again.wrong) == (2e-6, "")
    half = rows["onnx-fp16/model.onnx"]  # nothing was predicted for another dtype
    assert (half.predicted_ratio, half.ratio, half.parity) == (None, None, 3e-3)
    slow = rows["onnx-slow/model.onnx"]
    assert (slow.ratio, slow.parity, slow.wrong) == (0.805, 2e-6, "slower than it was")
    engine = rows["tensorrt-fp16/prefill"]
    assert (engine.latency_s, engine.parity) == (1e-4, 1e-2)
    assert rows["onnx-bad/model.onnx"].wrong == "differs"
    assert "check failed</b>: differs" in render_builds(list(rows.values()))


def test_a_prediction_for_another_device_has_no_builds():
    assert build_rows(stored_record("result-v3-elsewhere.json"), []) == []


def test_only_the_marked_part_is_replaced(tmp_path):
    page = tmp_path / "report.html"
    page.write_text(f"<p>before</p>{render_builds([])}<p>after</p>")
    for name in ("first", "second<b>"):
        assert put_builds(page, [BuildRow(name=name, phase="prefill", ratio=0.5)])
    text = page.read_text()
    assert text.startswith("<p>before</p>")
    assert text.endswith("<p>after</p>")
    assert "first" not in text
    assert "second&lt;b&gt;" in text
    assert "0.500" in text
    assert text.count(START) == text.count(END) == 1


@pytest.mark.parametrize("content", [None, "<p>a page without the part</p>"])
def test_a_page_without_the_part_is_left_as_it_is(content, tmp_path):
    page = tmp_path / "report.html"
    if content is not None:
        page.write_text(content)
    assert not put_builds(page, [BuildRow(name="a", phase="prefill")])
    assert page.exists() is (content is not None)
    assert content is None or page.read_text() == content
