"""The part of a report that is written anew when exports were measured."""

from autotune.report.builds import END, START, Artefact, put_artefacts, render_artefacts
from autotune.tune.verify import found_artefacts

RECORD = {
    "artefacts": {"prefill": {"compressed": ".cache/compressed-1/model.onnx"}},
    "passes": [
        {
            "name": "prefill", "count": 1, "latency_s": 2e-3, "dense_latency_s": 2.5e-3,
            "ratio": 0.8, "ratio_low": 0.79, "ratio_high": 0.81, "predicted_ratio": 0.82,
        }
    ],
}  # fmt: skip
TIMED = {"latency_s": 2.1e-3, "ratio": 0.805, "ratio_low": 0.8, "ratio_high": 0.81}
FINDINGS = [
    {"check": "ranks", "holds": True, "reason": "", "layers": 3},
    {"check": "parity of model.onnx", "holds": True, "reason": "", "worst": 1e-6},
    {"check": "parity of onnx-fp32/model.onnx", "holds": True, "reason": "", "worst": 2e-6},
    {"check": "latency of onnx-fp32/model.onnx", "holds": True, "reason": "", **TIMED},
    {"check": "parity of onnx-fp16/model.onnx", "holds": True, "reason": "", "worst": 3e-3},
    {"check": "parity of onnx-bad/model.onnx", "holds": False, "reason": "differs"},
    {
        "check": "engine of tensorrt-fp16/prefill",
        "holds": True,
        "reason": "",
        "worst": 1e-2,
        "latency_s": 1e-4,
    },
]  # fmt: skip


def test_every_artefact_has_what_was_predicted_and_measured_of_it():
    rows = {row.name: row for row in found_artefacts(RECORD, FINDINGS)}
    assert list(rows) == [
        "model.onnx", "onnx-fp32/model.onnx", "onnx-fp16/model.onnx", "onnx-bad/model.onnx",
        "tensorrt-fp16/prefill",
    ]  # fmt: skip
    assert (rows["model.onnx"].predicted_ratio, rows["model.onnx"].ratio) == (0.82, 0.8)
    again = rows["onnx-fp32/model.onnx"]
    assert (again.predicted_ratio, again.ratio, again.parity) == (0.82, 0.805, 2e-6)
    half = rows["onnx-fp16/model.onnx"]  # nothing was predicted of another dtype
    assert (half.predicted_ratio, half.ratio, half.parity) == (None, None, 3e-3)
    assert rows["tensorrt-fp16/prefill"].latency_s == 1e-4
    assert rows["onnx-bad/model.onnx"].wrong == "differs"
    assert "does not hold</b>: differs" in render_artefacts(list(rows.values()))


def test_the_part_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "report.html"
    page.write_text(f"<p>before</p>{render_artefacts([])}<p>after</p>")
    for name in ("first", "second<b>"):
        assert put_artefacts(page, [Artefact(name=name, run="prefill", ratio=0.5)])
    text = page.read_text()
    assert text.startswith("<p>before</p>") and text.endswith("<p>after</p>")
    assert "first" not in text and "second&lt;b&gt;" in text and "0.500" in text
    assert text.count(START) == text.count(END) == 1


def test_a_page_without_the_part_is_left_as_it_is(tmp_path):
    assert not put_artefacts(tmp_path / "none.html", [])
    (tmp_path / "old.html").write_text("<p>of an older version</p>")
    assert not put_artefacts(tmp_path / "old.html", [Artefact(name="a", run="prefill")])
    assert (tmp_path / "old.html").read_text() == "<p>of an older version</p>"
